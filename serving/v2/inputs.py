"""Tensors of a request -> inputs of the model that is to answer."""

from collections.abc import Mapping

import numpy as np

from serving.errors import InvalidRequestError
from serving.model_facts import ModelFacts
from serving.model_inputs import files_or_texts, model_rows, pixel_rows
from serving.v2.datatypes import BYTES, datatype_of
from serving.v2.messages import InferRequest, Tensor
from tfpipe.core.errors import SignatureError
from tfpipe.core.golden_tensors import check_tensors
from tfpipe.core.signature import Array, TensorSpec

ROWS = "input"
_TAKEN = {"image": ("image", "pixels", ROWS), "text": ("text",)}
_FILES_OR_TEXTS = {takes: (TensorSpec(names[0], "object", ("batch",)),) for takes, names in _TAKEN.items()}


def taken_names(model: ModelFacts) -> tuple[str, ...]:
    """The inputs of which a request sends one: that of the metadata first."""
    return _TAKEN["image" if model.takes == "image" else "text"]


def raw_inputs(model: ModelFacts) -> tuple[TensorSpec, ...]:
    """The inputs that the metadata lists, of which a body without a header is the only one; "object" are strings."""
    return model.inputs if model.takes == "tensors" else _FILES_OR_TEXTS[model.takes]


def inputs_of(model: ModelFacts, request: InferRequest, *, max_image_pixels: int) -> list[bytes] | list[Array]:
    """What to infer from: files or texts, decoded images, or the model's rows.

    Args:
        model: Of images or texts.
        request: Its tensors may be one of those that `taken_names` gives.
        max_image_pixels: Larger images are refused.

    Raises:
        InvalidRequestError: Other tensors, or more than one.
        TooLargeError: More rows or pixels than allowed.
    """
    names = taken_names(model)
    if len(request.tensors) != 1 or request.tensors[0].name not in names:
        raise InvalidRequestError(
            f"inputs: expected one of {', '.join(names)} of model {model.name!r}, received "
            f"{', '.join(repr(tensor.name[:100]) for tensor in request.tensors)}.",
            expected=list(names),
        )
    (tensor,) = request.tensors
    if tensor.name == "pixels":
        return pixel_rows(_array(tensor, "UINT8"), tensor.name, max_image_pixels=max_image_pixels)
    if tensor.name == ROWS:
        return model_rows(model, _array(tensor, "FP32"), tensor.name)
    if not isinstance(tensor.elements, list):
        raise _another_datatype(tensor, BYTES)
    return list(files_or_texts(tensor.elements, tensor.shape, tensor.name))


def feeds_of(model: ModelFacts, request: InferRequest) -> Mapping[str, Array]:
    """Named arrays for a bundle of task `tensor`.

    Raises:
        InvalidRequestError: Other names, datatypes or shapes than the model's.
    """
    feeds = {}
    known = {spec.name: spec for spec in model.inputs}
    for tensor in request.tensors:
        spec = known.get(tensor.name)
        if spec is None:
            raise InvalidRequestError(
                f"inputs: expected {', '.join(known)} of model {model.name!r}, received {tensor.name[:100]!r}."
            )
        feeds[tensor.name] = _array(tensor, datatype_of(spec.dtype))
    try:
        check_tensors(model.inputs, feeds)
    except SignatureError as error:
        raise InvalidRequestError(str(error)) from error
    return feeds


def _array(tensor: Tensor, datatype: str) -> Array:
    if tensor.datatype != datatype:
        raise _another_datatype(tensor, datatype)
    if isinstance(tensor.elements, list):
        return np.array(tensor.elements, object).reshape(tensor.shape)
    return tensor.elements


def _another_datatype(tensor: Tensor, datatype: str) -> InvalidRequestError:
    return InvalidRequestError(f"inputs: expected {tensor.name!r} as {datatype}, received {tensor.datatype}.")
