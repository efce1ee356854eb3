"""Model files that were saved elsewhere: what is read, and what is refused."""

import keras
import numpy as np
import pytest
from keras import layers

from tests.convert.foreign_models import functional
from tfpipe.convert.keras_files import as_functional, in_float32, read_keras_file
from tfpipe.core.errors import ConfigError, ConversionError
from tfpipe.core.signature import TensorSpec

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]


@pytest.fixture(params=["model.keras", "model.h5"])
def with_code(request, tmp_path):
    """A model file with a Lambda layer inside."""
    model = keras.Sequential([keras.Input((3,)), layers.Lambda(lambda x: x * 2, name="twice"), layers.Dense(2)])
    path = tmp_path / request.param
    model.save(path)
    return path


def test_code_in_a_file_is_not_run_unless_it_is_allowed(with_code):
    with pytest.raises(ConfigError, match=r"layer 'twice' is a Lambda, whose Python code would run .* --allow-code"):
        read_keras_file(with_code)

    model = read_keras_file(with_code, allow_code=True)

    assert model.predict(np.ones((1, 3)), verbose=0).shape == (1, 2)


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
@pytest.mark.parametrize("is_functional", [False, True])
def test_a_class_that_nothing_defines_is_named_with_what_to_do(tmp_path, name, is_functional):
    class OwnLayer(layers.Dense):
        pass

    path = tmp_path / name
    rows = keras.Input((3,))
    (keras.Model(rows, OwnLayer(2)(rows)) if is_functional else keras.Sequential([rows, OwnLayer(2)])).save(path)

    with pytest.raises(ConfigError, match=r"expected to know the class 'OwnLayer' .* --import package\.module"):
        read_keras_file(path)


def test_a_module_that_cannot_be_imported_is_refused(tmp_path):
    path = tmp_path / "model.keras"
    functional().save(path)

    with pytest.raises(ConfigError, match=r"--import: expected a module that can be imported, received 'no\.such'"):
        read_keras_file(path, imports=["no.such"])


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
@pytest.mark.parametrize("content", [b"", b"no model", b"PK\x03\x04"])
def test_a_file_that_is_no_model_is_one_sentence(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=r"expected a whole Keras model .* received a file that is none: .*[^.]\.$"):
        read_keras_file(path)


def test_a_file_that_is_cut_short_is_one_sentence(tmp_path):
    path = tmp_path / "model.keras"
    functional().save(path)
    path.write_bytes(path.read_bytes()[:-500])

    with pytest.raises(ConfigError, match="expected a whole Keras model"):
        read_keras_file(path)


def test_weights_that_are_not_finite_are_named(tmp_path):
    model = functional()
    kernel, bias = model.get_layer("embedding").get_weights()
    model.get_layer("embedding").set_weights([np.full_like(kernel, np.nan), bias])
    path = tmp_path / "model.keras"
    model.save(path)

    with pytest.raises(ConversionError, match=r"expected finite weights, but 'embedding/kernel' holds NaN"):
        read_keras_file(path)


def test_a_model_that_never_was_called_says_what_to_give():
    model = keras.Sequential([layers.Dense(2)])

    with pytest.raises(ConfigError, match=r"inputs: expected Sequential to say what it takes"):
        as_functional(model)

    assert as_functional(model, [TensorSpec("x", "float32", ("batch", 3))]).output_shape == (None, 2)


def test_a_model_that_knows_one_batch_size_takes_any():
    model = keras.Sequential([layers.Dense(2)])
    model(np.zeros((1, 3)))

    assert as_functional(model).predict(np.zeros((5, 3)), verbose=0).shape == (5, 2)


def test_half_precision_deep_inside_is_found():
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(2, dtype="mixed_float16", name="half")], name="inner")
    image = keras.Input((3,))
    model = keras.Model(image, inner(image))

    rebuilt, policy = in_float32(model)

    assert policy == "mixed_float16"
    values = np.random.default_rng(0).random((4, 3), np.float32)
    np.testing.assert_allclose(rebuilt.predict(values, verbose=0), model.predict(values, verbose=0), atol=5e-3)
    assert rebuilt.get_layer("inner").get_layer("half").compute_dtype == "float32"
