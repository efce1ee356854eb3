"""A model as a function of named tensors: of a Keras model, or of a signature of a SavedModel."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfpipe.convert.keras_files import all_layers
from tfpipe.core.errors import ConfigError, ConversionError
from tfpipe.core.signature import Array, TensorSpec
from tfpipe.export import save_module

# Names that Keras gives where nobody did; they count what a process has built.
_MADE_UP = re.compile(r"(input_layer|keras_tensor)(_\d+)?")


@dataclass(frozen=True)
class TensorFunction:
    """A model that is no task of ours.

    Attributes:
        inputs: What it takes; axis 0 is called "batch" where it may have any length.
        outputs: What it gives.
        call: Tensors in the order of `inputs` -> tensor by output name; never in training mode.
        reference: The model's own answer: arrays by input name -> arrays by output name.
        held: Whatever owns its variables.
        largest_index: One past the largest whole number that is known to be a valid input.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    call: Callable[..., dict[str, Any]]
    reference: Callable[[Mapping[str, Array]], dict[str, Array]]
    held: Any
    largest_index: int = 2

    @property
    def has_batch(self) -> bool:
        """Whether requests can be put together: every input and output has a row for each."""
        return all(spec.shape[:1] == ("batch",) for spec in (*self.inputs, *self.outputs))


def of_keras(model: keras.Model) -> TensorFunction:
    """The function of a Keras model under float32 policies.

    Args:
        model: Functional or Sequential; see `keras_files.as_functional`.

    Raises:
        ConversionError: It takes or gives strings, or sparse or ragged tensors.
    """
    names = _input_names([_given_name(tensor) for tensor in model.inputs])
    inputs = tuple(_spec(name, tensor) for name, tensor in zip(names, model.inputs, strict=True))
    outputs = tuple(
        _spec(name, tensor) for name, tensor in zip(_output_names(model), model.outputs, strict=True)
    )  # fmt: skip
    _check(inputs, outputs)

    def call(*tensors: Any) -> dict[str, Any]:
        answers = keras.tree.flatten(model(_packed(model, tensors), training=False))
        return _named(outputs, answers)

    def reference(arrays: Mapping[str, Array]) -> dict[str, Array]:
        given = [arrays[spec.name] for spec in inputs]
        # predict(): right whatever layers do with `training`; all rows at once.
        answers = model.predict(_packed(model, given), batch_size=max(len(given[0]), 1), verbose=0)
        return {
            spec.name: np.asarray(answer) for spec, answer in zip(outputs, keras.tree.flatten(answers), strict=True)
        }

    sizes = [layer.input_dim for layer in all_layers(model) if isinstance(layer, keras.layers.Embedding)]
    return TensorFunction(inputs, outputs, call, reference, model, min([10, *sizes]))


def of_saved_model(folder: Path, signature: str) -> TensorFunction:
    """The function of a signature of a SavedModel.

    Args:
        folder: Of the SavedModel.
        signature: Its name, e.g. "serving_default".

    Raises:
        ConfigError: It cannot be loaded, or has no such signature.
        ConversionError: It takes or gives strings, or tensors of any number of axes.
    """
    try:
        loaded = tf.saved_model.load(str(folder))
    # TensorFlow raises whatever it hits.
    except Exception as error:
        line = str(error).strip().partition("\n")[0]
        raise ConfigError(f"--model: {folder}: expected a SavedModel that TensorFlow can load; {line}") from error
    if signature not in loaded.signatures:
        known = ", ".join(loaded.signatures) or "none"
        raise ConfigError(f"signature: expected one that {folder} has ({known}), received {signature!r}.")
    function = loaded.signatures[signature]
    inputs = tuple(_spec(name, spec) for name, spec in function.structured_input_signature[1].items())
    outputs = tuple(_spec(name, spec) for name, spec in function.structured_outputs.items())
    _check(inputs, outputs)

    def call(*tensors: Any) -> dict[str, Any]:
        return dict(function(**{spec.name: tensor for spec, tensor in zip(inputs, tensors, strict=True)}))

    def reference(arrays: Mapping[str, Array]) -> dict[str, Array]:
        answers = function(**{name: tf.constant(array) for name, array in arrays.items()})
        return {name: np.asarray(answer) for name, answer in answers.items()}

    return TensorFunction(inputs, outputs, call, reference, loaded)


def save_function(function: TensorFunction, folder: Path) -> None:
    """Write a SavedModel whose signature `serving_default` has the names of the function.

    Raises:
        ConversionError: The folder cannot be written.
        OSError: The disk is full.
    """
    specs = [
        tf.TensorSpec([None if isinstance(length, str) else length for length in spec.shape], spec.dtype, spec.name)
        for spec in function.inputs
    ]
    module = tf.Module()
    module.held = function.held
    signature = tf.function(function.call, input_signature=specs, autograph=False)
    save_module(module, folder, {"serving_default": signature})


def _packed(model: keras.Model, tensors: Sequence[Any]) -> Any:
    structure = getattr(model, "_inputs_struct", None)
    if structure is not None:
        return keras.tree.pack_sequence_as(structure, list(tensors))
    return tensors[0] if len(tensors) == 1 else list(tensors)


def _named(specs: Sequence[TensorSpec], tensors: Sequence[Any]) -> dict[str, Any]:
    # Each under a name of its own: an input that is given back would otherwise have two.
    return {spec.name: tf.identity(tensor) for spec, tensor in zip(specs, tensors, strict=True)}


def _spec(name: str, tensor: Any) -> TensorSpec:
    dtype = tensor.dtype if isinstance(tensor.dtype, str) else tensor.dtype.name
    if getattr(tensor, "sparse", False) or getattr(tensor, "ragged", False):
        raise ConversionError(f"tensor {name!r}: expected a dense one, received a sparse or ragged one.")
    if tensor.shape is None or getattr(tensor.shape, "rank", 0) is None:
        raise ConversionError(f"tensor {name!r}: expected a known number of axes, received any.")
    lengths = list(tensor.shape)
    return TensorSpec(name, dtype, tuple(_axis(name, place, length) for place, length in enumerate(lengths)))


def _axis(name: str, place: int, length: int | None) -> int | str:
    if length is not None:
        return int(length)
    return "batch" if place == 0 else f"{name}_axis_{place}"


def _check(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    for kind, specs in (("input", inputs), ("output", outputs)):
        for spec in specs:
            if spec.dtype == "string":
                raise ConversionError(
                    f"{kind} {spec.name!r}: expected numbers or truth values, received strings, which no ONNX graph "
                    "of ours takes. Convert the part of the model behind its lookup or text layers."
                )


def _given_name(tensor: Any) -> str:
    layer = tensor._keras_history.operation
    name: str = layer.name if type(layer).__name__ == "InputLayer" else tensor.name
    return name


def _input_names(names: Sequence[str]) -> list[str]:
    """Names for clients: those of the layers, unless Keras made them up."""
    several = len(names) > 1
    chosen = [
        (f"input_{place}" if several else "input") if _MADE_UP.fullmatch(name) else name
        for place, name in enumerate(names)
    ]
    return _different(chosen)


def _output_names(model: keras.Model) -> list[str]:
    structure = getattr(model, "_outputs_struct", None)
    if isinstance(structure, dict) and len(structure) == len(model.outputs):
        # Flattened by sorted keys.
        return _different(sorted(structure))
    return _different([tensor._keras_history.operation.name for tensor in model.outputs])


def _different(names: Sequence[str]) -> list[str]:
    """Names that TensorFlow takes for arguments, no two alike."""
    plain = [re.sub(r"\W", "_", name) for name in names]
    return [
        f"{name}_{plain[:place].count(name)}" if name in plain[:place] else name for place, name in enumerate(plain)
    ]
