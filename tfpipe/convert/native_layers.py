"""Keras layers of text networks, traced as the operators that ONNX has for them.

Left alone, Keras expresses them in TensorFlow's operators, and the converter those in ONNX's: a BERT comes out with
three times the nodes, its embeddings stored more often than once, and nothing that ONNX Runtime recognises and fuses.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import keras_hub  # type: ignore[import-untyped]
import numpy as np
import onnx
import tensorflow as tf

from tfpipe.convert.resize import Handler

# What is added to the scores of padding. BERT's own constant, which float16 can hold; exp(-1e4) is 0 in float32.
# Source: Devlin et al. 2018, arXiv:1810.04805, the authors' code, modeling.py, attention_layer.
_MASKED = -1e4
_STAND_IN = "StandIn"


class Weights:
    """Weights that stay out of the trace, each with a stand-in there.

    The converter copies all numbers of a graph at each of its steps, which takes 19 GB of memory for BERT-base.
    """

    def __init__(self) -> None:
        self._variables: dict[str, tuple[Any, tuple[int, ...]]] = {}

    def stand_in(self, variable: Any, shape: Sequence[int] | None = None) -> Any:
        """A tensor of the trace for a variable, or for its numbers in another shape."""
        wanted = (variable, tuple(variable.shape if shape is None else shape))
        if not isinstance(variable, keras.Variable):
            # Computed from several, as LoRA does.
            return tf.reshape(variable, wanted[1])
        name, number = variable.path, 1
        while name in self._variables and not _same(self._variables[name], wanted):
            number += 1
            name = f"{variable.path}_{number}"
        self._variables[name] = wanted
        return onnx_operator(_STAND_IN, [], wanted[1], weight=name)

    def store(self, model: onnx.ModelProto) -> None:
        """Put the weights in the place of their stand-ins."""
        graph = model.graph
        names = {
            node.output[0]: onnx.helper.get_node_attr_value(node, "weight").decode()
            for node in graph.node
            if node.op_type == _STAND_IN
        }
        nodes = [node for node in graph.node if node.op_type != _STAND_IN]
        del graph.node[:]
        graph.node.extend(nodes)
        for node in graph.node:
            for position, given in enumerate(node.input):
                node.input[position] = names.get(given, given)
        for name in sorted(set(names.values())):
            variable, shape = self._variables[name]
            value = keras.ops.convert_to_numpy(variable).reshape(shape)
            graph.initializer.append(onnx.numpy_helper.from_array(value, name))


def _same(stored: tuple[Any, Any], wanted: tuple[Any, Any]) -> bool:
    return stored[0] is wanted[0] and stored[1] == wanted[1]


@contextlib.contextmanager
def native_layers() -> Iterator[Weights]:
    """Within, embeddings, dense layers, LayerNormalization and attention are traced for `HANDLERS` to convert.

    Keras offers no way to call a layer inside another otherwise than it is written, so their methods are exchanged.

    Yields:
        What is to be stored in the converted model.
    """
    weights = Weights()
    layers = _NativeLayers(weights)
    exchanged: tuple[tuple[type, str, Callable[..., Any]], ...] = (
        (keras.layers.Embedding, "call", layers.embedding),
        (keras_hub.layers.PositionEmbedding, "call", layers.position_embedding),
        (keras.layers.LayerNormalization, "call", layers.layer_normalization),
        (keras.layers.Dense, "call", layers.dense),
        (keras.layers.EinsumDense, "call", layers.einsum_dense),
        (keras.layers.MultiHeadAttention, "_compute_attention", layers.attention),
    )
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in exchanged]
    for owner, name, function in exchanged:
        setattr(owner, name, _as_method(function))
    try:
        yield weights
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


def _as_method(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda layer, *args, **kwargs: function(layer, *args, **kwargs)


class _NativeLayers:
    """Layers' methods, the layer as their first argument."""

    def __init__(self, weights: Weights) -> None:
        self._stand_in = weights.stand_in
        self._keras_embedding = keras.layers.Embedding.call
        self._keras_dense = keras.layers.Dense.call
        self._keras_positions = keras_hub.layers.PositionEmbedding.call
        self._keras_normalization = keras.layers.LayerNormalization.call
        self._keras_einsum = keras.layers.EinsumDense.call
        self._keras_attention = keras.layers.MultiHeadAttention._compute_attention

    def embedding(self, layer: Any, ids: Any) -> Any:
        if _is_quantized(layer):
            return self._keras_embedding(layer, ids)
        # Keras lets an index be negative, and counts it from the end; an id is none.
        return tf.gather(self._stand_in(layer.embeddings), tf.cast(ids, tf.int32))

    def position_embedding(self, layer: Any, embedded: Any, start_index: int = 0, positions: Any = None) -> Any:
        if positions is not None or start_index != 0:
            return self._keras_positions(layer, embedded, start_index=start_index, positions=positions)
        table, first = self._stand_in(layer.position_embeddings), np.zeros(1, np.int64)
        length = tf.shape(embedded, out_type=tf.int64)[1:2]
        # Of one row: added to each.
        rows = onnx_operator("Slice", [table, first, length, first], (embedded.shape[1], table.shape[1]))
        return tf.expand_dims(rows, 0)

    def layer_normalization(self, layer: Any, x: Any) -> Any:
        axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
        if axes not in ([-1], [len(x.shape) - 1]) or layer.rms_scaling or layer.gamma is None:
            return self._keras_normalization(layer, x)
        weights = [self._stand_in(weight) for weight in (layer.gamma, layer.beta) if weight is not None]
        return onnx_operator("LayerNormalization", [x, *weights], x.shape, axis=-1, epsilon=float(layer.epsilon))

    def dense(self, layer: Any, x: Any, training: bool | None = None) -> Any:
        if _is_quantized(layer):
            return self._keras_dense(layer, x, training=training)
        y = tf.matmul(x, self._stand_in(layer.kernel))
        if layer.bias is not None:
            y = y + self._stand_in(layer.bias)
        return _activated(layer, y)

    def einsum_dense(self, layer: Any, x: Any, training: bool | None = None) -> Any:
        """One product of matrices where the equation contracts the last axes of `x` with the first of the kernel."""
        left, result = layer.equation.replace(" ", "").split("->")
        axes, kernel_axes = left.split(",")
        num = len([axis for axis in axes if axis in kernel_axes])
        kept = len(axes) - num
        if _is_quantized(layer) or axes[kept:] != kernel_axes[:num] or result != axes[:kept] + kernel_axes[num:]:
            return self._keras_einsum(layer, x)
        into, out = math.prod(layer.kernel.shape[:num]), layer.kernel.shape[num:]
        kernel = self._stand_in(layer.kernel, (into, math.prod(out)))
        y = tf.matmul(_reshaped(x, kept, [into]), kernel)
        if layer.bias is not None:
            y = y + self._stand_in(layer.bias, (math.prod(out),))
        return _activated(layer, _reshaped(y, kept, list(out)))

    def attention(
        self,
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
            return self._keras_attention(
                layer, query, key, value, attention_mask, training, return_attention_scores, use_causal_mask
            )
        scores = tf.matmul(tf.transpose(query, (0, 2, 1, 3)), tf.transpose(key, (0, 2, 3, 1)))
        scores = scores * np.float32(layer._inverse_sqrt_key_dim)
        if attention_mask is not None:
            mask = tf.cast(attention_mask, scores.dtype)
            while len(mask.shape) < 4:
                mask = tf.expand_dims(mask, 1)
            scores = scores + (1.0 - mask) * _MASKED
        mixed = tf.matmul(tf.nn.softmax(scores), tf.transpose(value, (0, 2, 1, 3)))
        return tf.transpose(mixed, (0, 2, 1, 3)), None


def _is_quantized(layer: Any) -> bool:
    """Whether Keras has stored the layer's weights as whole numbers."""
    return getattr(layer, "quantization_mode", None) is not None


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
