"""Arrays and byte strings of any protocol -> the inputs of a model, checked."""

from collections.abc import Sequence

import numpy as np

from serving.errors import InvalidRequestError, TooLargeError
from serving.model_facts import ModelFacts
from tfpipe.core.signature import Array

# More than one run of a model takes, so that clients need not know its limit; not so many that one request keeps a
# session from all others for long.
MAX_ROWS = 256


def check_rows(rows: int, where: str) -> None:
    """Refuse a request of no row, or of too many.

    Raises:
        InvalidRequestError: None.
        TooLargeError: Too many.
    """
    if rows < 1:
        raise InvalidRequestError(f"{where}: expected one row or more, received none.", received=0)
    if rows > MAX_ROWS:
        raise TooLargeError(f"{where}: expected at most {MAX_ROWS} rows, received {rows}.", max_rows=MAX_ROWS)


def files_or_texts(elements: Sequence[bytes], shape: tuple[int, ...], where: str) -> list[bytes]:
    """Encoded images, or texts in UTF-8, one a row.

    Args:
        elements: Flat.
        shape: As sent.
        where: Their name, for messages.

    Raises:
        InvalidRequestError: Another shape than (rows,).
        TooLargeError: Too many rows.
    """
    if len(shape) != 1:
        raise InvalidRequestError(f"{where}: expected shape [-1], one element a row; received {list(shape)}.")
    check_rows(len(elements), where)
    return list(elements)


def pixel_rows(pixels: Array, where: str, *, max_image_pixels: int) -> list[Array]:
    """Decoded images of one size -> (height, width, 3) uint8 each.

    Raises:
        InvalidRequestError: No uint8 of shape (rows, height, width, 3).
        TooLargeError: More rows or pixels than allowed.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or 0 in pixels.shape[1:]:
        raise InvalidRequestError(
            f"{where}: expected uint8 of shape (rows, height, width, 3), received {pixels.dtype} of "
            f"shape {pixels.shape}."
        )
    check_rows(len(pixels), where)
    size = pixels.shape[1] * pixels.shape[2]
    if size > max_image_pixels:
        raise TooLargeError(
            f"{where}: expected at most {max_image_pixels} pixels an image, received {size}.",
            max_image_pixels=max_image_pixels,
        )
    return list(pixels)


def model_rows(model: ModelFacts, rows: Array, where: str) -> list[Array]:
    """The model's own rows, as preprocessing makes them.

    Raises:
        InvalidRequestError: Another dtype or shape than the model takes.
        TooLargeError: Too many rows.
    """
    (spec,) = model.inputs
    # By the first axis they are rows; what is left must be the model's.
    if not spec.fits(rows) or 0 in rows.shape[1:]:
        raise InvalidRequestError(
            f"{where}: expected {spec.dtype} of shape {shape_text(spec.shape)}, received {rows.dtype} of shape "
            f"{rows.shape}."
        )
    check_rows(len(rows), where)
    return list(rows)


def shape_text(shape: Sequence[int | str]) -> str:
    """A shape as messages write it."""
    return "(" + ", ".join(map(str, shape)) + ")"
