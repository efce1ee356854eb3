"""Keras -> ONNX: the preprocessing graph and the model graph of a trained model, with names and axes of our own."""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import onnx
import tensorflow as tf
from tf2onnx import optimizer, tf_loader
from tf2onnx.optimizer.transpose_optimizer import TransposeOptimizer
from tf2onnx.tfonnx import process_tf_graph

import tfpipe
from tfpipe.convert import native_layers, resize, signs
from tfpipe.convert.features import FEATURES, features_spec, with_features
from tfpipe.convert.finite import assert_finite_weights
from tfpipe.convert.keras_files import all_layers
from tfpipe.convert.onnx_file import all_nodes, open_graph
from tfpipe.convert.rewrites.axes import NameAxes
from tfpipe.convert.rewrites.opset import NEWEST_WRITTEN
from tfpipe.convert.tensor_function import TensorFunction
from tfpipe.convert.unsupported import Operation, explain_failure, explain_operations
from tfpipe.core.errors import BundleError, ConversionError
from tfpipe.core.signature import TensorSpec
from tfpipe.models.assembly import ImageParts

_NOISE = (b"before absl::InitializeLog()", b"Number of eligible GPUs")
_DOCUMENTATION = {
    "preprocessing": "One decoded image, upright 8-bit RGB of any size, to one row of the model's input.",
    "model": "A batch of preprocessed rows to class probabilities; the metadata `labels` names the classes in order.",
    "tensors": "Named tensors to named tensors.",
    "text model": "A batch of rows of token ids, padded at their end, to probabilities of the metadata's `labels`.",
}

IMAGE = TensorSpec("image", "uint8", ("height", "width", 3))
TOKENS = TensorSpec("input", "int32", ("batch", "sequence"))


def rows_spec(parts: ImageParts) -> TensorSpec:
    """The model graph's input: a batch of preprocessed rows."""
    layer = parts.preprocessing.resize
    return TensorSpec("input", "float32", ("batch", layer.height, layer.width, 3))


def probabilities_spec(parts: ImageParts) -> TensorSpec:
    """The model graph's output."""
    return TensorSpec("probabilities", "float32", ("batch", len(parts.labels)))


def preprocessing_to_onnx(parts: ImageParts, *, opset: int, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """The graph from one decoded image to one row: `image` uint8 (height, width, 3) -> `input` float32 (h, w, 3).

    Args:
        parts: The trained model.
        opset: ONNX operator set, from 17 on, written as 18 at most; antialiased resizing needs 18.
        metadata: Written into the file.

    Raises:
        ConversionError: It cannot be converted, or ONNX Runtime cannot load the result.
    """
    rows = rows_spec(parts)

    def row(image: tf.Tensor) -> dict[str, tf.Tensor]:
        # By indices they would be slices, and the whole image be copied for each.
        return {rows.name: tf.squeeze(parts.preprocessing.rows(tf.expand_dims(image, 0)), 0)}

    return _to_onnx(
        row,
        inputs=(IMAGE,),
        outputs=(TensorSpec(rows.name, rows.dtype, rows.shape[1:]),),
        opset=opset,
        handlers=resize.PREPROCESSING,
        metadata={**metadata, "graph": "preprocessing"},
        layers=all_layers(parts.model),
    )


def network_to_onnx(
    parts: ImageParts, *, opset: int, metadata: Mapping[str, str], features: bool = False
) -> onnx.ModelProto:
    """The graph from rows to answers: `input` float32 (batch, h, w, 3) -> `probabilities` float32 (batch, classes).

    Args:
        parts: The trained model, under float32 policies.
        opset: ONNX operator set, from 17 on; written as 18 at most, see `ConvertOpset`.
        metadata: Written into the file.
        features: Whether it gives `features` too; see `tfpipe.convert.features`.

    Raises:
        ConfigError: It has no features.
        ConversionError: It cannot be converted, or ONNX Runtime cannot load the result.
    """
    probabilities = parts.model.get_layer("probabilities")
    with native_layers.native_layers() as weights:
        return _to_onnx(
            _answers(parts.network, probabilities, features),
            inputs=(rows_spec(parts),),
            outputs=(probabilities_spec(parts), *([features_spec(parts.network)] if features else [])),
            opset=opset,
            handlers={**resize.ANTIALIASED, **native_layers.HANDLERS},
            metadata={**metadata, "graph": "model"},
            complete=weights.store,
            layers=all_layers(parts.network),
        )


def text_network_to_onnx(
    network: keras.Model,
    probabilities_layer: keras.layers.Layer,
    *,
    num_outputs: int,
    per_token: bool,
    opset: int,
    metadata: Mapping[str, str],
    features: bool = False,
) -> onnx.ModelProto:
    """The graph from token ids to answers: `input` int32 (batch, sequence) -> `probabilities` float32.

    Args:
        network: From token ids to logits; float32 policies.
        probabilities_layer: From logits to probabilities.
        num_outputs: Classes, or tags.
        per_token: Whether each token is answered, (batch, sequence, num_outputs), or each row, (batch, num_outputs).
        opset: ONNX operator set, from 17 on; written as 18 at most, see `ConvertOpset`.
        metadata: Written into the file.
        features: Whether it gives `features` too; not of tokens.

    Raises:
        ConversionError: It cannot be converted, or ONNX Runtime cannot load the result.
    """
    shape = ("batch", "sequence", num_outputs) if per_token else ("batch", num_outputs)
    with native_layers.native_layers() as weights:
        return _to_onnx(
            _answers(network, probabilities_layer, features),
            inputs=(TOKENS,),
            outputs=(TensorSpec("probabilities", "float32", shape), *([features_spec(network)] if features else [])),
            opset=opset,
            handlers=native_layers.HANDLERS,
            metadata={**metadata, "graph": "text model"},
            complete=weights.store,
            layers=all_layers(network),
        )


def _answers(network: keras.Model, probabilities: keras.layers.Layer, features: bool) -> Callable[..., dict[str, Any]]:
    # training=False: never left to a default, as training mode leaks through some layers of Keras 3.
    if not features:
        return lambda input: {"probabilities": probabilities(network(input, training=False))}
    double = with_features(network)

    def both(input: Any) -> dict[str, Any]:
        vectors, logits = double(input, training=False)
        return {"probabilities": probabilities(logits), FEATURES: tf.cast(vectors, tf.float32)}

    return both


def tensors_to_onnx(function: TensorFunction, *, opset: int, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """The graph of a function of named tensors.

    Args:
        function: The model, under float32 policies.
        opset: ONNX operator set, from 17 on; written as 18 at most, see `ConvertOpset`.
        metadata: Written into the file.

    Raises:
        ConversionError: It cannot be converted or loaded by ONNX Runtime, or has weights that are no numbers.
    """
    is_keras = isinstance(function.held, keras.Model)
    if is_keras:
        assert_finite_weights(function.held)
    with native_layers.native_layers() as weights:
        return _to_onnx(
            function.call,
            inputs=function.inputs,
            outputs=function.outputs,
            opset=opset,
            handlers={**resize.EXACT, **signs.HANDLERS, **native_layers.HANDLERS},
            metadata=metadata,
            complete=weights.store,
            layers=all_layers(function.held) if is_keras else (),
        )


def _to_onnx(
    function: Callable[..., dict[str, Any]],
    *,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    opset: int,
    handlers: Mapping[str, resize.Handler],
    metadata: Mapping[str, str],
    complete: Callable[[onnx.ModelProto], None] = lambda model: None,
    layers: Sequence[keras.layers.Layer] = (),
) -> onnx.ModelProto:
    """Convert a function of tensors that returns a dict; the acceptance test is that ONNX Runtime loads the result.

    `layers` are those that the function calls, for errors.
    """
    concrete = _trace(function, inputs)
    captured = {placeholder.name for _, placeholder in concrete.graph.captures}
    # Captured constants (a Normalization's mean) stay constants: tf2onnx's own entry points make inputs of them.
    given = [tensor.name for tensor in concrete.inputs if tensor.name not in captured]
    names = {name: spec.name for name, spec in zip(given, inputs, strict=True)}
    names |= {tensor.name: name for name, tensor in concrete.structured_outputs.items()}
    try:
        with _quiet(), tf.device("/cpu:0"):
            frozen = tf_loader.from_function(concrete, given, [tensor.name for tensor in concrete.outputs])
            written = min(opset, NEWEST_WRITTEN)
            model = _convert(frozen, names, given, [t.name for t in concrete.outputs], written, handlers)
    # Our own handlers say what was expected; the rest of tf2onnx raises whatever it hits.
    except ConversionError:
        raise
    except Exception as error:
        raise ConversionError(explain_failure(error, _operations(concrete.graph), layers)) from error
    complete(model)
    NameAxes((*inputs, *outputs))(model)
    _describe(model, metadata)
    _check(model, layers)
    return model


def _trace(function: Callable[..., dict[str, Any]], inputs: Sequence[TensorSpec]) -> Any:
    signature = [
        tf.TensorSpec([None if isinstance(length, str) else length for length in spec.shape], spec.dtype, spec.name)
        for spec in inputs
    ]
    # Keras compiles grouped convolutions with XLA, in functions that cannot be inlined and so not converted. Functions
    # that run eagerly are traced through instead.
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        return tf.function(function, input_signature=signature, autograph=False).get_concrete_function()
    finally:
        tf.config.run_functions_eagerly(before)


def _convert(
    frozen: Any,
    names: Mapping[str, str],
    inputs: Sequence[str],
    outputs: Sequence[str],
    opset: int,
    handlers: Mapping[str, resize.Handler],
) -> onnx.ModelProto:
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(frozen, name="")
        converted = process_tf_graph(
            graph,
            continue_on_error=False,
            opset=opset,
            custom_op_handlers={op_type: (handler, []) for op_type, handler in handlers.items()},
            input_names=list(inputs),
            output_names=list(outputs),
            tensors_to_rename=dict(names),
        )
        # Its entry points catch errors of a pass, and ship what is left.
        passes = {**optimizer._get_optimizers(), "optimize_transpose": _TransposePass}
        light = {name: partial(_LightPass, make) for name, make in passes.items()}
        return optimizer.optimize_graph(converted, catch_errors=False, optimizers=light).make_model("tfpipe")


class _LightPass:
    """A pass of tf2onnx that does not write every weight into protocol buffers when it is done.

    Making the model does that, once. After each of its passes tf2onnx does it too, and protocol buffers give no memory
    back: some forty times the weights of a model.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._pass = make()

    @property
    def graph_been_opt(self) -> bool:
        return bool(self._pass.graph_been_opt)

    def optimize(self, graph: Any, iteration: int) -> Any:
        self._pass.opt_iteration = iteration
        graph = self._pass._optimize(graph)
        graph.delete_unused_nodes(graph.outputs)
        return graph


class _TransposePass(TransposeOptimizer):
    def _add_handler(self, transpose: Any, node: Any) -> Any:
        # tf2onnx takes any constant that is added to a convolution for its bias, and fails on a scalar (hard swish).
        if node.inputs[1].is_const() and not node.inputs[1].get_tensor_value(as_list=False).shape:
            return self._handle_node_having_branches(transpose, node)
        return super()._add_handler(transpose, node)


def _describe(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    model.producer_name, model.producer_version = "tfpipe", tfpipe.__version__
    model.graph.name, model.graph.doc_string = metadata["graph"], ""
    model.doc_string = _DOCUMENTATION[metadata["graph"]]
    onnx.helper.set_model_props(model, dict(metadata))


def _operations(graph: Any) -> list[Operation]:
    return [Operation(operation.name, operation.type) for operation in graph.get_operations()]


def _check(model: onnx.ModelProto, layers: Sequence[keras.layers.Layer]) -> None:
    """Refuse operators that ONNX does not know, which tf2onnx leaves in the file, and files that do not load."""
    unknown = [Operation(node.name, node.op_type) for node in all_nodes(model.graph) if not _is_known(node)]
    if unknown:
        raise ConversionError(explain_operations(unknown, layers))
    try:
        open_graph(model)
    except BundleError as error:
        raise ConversionError(f"model: the converted graph does not load: {error}") from error


def _is_known(node: onnx.NodeProto) -> bool:
    return bool(onnx.defs.has(node.op_type, node.domain))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the news of tf2onnx and of TensorFlow's graph optimiser from the user; anything else still comes through."""
    loggers = [logging.getLogger(name) for name in ("tf2onnx", "tf2onnx.tfonnx", "tf2onnx.optimizer")]
    before = [entry.level for entry in loggers]
    for entry in loggers:
        entry.setLevel(logging.CRITICAL)
    try:
        with _filtered_standard_error():
            yield
    finally:
        for entry, level in zip(loggers, before, strict=True):
            entry.setLevel(level)


@contextlib.contextmanager
def _filtered_standard_error() -> Iterator[None]:
    """Drop what the optimiser writes from C++, past every log level; the rest follows when it is done."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            captured.seek(0)
            for line in captured:
                if not any(noise in line for noise in _NOISE):
                    os.write(2, line)
