"""Answers of a model -> bodies as TensorFlow Serving writes them.

Source: TensorFlow Serving, "RESTful API".
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serving.engine import Answered
from serving.errors import InvalidRequestError
from serving.json_values import write_object
from serving.model_facts import ModelFacts, gives_entities
from serving.model_outputs import probabilities_of
from serving.tfserving.signatures import Signature, signatures_of
from tfpipe.core.errors import InferenceError
from tfpipe.core.signature import Array, TensorSpec

_TYPES = {
    "bool": "DT_BOOL", "float16": "DT_HALF", "float32": "DT_FLOAT", "float64": "DT_DOUBLE", "object": "DT_STRING",
    **{f"{sign}int{bits}": f"DT_{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip


def columns_of(model: ModelFacts, answered: Sequence[Answered]) -> dict[str, Array]:
    """The outputs of a signature for answered rows, by name; strings as objects.

    Of tags, texts are brought to the length of the longest with empty labels of probability 0.

    Args:
        model: What answered.
        answered: One a row.
    """
    probabilities = _padded(model, answered) if gives_entities(model) else probabilities_of(answered)
    score = probabilities.max(axis=-1)
    names = np.array([*model.labels, ""], object)
    label = names[np.where(score > 0, probabilities.argmax(axis=-1), len(model.labels))]
    return {"probabilities": probabilities, "label": label, "score": score}


def write_predict(columns: Mapping[str, Array], *, in_rows: bool) -> bytes:
    """The body of a :predict answer.

    Args:
        columns: Outputs by name.
        in_rows: Whether row by row, as the request was.

    Raises:
        InvalidRequestError: Rows are wanted of outputs that have not as many rows each.
    """
    floats = [array for array in columns.values() if array.dtype.kind == "f"]
    plain = {name: _plain(name, array) for name, array in columns.items()}
    if not in_rows:
        return write_object({"outputs": plain if len(plain) > 1 else next(iter(plain.values()))}, floats)
    lengths = {array.shape[0] if array.ndim else None for array in columns.values()}
    if len(lengths) != 1 or None in lengths:
        raise InvalidRequestError(
            "instances: expected a model whose outputs have one length along their first axis; ask it by inputs."
        )
    if len(plain) == 1:
        return write_object({"predictions": next(iter(plain.values()))}, floats)
    rows = [dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)]
    return write_object({"predictions": rows}, floats)


def write_classify(model: ModelFacts, answered: Sequence[Answered]) -> bytes:
    """The body of a :classify answer: every class with its probability, in the order of the classes."""
    result = [
        [[label, score] for label, score in zip(model.labels, row, strict=True)]
        for row in probabilities_of(answered).tolist()
    ]
    return write_object({"result": result}, [])


def check_classifies(model: ModelFacts) -> None:
    """Refuse :classify of a model that gives no classes.

    Raises:
        InvalidRequestError: It gives entities or tensors.
    """
    if model.takes == "tensors" or gives_entities(model):
        raise InvalidRequestError(
            f":classify: expected a model that gives classes; {model.name!r} does not. Ask :predict."
        )


def model_status(versions: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    """The document at /v1/models/{m}.

    Args:
        versions: Of each its number, its state in TensorFlow Serving's words, and what is wrong with it or "".
    """
    return {
        "model_version_status": [
            {
                "version": version,
                "state": state,
                "status": {"error_code": "UNKNOWN" if problem else "OK", "error_message": problem},
            }
            for version, state, problem in versions
        ]
    }


def model_metadata(model: ModelFacts) -> dict[str, Any]:
    """The document at /v1/models/{m}/metadata."""
    definitions = {name: _definition(signature) for name, signature in signatures_of(model).items()}
    return {
        "model_spec": {"name": model.name, "signature_name": "", "version": model.version or "1"},
        "metadata": {"signature_def": {"signature_def": definitions}},
    }


def _padded(model: ModelFacts, answered: Sequence[Answered]) -> Array:
    """(texts, tokens, tags); of a text that is longer than a row, the first, as an exported model cuts it."""
    rows = [one.rows[0].probabilities for one in answered]
    probabilities = np.zeros((len(rows), max(map(len, rows)), len(model.labels)), np.float32)
    for padded, row in zip(probabilities, rows, strict=True):
        padded[: len(row)] = row
    if not np.isfinite(probabilities).all():
        raise InferenceError("model: expected finite probabilities, received NaN or infinity.")
    return probabilities


def _definition(signature: Signature) -> dict[str, Any]:
    return {
        "inputs": {spec.name: _tensor_info(spec, signature.name) for spec in signature.inputs},
        "outputs": {spec.name: _tensor_info(spec, "StatefulPartitionedCall") for spec in signature.outputs},
        "method_name": "tensorflow/serving/predict",
    }


def _tensor_info(spec: TensorSpec, prefix: str) -> dict[str, Any]:
    dims = [{"size": "-1" if isinstance(axis, str) else str(axis), "name": ""} for axis in spec.shape]
    return {
        "dtype": _TYPES[str(np.dtype(spec.dtype))],
        "tensor_shape": {"dim": dims, "unknown_rank": False},
        "name": f"{prefix}_{spec.name}:0",
    }


def _plain(name: str, array: Array) -> Any:
    """What stands for an array in JSON; strings of an output `..._bytes` as base64."""
    if array.dtype != object:
        return np.ascontiguousarray(array)
    if name.endswith("_bytes"):
        return _each(array.tolist(), lambda one: {"b64": base64.b64encode(one).decode()})
    return _each(array.tolist(), lambda one: one.decode() if isinstance(one, bytes) else str(one))


def _each(values: Any, function: Any) -> Any:
    return [_each(value, function) for value in values] if isinstance(values, list) else function(values)
