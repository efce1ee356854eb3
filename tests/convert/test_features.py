"""The vector before a network's head as a second output."""

import keras
import numpy as np
import onnx
import pytest
from keras import layers

from tests.convert.text_networks import CLASSES, keras_answers, network_of_family, probabilities, rows_of
from tfpipe.convert.features import features_spec, with_features
from tfpipe.convert.to_onnx import text_network_to_onnx
from tfpipe.core.errors import ConfigError
from tfpipe.ort import open_session

pytestmark = pytest.mark.tensorflow

VALUES = np.random.default_rng(0).random((5, 8), np.float32)


def classifier(*behind, head=None):
    rows = keras.Input((8,))
    x = layers.Dense(6, activation="relu", name="embedding")(rows)
    x = (head or layers.Dense(3, name="head"))(x)
    for layer in behind:
        x = layer(x)
    return keras.Model(rows, x)


def inside(network):
    """The network as a layer of another."""
    rows = keras.Input((8,))
    return keras.Model(rows, network(layers.Rescaling(2.0)(rows)))


@pytest.mark.parametrize(
    "network",
    [
        classifier(),
        classifier(layers.Softmax(), layers.Reshape((3,))),
        inside(classifier(layers.Activation("softmax"))),
        keras.Sequential([keras.Input((8,)), layers.Dense(6, name="embedding"), layers.Dropout(0.5), layers.Dense(3)]),
    ],
)
def test_features_and_logits_are_those_of_the_network(network):
    features, logits = with_features(network).predict(VALUES, verbose=0)

    assert features_spec(network).shape == ("batch", 6)
    np.testing.assert_array_equal(logits, network.predict(VALUES, verbose=0))
    nested = network.layers[-1] if isinstance(network.layers[-1], keras.Model) else network
    embedding = keras.Model(nested.inputs, nested.get_layer("embedding").output)
    scale = 2.0 if nested is not network else 1.0
    np.testing.assert_allclose(features, embedding.predict(VALUES * scale, verbose=0), rtol=1e-6)


def test_a_network_without_a_dense_head_is_refused():
    rows = keras.Input((8, 8, 3))
    network = keras.Model(rows, layers.GlobalAveragePooling2D()(layers.Conv2D(3, 3)(rows)))

    with pytest.raises(
        ConfigError, match=r"conversion\.features: expected a network whose last layer is dense .* none"
    ):
        with_features(network)


@pytest.mark.parametrize("family", ["text_cnn", "bert"])
def test_of_texts_they_are_the_pooled_vector_whatever_the_padding(family):
    network = network_of_family(family)
    graph = text_network_to_onnx(
        network, probabilities(), num_outputs=CLASSES, per_token=False, opset=18, metadata={"labels": "[]"},
        features=True,
    )  # fmt: skip
    onnx.checker.check_model(graph, full_check=True)
    session = open_session(graph.SerializeToString(), provider="cpu")

    short, long = (session.run({"input": rows}) for rows in (rows_of(7), rows_of(7, to=24)))

    expected = with_features(network)(rows_of(7), training=False)[0]
    np.testing.assert_allclose(short["features"], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(long["features"], short["features"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(short["probabilities"], keras_answers(network, rows_of(7)), atol=1e-5)
