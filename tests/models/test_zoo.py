"""Models by name."""

import sys
import urllib.request

import keras
import numpy as np
import pytest

from tests.models.assembled import config_of
from tfpipe.core.errors import ConfigError
from tfpipe.models.assembly import build_network
from tfpipe.models.zoo import MODELS, find_model, import_function

pytestmark = pytest.mark.tensorflow

# The smallest of each family is run; the others take half a minute to build between them.
SMALLEST = ("mlp", "small_cnn", "resnet50", "efficientnet_b0", "efficientnet_v2_b0", "mobilenet_v3_small")
# Millions of parameters with the head of ImageNet's 1,000 classes, as keras.applications' documentation lists them.
PUBLISHED = {
    "resnet50": 25.6, "resnet101": 44.7, "mobilenet_v3_small": 2.6, "mobilenet_v3_large": 5.5,
    "efficientnet_b0": 5.3, "efficientnet_b1": 7.9, "efficientnet_b2": 9.2, "efficientnet_b3": 12.3,
    "efficientnet_b4": 19.5, "efficientnet_b5": 30.6, "efficientnet_b6": 43.3, "efficientnet_b7": 66.7,
    "efficientnet_v2_b0": 7.2, "efficientnet_v2_b1": 8.2, "efficientnet_v2_b2": 10.2, "efficientnet_v2_b3": 14.5,
    "efficientnet_v2_s": 21.6, "efficientnet_v2_m": 54.4, "efficientnet_v2_l": 119.0,
}  # fmt: skip
# Keras's MobileNetV3 has one more layer of 1,024 or 1,280 units in its own head.
OWN_HEAD = ("mobilenet_v3_small", "mobilenet_v3_large")


@pytest.mark.parametrize("name", SMALLEST)
def test_a_model_gives_logits_of_every_class(name):
    network = build_network(config_of(name, (32, 40)), 7)
    rows = np.random.default_rng(0).normal(size=(2, 32, 40, 3)).astype(np.float32)

    logits = np.asarray(network(rows, training=False))

    assert network.name == "network"
    assert network.output_shape == (None, 7)
    assert logits.shape == (2, 7)
    assert np.isfinite(logits).all()
    # Logits, not probabilities: they need not sum to one.
    assert np.abs(logits.sum(axis=1) - 1.0).min() > 1e-4
    # A row's answer does not depend on its neighbours.
    np.testing.assert_allclose(np.asarray(network(rows[:1], training=False)), logits[:1], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_name_stands_for_the_network_that_is_published_under_it(name):
    network = build_network(config_of(name, (32, 32)), 1000)

    published = PUBLISHED[name]
    assert network.output_shape == (None, 1000)
    if name in OWN_HEAD:
        assert 0.4 * published < network.count_params() / 1e6 < published
    else:
        assert network.count_params() / 1e6 == pytest.approx(published, abs=0.12)


def test_every_name_of_keras_applications_exists_there():
    for name, entry in MODELS.items():
        if hasattr(entry.build, "args"):
            assert callable(getattr(keras.applications, entry.build.args[0])), name
    assert set(PUBLISHED) | {"mlp", "small_cnn"} == set(MODELS)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 8), (64, 48)])
@pytest.mark.parametrize("name", ["mlp", "small_cnn"])
def test_small_nets_take_any_size(name, size):
    network = build_network(config_of(name, size), 2)

    assert network(np.zeros((1, *size, 3), np.float32), training=False).shape == (1, 2)


def test_an_image_too_small_for_a_network_is_refused():
    with pytest.raises(ConfigError, match=r"preprocessing.image_size: ResNet50 refuses \[16, 16\]: .*at least 32"):
        build_network(config_of("resnet50", (16, 16)), 2)


def test_networks_that_scale_for_themselves_get_what_they_were_made_for():
    """Mid grey reaches the first convolution as Keras's own preprocess_input gives it, by way of our normalisation."""
    from tfpipe.models.assembly import build_preprocessing, known_normalization

    grey = np.full((1, 32, 32, 3), 200, np.uint8)
    for name in ("efficientnet_b0", "efficientnet_v2_b0", "mobilenet_v3_small"):
        config = config_of(name, (32, 32))
        rows = build_preprocessing(config.preprocessing, known_normalization(config)).rows(grey)
        np.testing.assert_allclose(np.asarray(rows), 200.0, rtol=1e-5)
    config = config_of("resnet50", (32, 32))
    rows = np.asarray(build_preprocessing(config.preprocessing, known_normalization(config)).rows(grey))
    # Caffe's form, which is BGR: the channels are turned round inside the network.
    expected = keras.applications.resnet.preprocess_input(grey.astype(np.float32))
    np.testing.assert_allclose(rows[..., ::-1], expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet5O", "Did you mean 'resnet50'?"),
        ("efficientnet-b0", "Did you mean 'efficientnet_b0'?"),
        ("ResNet50", "Did you mean 'resnet50'?"),
        ("vit", "Known: small_cnn, mlp, resnet50,"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name, hint):
    with pytest.raises(ConfigError) as refused:
        find_model(name)

    assert str(refused.value).startswith(f"model.name: unknown model {name!r}. {hint}")


def test_dropout_stands_before_the_head_when_asked_for():
    network = build_network(config_of("mlp", model={"dropout": 0.25}), 2)

    assert [layer.rate for layer in network.layers if isinstance(layer, keras.layers.Dropout)] == [0.25]
    assert not any(isinstance(layer, keras.layers.Dropout) for layer in build_network(config_of("mlp"), 2).layers)


def test_the_same_seed_gives_the_same_weights():
    networks = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        networks.append(build_network(config_of("small_cnn"), 2))
    first, same, other = ([weight.numpy() for weight in network.weights] for network in networks)

    assert all(np.array_equal(a, b) for a, b in zip(first, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


# ImageNet weights -----------------------------------------------------------------------------------------------------


def test_weights_that_cannot_be_fetched_say_what_to_do(tmp_path, monkeypatch):
    # An address where nobody answers, and a cache that is empty.
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    # urllib reads the proxies once a process; neither may an earlier reading hold here, nor this one afterwards.
    monkeypatch.setattr(urllib.request, "_opener", None)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    with pytest.raises(ConfigError, match=r"(?s)model.weights: expected to fetch the imagenet weights of MobileNetV3"):
        build_network(config_of("mobilenet_v3_small", (32, 32), model={"weights": "imagenet"}), 2)


@pytest.mark.parametrize("name", ["mlp", "small_cnn"])
def test_a_network_without_published_weights_refuses_imagenet(name):
    with pytest.raises(ConfigError, match=rf"model.weights: {name!r} has no imagenet weights"):
        build_network(config_of(name, model={"weights": "imagenet"}), 2)


# A user's own ---------------------------------------------------------------------------------------------------------

OWN = """
import keras

def network(input_shape, num_classes, config):
    inputs = keras.Input(input_shape)
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    return keras.Model(inputs, keras.layers.Dense(num_classes + config.training.seed)(pooled))

def nothing(input_shape, num_classes, config):
    return None

value = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_models_for_test.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return "own_models_for_test"


def test_a_function_of_the_users_is_a_model(own):
    network = build_network(config_of(f"{own}:network"), 4)

    assert network.output_shape == (None, 4)
    assert find_model(f"{own}:network").normalization is None


@pytest.mark.parametrize(
    ("function", "seed", "sentence"),
    [
        ("network", 1, r"to give logits of shape \(None, 4\), received \(None, 5\)"),
        ("nothing", 0, "to return a Keras model, received None"),
        ("value", 0, "expected a function, but .* is int"),
        ("missing", 0, "expected package.module:function that can be imported"),
    ],
)
def test_a_function_that_gives_something_else_is_refused(own, function, seed, sentence):
    with pytest.raises(ConfigError, match=f"model.name: .*{sentence}"):
        build_network(config_of(f"{own}:{function}", training={"seed": seed}), 4)


def test_a_module_of_the_current_folder_can_be_imported(tmp_path, monkeypatch):
    (tmp_path / "module_of_the_folder_for_test.py").write_text("def build(*_):\n    return 1\n")
    monkeypatch.chdir(tmp_path)
    # What import_function adds is taken back.
    monkeypatch.setattr("sys.path", sys.path.copy())

    assert import_function("module_of_the_folder_for_test:build", key="model.name")() == 1


def test_a_module_that_is_not_there_names_the_key():
    with pytest.raises(ConfigError, match=r"model.name: expected package.module:function .* received 'no.such:thing'"):
        find_model("no.such:thing")
