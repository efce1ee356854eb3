"""The vector before a network's head: a second output, `features`, for search by likeness and models on top."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfpipe.core.certificate import Hop
from tfpipe.core.errors import ConfigError
from tfpipe.core.parity import BOUNDS
from tfpipe.core.signature import Array, TensorSpec
from tfpipe.inference.tensors import tensor_hop
from tfpipe.ort import OnnxModel

FEATURES = "features"
# Behind the head, without weights.
_BEHIND = (keras.layers.Activation, keras.layers.Softmax, keras.layers.Dropout, keras.layers.Reshape)


def with_features(network: keras.Model) -> keras.Model:
    """A network that gives (features, logits): (batch, units) before its last dense layer, and what it gave.

    Raises:
        ConfigError: It has no dense layer as its head, or that takes no vectors.
    """
    features = _before_head(network)
    if features is None or len(features.shape) != 2:
        raise ConfigError(
            "conversion.features: expected a network whose last layer is dense and takes one vector a sample, (batch, "
            f"units), received {'none' if features is None else features.shape}. Convert without conversion.features."
        )
    return keras.Model(network.inputs, [features, network.outputs[0]], name=network.name)


def features_spec(network: keras.Model) -> TensorSpec:
    """The model graph's second output.

    Raises:
        ConfigError: See `with_features`.
    """
    return TensorSpec(FEATURES, "float32", ("batch", int(with_features(network).outputs[0].shape[-1])))


def feature_hops(
    network: keras.Model,
    name: str,
    precision: str,
    model: OnnxModel,
    batch: Callable[[Sequence[Array]], Array],
    rows: Sequence[Array],
) -> Iterator[Hop]:
    """The features of a variant against Keras's; none where it gives none.

    Args:
        network: Rows to logits.
        name: Of the variant.
        precision: Of the variant.
        model: Its session.
        batch: Rows -> the model's input.
        rows: Keras's own.
    """
    if FEATURES not in model.output_names:
        return
    double = with_features(network)
    given = [batch([row]) for row in rows]
    shape = [None] * (given[0].ndim - 1) if given[0].ndim == 2 else given[0].shape[1:]
    keras_features = tf.function(
        lambda tensor: tf.cast(double(tensor, training=False)[0], tf.float32),
        input_signature=[tf.TensorSpec([None, *shape], given[0].dtype)],
        autograph=False,
    )
    expected = [{FEATURES: np.asarray(keras_features(one))} for one in given]
    received = [model.run({"input": one}, [FEATURES]) for one in given]
    title = f"Keras's rows -> features of model.{name}.onnx"
    yield tensor_hop(f"{name}.{FEATURES}", title, received, expected, BOUNDS.get(precision), is_exact=False)


def _before_head(model: keras.Model) -> Any:
    """The symbolic tensor that the last dense layer takes; None where there is none to be seen."""
    try:
        tensor = model.outputs[0]
    except (AttributeError, TypeError):
        return None
    while True:
        layer, node = _maker(tensor)
        if isinstance(layer, keras.layers.Dense):
            return node.input_tensors[0]
        if isinstance(layer, keras.Model):
            inner = _before_head(layer)
            # Where the model inside is called: the same tensor, computed of what it is given here.
            return None if inner is None else keras.Model(layer.inputs, inner)(node.input_tensors)
        if not isinstance(layer, _BEHIND):
            return None
        tensor = node.input_tensors[0]


def _maker(tensor: Any) -> tuple[Any, Any]:
    history = tensor._keras_history
    return history.operation, history.operation._inbound_nodes[history.node_index]
