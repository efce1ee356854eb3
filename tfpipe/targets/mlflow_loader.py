"""What MLflow loads: a bundle that answers DataFrames and lists. No TensorFlow."""

import base64
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped]

from tfpipe.core.bundle import open_bundle
from tfpipe.core.errors import DecodeError, SignatureError
from tfpipe.core.signature import Array
from tfpipe.inference.tensors import TensorModel
from tfpipe.targets.answering import BundleAnswers, open_proved

_BASE64 = re.compile(rb"[A-Za-z0-9+/=\s]{0,64}\Z|[A-Za-z0-9+/\s]{64}")


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
        read = _file if self._answers.inference.takes == "image" else _text
        inputs = [read(index, given) for index, given in enumerate(_column(model_input))]
        return pd.DataFrame([one.answer for one in self._answers.of(inputs)])


class MlflowTensors:
    """What `mlflow.pyfunc.load_model` gives of a model of named tensors.

    Args:
        model: The variant.
    """

    def __init__(self, model: TensorModel) -> None:
        self._model = model

    def predict(self, model_input: Mapping[str, Array], params: dict[str, Any] | None = None) -> dict[str, Array]:
        """Arrays by input name -> arrays by output name; see `TensorModel.run`. No `params` are known."""
        return self._model.run(model_input)


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> MlflowModel | MlflowTensors:
    """MLflow calls it by this name, with the folder of the bundle."""
    model = open_proved(open_bundle(Path(path)), (model_config or {}).get("precision", "auto"))
    return MlflowTensors(model) if isinstance(model, TensorModel) else MlflowModel(model)


def _column(model_input: Any) -> Iterable[Any]:
    if not isinstance(model_input, pd.DataFrame):
        return list(model_input)
    if model_input.shape[1] != 1:
        raise SignatureError(f"inputs: expected one column, received {list(model_input.columns)}.")
    return list(model_input.iloc[:, 0])


def _file(index: int, given: Any) -> bytes:
    """The content of an image file, from itself or from base64.

    Base64 comes as bytes too, where a client of MLflow's scoring server names no columns. No image file is made of
    the letters of base64 alone.
    """
    if isinstance(given, bytes) and not _BASE64.match(given):
        return given
    try:
        letters = given if isinstance(given, bytes) else given.encode()
        # MLflow's own encoder breaks lines.
        return base64.b64decode(b"".join(letters.split()), validate=True)
    except (AttributeError, ValueError) as error:
        if isinstance(given, bytes):
            return given
        raise DecodeError(
            f"input {index}: expected an image file as bytes or in base64, received {str(given)[:40]!r}."
        ) from error


def _text(index: int, given: Any) -> str:
    # What is missing in a DataFrame is None or NaN.
    if not isinstance(given, str):
        raise DecodeError(f"input {index}: expected a text, received {str(given)[:40]!r}.")
    return given
