import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.convert.random_models import config_of
from tests.convert.text_networks import CLASSES, graph_of_network, network_of
from tfpipe.convert.finite import assert_finite_weights
from tfpipe.convert.tensor_function import of_keras
from tfpipe.convert.to_onnx import network_to_onnx, tensors_to_onnx
from tfpipe.core.errors import ConversionError
from tfpipe.models.assembly import assemble, build_preprocessing
from tfpipe.models.zoo import Normalization

pytestmark = pytest.mark.tensorflow


class IncompleteBeta(keras.layers.Layer):
    """Uses an operation that ONNX lacks."""

    def call(self, x):
        return tf.math.betainc(tf.abs(x) + 1.0, tf.abs(x) + 2.0, tf.sigmoid(x))


def _parts(build):
    inputs = keras.Input((8, 8, 3), name="rows")
    logits = keras.layers.Dense(3, name="logits")(build(keras.layers.Flatten()(inputs)))
    config = config_of("preprocessing.image_size=[8,8]")
    preprocessing = build_preprocessing(config.preprocessing, Normalization((0.0,), (1.0,)))
    return assemble(preprocessing, keras.Model(inputs, logits, name="network"), ("a", "b", "c"))


def test_an_operation_that_onnx_lacks_is_named_with_its_layer_and_what_to_do():
    with pytest.raises(ConversionError) as failure:
        network_to_onnx(_parts(IncompleteBeta(name="beta_1")), opset=18, metadata={})

    message = str(failure.value)
    assert "received Betainc of layer 'beta_1' (IncompleteBeta)." in message
    assert "Write it with operations of keras.ops that ONNX has" in message


def test_a_layer_inside_another_is_the_one_that_is_named():
    block = keras.Sequential([keras.layers.Dense(4), IncompleteBeta(name="deep_beta")], name="block")

    with pytest.raises(ConversionError, match=r"Betainc of layer 'deep_beta' \(IncompleteBeta\)"):
        network_to_onnx(_parts(block), opset=18, metadata={})


def test_an_operation_that_the_converter_fails_on_is_named_with_what_it_says():
    def transform(x):
        return keras.ops.fft((x[:, :64], x[:, 64:128]))[0]

    with pytest.raises(ConversionError, match=r"(?s)received FFT of layer 'network'.* The converter: .*FFT"):
        network_to_onnx(_parts(transform), opset=18, metadata={})


def test_the_layers_of_a_text_network_are_named_too():
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(50, 8)(ids))
    network = keras.Model(ids, keras.layers.Dense(CLASSES)(IncompleteBeta(name="beta")(x)), name="network")

    with pytest.raises(ConversionError, match="Betainc of layer 'beta'"):
        graph_of_network(network)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused_by_name(value):
    network = network_of("text_cnn")
    bias = network.get_layer("logits").bias
    bias.assign([0.0, value, value])

    with pytest.raises(ConversionError, match=r"weight 'logits/bias': expected finite .* received 2 of 3 that are NaN"):
        assert_finite_weights(network)


def test_a_model_of_named_tensors_names_its_layer_and_its_weight_too():
    inputs = keras.Input((6,), name="readings")
    model = keras.Model(inputs, IncompleteBeta(name="beta")(keras.layers.Dense(4, name="mix")(inputs)))

    with pytest.raises(ConversionError, match="Betainc of layer 'beta'"):
        tensors_to_onnx(of_keras(model), opset=18, metadata={"graph": "tensors"})
    model.get_layer("mix").bias.assign([0.0, np.nan, 0.0, 0.0])
    with pytest.raises(ConversionError, match="weight 'mix/bias'"):
        tensors_to_onnx(of_keras(model), opset=18, metadata={"graph": "tensors"})


def test_finite_weights_of_any_type_pass():
    ids = keras.Input((None,), dtype="int32")
    layers = [keras.layers.Embedding(5, 4, dtype=dtype)(ids) for dtype in ("bfloat16", "float16", "float32")]
    network = keras.Model(ids, keras.layers.Dropout(0.5, seed=1)(layers[2]))

    assert_finite_weights(network)
    assert_finite_weights(keras.Model(ids, layers))
