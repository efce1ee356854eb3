"""Reading Keras models that were saved elsewhere: nothing in a file is run unless it was asked for."""

import contextlib
import importlib
import inspect
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import keras
import numpy as np

from tfpipe.core.errors import ConfigError, ConversionError
from tfpipe.core.signature import TensorSpec
from tfpipe.export import under_float32

# What Keras writes where a layer holds a function's byte code.
_CODE = "__lambda__"
# What a model that takes one structure of tensors calls its shape.
_ONE_INPUT = "input_shape"
_HALF = ("float16", "bfloat16", "mixed_float16", "mixed_bfloat16")


def read_keras_file(path: Path, *, allow_code: bool = False, imports: Sequence[str] = ()) -> keras.Model:
    """Read a .keras or .h5 file of a whole model.

    Args:
        path: The file.
        allow_code: Run the Python code that Lambda layers hold; only for files from a source that is trusted.
        imports: Modules that define classes of the model, "package.module".

    Raises:
        ConfigError: A module that cannot be imported; no model file; code inside, or classes that are not known.
        ConversionError: It holds weights that are NaN or infinite.
    """
    classes = _classes_of(imports)
    config = _model_config(path)
    code = list(_layers_with_code(config))
    if code and not allow_code:
        raise ConfigError(
            f"{path}: expected a model without code, but {_layers(code)} Lambda, whose Python code would run on this "
            "machine. Give --allow-code if you trust the file, or write the layer as a class and give --import MODULE."
        )
    if "keras_hub" in json.dumps(config):
        importlib.import_module("keras_hub")
    try:
        model = keras.saving.load_model(path, custom_objects=classes, compile=False, safe_mode=not allow_code)
    # Keras raises whatever it hits, and from custom classes come errors of their own.
    except Exception as error:
        raise ConfigError(_refusal(path, config, error)) from error
    if not isinstance(model, keras.Model):
        raise ConfigError(f"{path}: expected a Keras model, received {type(model).__name__}.")
    _check_weights(model, path)
    return model


def in_float32(model: keras.Model) -> tuple[keras.Model, str]:
    """The model under float32 policies, and the policy that it was trained with.

    Raises:
        ConversionError: It cannot be rebuilt from its own configuration.
    """
    policies = {layer.dtype_policy.name for layer in all_layers(model)} & set(_HALF)
    if not policies:
        return model, "float32"
    try:
        return under_float32(model), policies.pop()
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ConversionError(
            f"model: trained under {policies.pop()}, expected a class with get_config to rebuild it in float32; {error}"
        ) from error


def as_functional(model: keras.Model, specs: Sequence[TensorSpec] = ()) -> keras.Model:
    """A model that says what it takes and gives, with any number of rows to a batch.

    Args:
        model: Of any kind: a class of one's own knows no inputs, a Sequential may know one batch size only.
        specs: What it takes, where it does not say so itself; several are given as a dict by name.

    Raises:
        ConfigError: It does not say what it takes, and `specs` are empty.
        ConversionError: It cannot be called on such inputs.
    """
    known = getattr(model, "inputs", None)
    if known and not specs and all(tensor.shape and tensor.shape[0] is None for tensor in known):
        return model
    given = _inputs(specs) if specs else _built_inputs(model)
    tensors = keras.tree.flatten(given)
    try:
        is_by_name = isinstance(given, dict) and not specs and _ONE_INPUT not in model.get_build_config()
        return keras.Model(tensors, model(**given) if is_by_name else model(given), name=model.name)
    # Whatever the code of a class raises.
    except Exception as error:
        told = ", ".join(f"{tensor.name} {tensor.dtype} {tensor.shape}" for tensor in tensors)
        raise ConversionError(
            f"model: expected {type(model).__name__} to answer inputs {told}; {_first_line(error)}"
        ) from error


def _inputs(specs: Sequence[TensorSpec]) -> Any:
    lengths = {spec.name: [None if isinstance(length, str) else length for length in spec.shape[1:]] for spec in specs}
    tensors = {spec.name: keras.Input(lengths[spec.name], dtype=spec.dtype, name=spec.name) for spec in specs}
    return tensors if len(tensors) > 1 else next(iter(tensors.values()))


def _built_inputs(model: keras.Model) -> Any:
    """Inputs of the shapes that a model was built with."""
    known = getattr(model, "inputs", None)
    if known:
        given = [keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=tensor.name) for tensor in known]
        return given if len(given) > 1 else given[0]
    shapes = model.get_build_config() or {}
    if not shapes:
        raise ConfigError(
            f"inputs: expected {type(model).__name__} to say what it takes, but it was saved without having been "
            "called. Say it: inputs: [{name: x, dtype: float32, shape: [batch, 28, 28, 1]}]."
        )
    if set(shapes) == {_ONE_INPUT}:
        return _inputs_of(shapes[_ONE_INPUT], "input")
    return {key.removesuffix("_shape"): _inputs_of(shape, key.removesuffix("_shape")) for key, shape in shapes.items()}


def _inputs_of(shape: Any, name: str) -> Any:
    if isinstance(shape, dict):
        return {key: _inputs_of(value, key) for key, value in shape.items()}
    if any(isinstance(length, list | tuple | dict) for length in shape):
        return [_inputs_of(value, f"{name}_{index}") for index, value in enumerate(shape)]
    return keras.Input(tuple(shape)[1:], dtype="float32", name=name)


def all_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The model and every layer in it, those of models inside it too."""
    return list(model._flatten_layers())


@contextlib.contextmanager
def _as_config_error(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"--model: {path}: expected a whole Keras model (.keras, or .h5 with its configuration), received a file "
            f"that is none: {_first_line(error)}"
        ) from error


def _model_config(path: Path) -> Any:
    """The configuration in a model file, as JSON."""
    with _as_config_error(path):
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                return json.loads(archive.read("config.json"))
        with h5py.File(io.BytesIO(path.read_bytes()), "r") as file:
            return json.loads(file.attrs["model_config"])


def _layers_with_code(config: Any, layer: str = "?") -> Iterator[str]:
    """Names of the layers whose configuration holds byte code."""
    if isinstance(config, list):
        for value in config:
            yield from _layers_with_code(value, layer)
    if isinstance(config, dict):
        inner = config.get("config")
        if isinstance(inner, dict) and isinstance(inner.get("name"), str):
            layer = inner["name"]
        if config.get("class_name") == _CODE or config.get("function_type") == "lambda":
            yield layer
            return
        for value in config.values():
            yield from _layers_with_code(value, layer)


def _layers(names: Sequence[str]) -> str:
    quoted = ", ".join(repr(name) for name in dict.fromkeys(names))
    return f"layer {quoted} is a" if len(names) == 1 else f"layers {quoted} are each a"


def _classes_of(imports: Sequence[str]) -> dict[str, Any]:
    classes: dict[str, Any] = {}
    for name in imports:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"--import: expected a module that can be imported, received {name!r}; {error}."
            ) from error
        own = {key: value for key, value in vars(module).items() if getattr(value, "__module__", None) == name}
        classes |= {key: value for key, value in own.items() if inspect.isclass(value) or inspect.isfunction(value)}
    return classes


def _refusal(path: Path, config: Any, error: Exception) -> str:
    missing = [name for name in _custom_classes(config) if name in str(error)]
    if missing:
        return (
            f"{path}: expected to know the class {missing[0]!r} of the model, but nothing that was imported defines "
            "it. Give its module: --import package.module."
        )
    return f"{path}: expected a whole Keras model, received a file that Keras cannot load: {_first_line(error)}"


def _custom_classes(config: Any) -> Iterator[str]:
    """Names of classes that are not Keras's own."""
    if isinstance(config, list):
        for value in config:
            yield from _custom_classes(value)
    if isinstance(config, dict):
        name, package = config.get("class_name"), str(config.get("module")).partition(".")[0]
        # Keras gives a registered name to its own too: Functional.
        if isinstance(name, str) and package != "keras":
            yield name
        for value in config.values():
            yield from _custom_classes(value)


def _check_weights(model: keras.Model, path: Path) -> None:
    broken = [weight.path for weight in model.weights if not _is_finite(np.asarray(weight))]
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise ConversionError(
            f"{path}: expected finite weights, but {broken[0]!r}{more} holds NaN or infinity: the training diverged."
        )


def _is_finite(values: Any) -> bool:
    return not np.issubdtype(values.dtype, np.floating) or bool(np.isfinite(values).all())


def _first_line(error: Exception) -> str:
    """What it says first, as the end of a sentence of ours."""
    return str(error).strip().partition("\n")[0].rstrip(".") + "."
