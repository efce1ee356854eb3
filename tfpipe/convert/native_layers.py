"""Keras layers of text networks, traced as the operators that ONNX has for them.

Left alone, Keras expresses them in TensorFlow's operators, and the converter those in ONNX's: a BERT comes out with
three times the nodes, its embeddings stored more often than once, and nothing that ONNX Runtime recognises and fuses.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import keras_hub  # type: ignore[import-untyped]
import numpy as np
import tensorflow as tf

from tfpipe.convert.resize import Handler

# What is added to the scores of padding. BERT's own constant, which float16 can hold; exp(-1e4) is 0 in float32.
# Source: Devlin et al. 2018, arXiv:1810.04805, the authors' code, modeling.py, attention_layer.
_MASKED = -1e4


@contextlib.contextmanager
def native_layers() -> Iterator[None]:
    """Within, embeddings, dense layers, LayerNormalization and attention are traced for `HANDLERS` to convert.

    Keras offers no way to call a layer inside another otherwise than it is written, so their methods are exchanged.
    """
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in _METHODS]
    for owner, name, method in _METHODS:
        setattr(owner, name, method)
    try:
        yield
    finally:
        for owner, name, method in before:
            setattr(owner, name, method)


def onnx_operator(op_type: str, inputs: Sequence[Any], shape: Sequence[int | None], **attributes: Any) -> Any:
    """One ONNX operator in a TensorFlow trace.

    It cannot be run there: a PyFunc without a function carries it to the converter.

    Args:
        op_type: Of ONNX's own domain.
        inputs: Tensors.
        shape: Of the result, float32.
        attributes: ONNX's.
    """
    token = json.dumps({"op_type": op_type, "attributes": attributes})
    result = tf.raw_ops.PyFunc(input=[tf.convert_to_tensor(value) for value in inputs], token=token, Tout=[tf.float32])
    return tf.ensure_shape(result[0], shape)


def _to_onnx_operator(graph: Any, node: Any, name: str, arguments: Sequence[Any]) -> None:
    operator = json.loads(node.get_attr_str("token"))
    inputs, outputs = node.input, node.output
    shapes, dtypes = node.output_shapes, node.output_dtypes
    graph.remove_node(node.name)
    graph.make_node(
        operator["op_type"], inputs, attr=operator["attributes"], name=node.name,
        outputs=outputs, shapes=shapes, dtypes=dtypes,
    )  # fmt: skip


HANDLERS: Mapping[str, Handler] = {"PyFunc": _to_onnx_operator}


def _embedding(layer: Any, ids: Any) -> Any:
    # Keras lets an index be negative, and counts it from the end; an id is none.
    return tf.gather(tf.convert_to_tensor(layer.embeddings), tf.cast(ids, tf.int32))


def _position_embedding(layer: Any, embedded: Any, start_index: int = 0, positions: Any = None) -> Any:
    if positions is not None or start_index != 0:
        return _KERAS_POSITIONS(layer, embedded, start_index=start_index, positions=positions)
    table, first = tf.convert_to_tensor(layer.position_embeddings), np.zeros(1, np.int64)
    length = tf.shape(embedded, out_type=tf.int64)[1:2]
    # Of one row: added to each.
    rows = onnx_operator("Slice", [table, first, length, first], (embedded.shape[1], table.shape[1]))
    return tf.expand_dims(rows, 0)


def _layer_normalization(layer: Any, x: Any) -> Any:
    axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
    last = axis in (-1, len(x.shape) - 1) and (isinstance(layer.axis, int) or len(layer.axis) == 1)
    if not last or layer.rms_scaling or layer.gamma is None:
        return _KERAS_NORMALIZATION(layer, x)
    inputs = [x, layer.gamma] if layer.beta is None else [x, layer.gamma, layer.beta]
    return onnx_operator("LayerNormalization", inputs, x.shape, axis=-1, epsilon=float(layer.epsilon))


def _dense(layer: Any, x: Any, training: bool | None = None) -> Any:
    y = tf.matmul(x, tf.convert_to_tensor(layer.kernel))
    return _activated(layer, y if layer.bias is None else y + tf.convert_to_tensor(layer.bias))


def _einsum_dense(layer: Any, x: Any, training: bool | None = None) -> Any:
    """One product of matrices where the equation contracts the last axes of `x` with the first of the kernel."""
    left, result = layer.equation.replace(" ", "").split("->")
    axes, kernel_axes = left.split(",")
    contracted = [axis for axis in axes if axis in kernel_axes]
    num = len(contracted)
    if list(axes[-num:]) != contracted or kernel_axes[:num] != axes[-num:] or result != axes[:-num] + kernel_axes[num:]:
        return _KERAS_EINSUM(layer, x)
    kernel = tf.convert_to_tensor(layer.kernel)
    into, out = math.prod(kernel.shape[:num]), kernel.shape[num:]
    x = _reshaped(x, len(axes) - num, [into])
    y = tf.matmul(x, tf.reshape(kernel, (into, -1)))
    if layer.bias is not None:
        y = y + tf.reshape(tf.convert_to_tensor(layer.bias), (-1,))
    y = _reshaped(y, len(axes) - num, list(out))
    return _activated(layer, y)


def _activated(layer: Any, y: Any) -> Any:
    if layer.activation is keras.activations.gelu:
        return _gelu(y)
    return y if layer.activation is None else layer.activation(y)


def _gelu(x: Any) -> Any:
    """In the operators and the order that ONNX Runtime fuses, which TensorFlow's optimiser would change."""
    scaled = onnx_operator("Div", [x, np.float32(np.sqrt(2))], x.shape)
    error = onnx_operator("Add", [onnx_operator("Erf", [scaled], x.shape), np.float32(1)], x.shape)
    return onnx_operator("Mul", [onnx_operator("Mul", [x, error], x.shape), np.float32(0.5)], x.shape)


def _reshaped(x: Any, kept: int, lengths: Sequence[int]) -> Any:
    """The first `kept` axes, then these."""
    if x.shape[kept:] == tuple(lengths):
        return x
    # A 0 keeps an axis, where TensorFlow would have the shape computed.
    shape = np.array([0] * kept + list(lengths), np.int64)
    return onnx_operator("Reshape", [x, shape], [*x.shape[:kept], *lengths])


def _attention(
    layer: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any = None,
    training: bool | None = None,
    return_attention_scores: bool = False,
    use_causal_mask: bool = False,
) -> Any:
    """Attention over (batch, sequence, heads, features), the mask added rather than chosen by."""
    if return_attention_scores or use_causal_mask or len(query.shape) != 4:
        return _KERAS_ATTENTION(
            layer, query, key, value, attention_mask, training, return_attention_scores, use_causal_mask
        )
    scores = tf.matmul(tf.transpose(query, (0, 2, 1, 3)), tf.transpose(key, (0, 2, 3, 1)))
    scores = scores / np.float32(1 / layer._inverse_sqrt_key_dim)
    if attention_mask is not None:
        mask = tf.cast(attention_mask, scores.dtype)
        while len(mask.shape) < 4:
            mask = tf.expand_dims(mask, 1)
        scores = scores + (1.0 - mask) * _MASKED
    mixed = tf.matmul(tf.nn.softmax(scores), tf.transpose(value, (0, 2, 1, 3)))
    return tf.transpose(mixed, (0, 2, 1, 3)), None


_KERAS_POSITIONS = keras_hub.layers.PositionEmbedding.call
_KERAS_NORMALIZATION = keras.layers.LayerNormalization.call
_KERAS_EINSUM = keras.layers.EinsumDense.call
_KERAS_ATTENTION = keras.layers.MultiHeadAttention._compute_attention
_METHODS = (
    (keras.layers.Embedding, "call", _embedding),
    (keras_hub.layers.PositionEmbedding, "call", _position_embedding),
    (keras.layers.LayerNormalization, "call", _layer_normalization),
    (keras.layers.Dense, "call", _dense),
    (keras.layers.EinsumDense, "call", _einsum_dense),
    (keras.layers.MultiHeadAttention, "_compute_attention", _attention),
)
