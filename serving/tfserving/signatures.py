"""Signatures of a model as TensorFlow Serving would show those of its SavedModel."""

from dataclasses import dataclass

import numpy as np

from serving.errors import InvalidRequestError
from serving.model_facts import ModelFacts, gives_entities
from tfpipe.core.signature import TensorSpec

DEFAULT, OWN_ROWS = "serving_default", "tensor"
STRING = np.dtype(object)
# What clients of the estimator API name for the same method.
_METHODS = {"predict": "tensorflow/serving/predict", "classify": "tensorflow/serving/classify"}


@dataclass(frozen=True)
class Signature:
    """One way to ask a model.

    Attributes:
        name: E.g. "serving_default".
        inputs: "object" stands for strings; an axis that has a name is of any length.
        outputs: Likewise.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def signatures_of(model: ModelFacts) -> dict[str, Signature]:
    """By name; the first is the default."""
    if model.takes == "tensors":
        return {DEFAULT: Signature(DEFAULT, model.inputs, model.outputs)}
    outputs = _outputs(model)
    inputs = {DEFAULT: TensorSpec("image_bytes" if model.takes == "image" else "text", "object", ("batch",))}
    if model.takes == "image":
        inputs["pixels"] = TensorSpec("pixels", "uint8", ("batch", "height", "width", 3))
        inputs[OWN_ROWS] = model.inputs[0]
    return {name: Signature(name, (spec,), outputs) for name, spec in inputs.items()}


def signature_of(model: ModelFacts, name: object) -> Signature:
    """The signature that a request names; None stands for the default.

    Raises:
        InvalidRequestError: There is no such signature.
    """
    signatures = signatures_of(model)
    # "" is what a protocol buffer has for none.
    if name is None or name == "" or name in _METHODS.values():
        return signatures[DEFAULT]
    if not isinstance(name, str) or name not in signatures:
        received = repr(name[:100]) if isinstance(name, str) else "no string"
        raise InvalidRequestError(
            f"signature_name: expected one of {', '.join(signatures)} of model {model.name!r}, received {received}."
        )
    return signatures[name]


def _outputs(model: ModelFacts) -> tuple[TensorSpec, ...]:
    axes = ("batch", "tokens") if gives_entities(model) else ("batch",)
    return (
        TensorSpec("probabilities", "float32", (*axes, len(model.labels))),
        TensorSpec("label", "object", axes),
        TensorSpec("score", "float32", axes),
    )
