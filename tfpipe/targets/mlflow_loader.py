"""What MLflow loads: a bundle that answers DataFrames and lists. No TensorFlow."""

import base64
import binascii
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped]

from tfpipe.core.errors import DecodeError, SignatureError
from tfpipe.targets.answering import BundleAnswers


class MlflowModel:
    """The model that `mlflow.pyfunc.load_model` gives.

    Args:
        answers: The bundle.
    """

    def __init__(self, answers: BundleAnswers) -> None:
        self._answers = answers

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Answer inputs.

        Args:
            model_input: A DataFrame of one column, or a list: image files as bytes or in base64, or texts.
            params: None are known.

        Returns:
            A row an input, with the columns of tfpipe's own answers: `label`, `score`, `probabilities`; `labels`,
            `probabilities`; or `entities`.

        Raises:
            SignatureError: Not one column.
            DecodeError: An input cannot be read; says which.
        """
        inputs = list(_column(model_input))
        if self._answers.inference.takes == "image":
            inputs = [_content(index, given) for index, given in enumerate(inputs)]
        return pd.DataFrame([one.answer for one in self._answers.of(inputs)])


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> MlflowModel:
    """MLflow calls it by this name, with the folder of the bundle."""
    return MlflowModel(BundleAnswers(Path(path), precision=(model_config or {}).get("precision", "auto")))


def _column(model_input: Any) -> Iterable[Any]:
    if not isinstance(model_input, pd.DataFrame):
        return list(model_input)
    if model_input.shape[1] != 1:
        raise SignatureError(f"inputs: expected one column, received {list(model_input.columns)}.")
    return list(model_input.iloc[:, 0])


def _content(index: int, given: Any) -> bytes:
    if not isinstance(given, str):
        return bytes(given)
    try:
        return base64.b64decode(given, validate=True)
    except binascii.Error as error:
        raise DecodeError(f"input {index}: expected an image file as bytes or in base64; {error}.") from error
