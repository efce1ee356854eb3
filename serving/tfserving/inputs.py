"""Arrays of a request -> inputs of the model that is to answer."""

from collections.abc import Mapping

from serving.errors import InvalidRequestError
from serving.model_facts import ModelFacts
from serving.model_inputs import files_or_texts, model_rows, pixel_rows
from serving.tfserving.requests import PredictRequest
from serving.tfserving.signatures import OWN_ROWS
from tfpipe.core.errors import SignatureError
from tfpipe.core.golden_tensors import check_tensors
from tfpipe.core.signature import Array


def inputs_of(model: ModelFacts, request: PredictRequest, *, max_image_pixels: int) -> list[bytes] | list[Array]:
    """What to infer from: files or texts, decoded images, or the model's rows.

    Args:
        model: Of images or texts.
        request: Of one of its signatures.
        max_image_pixels: Larger images are refused.

    Raises:
        InvalidRequestError: Another shape than the signature's.
        TooLargeError: More rows or pixels than allowed.
    """
    ((name, array),) = request.arrays.items()
    if request.signature.name == "pixels":
        return pixel_rows(array, name, max_image_pixels=max_image_pixels)
    if request.signature.name == OWN_ROWS:
        return model_rows(model, array, name)
    return list(files_or_texts(array.reshape(-1).tolist(), array.shape, name))


def feeds_of(model: ModelFacts, request: PredictRequest) -> Mapping[str, Array]:
    """Named arrays for a bundle of task `tensor`.

    Raises:
        InvalidRequestError: Other shapes than the model's.
    """
    try:
        check_tensors(model.inputs, request.arrays)
    except SignatureError as error:
        raise InvalidRequestError(str(error)) from error
    return request.arrays
