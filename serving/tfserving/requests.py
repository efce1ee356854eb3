"""Bodies of :predict and :classify -> arrays by input name.

Source: TensorFlow Serving, "RESTful API".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.errors import InvalidRequestError
from serving.json_values import decode_base64, encode_text, flatten, name_of, numbers, read_object
from serving.model_facts import ModelFacts
from serving.parameters import ROUTING_KEY, key_of_body
from serving.tfserving.signatures import STRING, Signature, signature_of
from tfpipe.core.signature import Array, TensorSpec

# The routing key is ours: TensorFlow Serving takes no notice of what it does not know.
_PREDICT_KEYS = ("signature_name", "instances", "inputs", ROUTING_KEY)
_CLASSIFY_KEYS = ("signature_name", "context", "examples", ROUTING_KEY)


@dataclass(frozen=True)
class PredictRequest:
    """What a client asks.

    Attributes:
        signature: The way in which it does.
        arrays: By input name; of strings (rows,) or another shape of bytes objects.
        in_rows: Whether it came as "instances", and is answered so.
        routing_key: See `serving.parameters`; None for none.
    """

    signature: Signature
    arrays: Mapping[str, Array]
    in_rows: bool
    routing_key: str | None


def read_predict(model: ModelFacts, body: bytes) -> PredictRequest:
    """The request of a :predict body.

    Raises:
        InvalidRequestError: It is not what the protocol or the signature says.
        TooLargeError: More arrays and objects than anyone needs.
    """
    values = _object(body, _PREDICT_KEYS)
    signature = signature_of(model, values.get("signature_name"))
    given = [key for key in ("instances", "inputs") if key in values]
    if len(given) != 1:
        raise InvalidRequestError(
            f"body: expected either instances or inputs, received {' and '.join(given) or 'none'}."
        )
    (key,) = given
    columns = _columns_of_rows(signature, values[key]) if key == "instances" else _columns(signature, values[key])
    arrays = {spec.name: _array(columns[spec.name], spec, f"{key}: {spec.name!r}") for spec in signature.inputs}
    return PredictRequest(signature, arrays, key == "instances", key_of_body(values.get(ROUTING_KEY), ROUTING_KEY))


def read_classify(model: ModelFacts, body: bytes) -> PredictRequest:
    """The request of a :classify body: examples of features, each a value or a list of values.

    Raises:
        InvalidRequestError: It is not what the protocol says, or an example is not what the model takes.
        TooLargeError: More arrays and objects than anyone needs.
    """
    values = _object(body, _CLASSIFY_KEYS)
    signature = signature_of(model, values.get("signature_name"))
    context, examples = values.get("context", {}), values.get("examples")
    if not isinstance(context, dict):
        raise InvalidRequestError(f"context: expected an object, received {name_of(context)}.")
    if not isinstance(examples, list) or not examples:
        raise InvalidRequestError(f"examples: expected an array of at least one, received {name_of(examples)}.")
    rows = [_example(context, example, f"examples[{index}]") for index, example in enumerate(examples)]
    columns = _columns_of_rows(signature, rows, where="examples")
    arrays = {spec.name: _features(columns[spec.name], spec) for spec in signature.inputs}
    return PredictRequest(signature, arrays, True, key_of_body(values.get(ROUTING_KEY), ROUTING_KEY))


def _object(body: bytes, keys: Sequence[str]) -> dict[str, Any]:
    values = read_object(body)
    for key in values:
        if key not in keys:
            raise InvalidRequestError(f"body: unknown key {key[:100]!r}. Known: {', '.join(keys)}.")
    return values


def _columns_of_rows(signature: Signature, rows: Any, where: str = "instances") -> dict[str, list[Any]]:
    if not isinstance(rows, list) or not rows:
        raise InvalidRequestError(f"{where}: expected an array of at least one row, received {name_of(rows)}.")
    names = [spec.name for spec in signature.inputs]
    # Objects with other keys than a row's inputs: {"b64": ...} is a value.
    if isinstance(rows[0], dict) and not _is_base64(rows[0]):
        for index, row in enumerate(rows):
            _check_names(row, names, f"{where}[{index}]")
        return {name: [row[name] for row in rows] for name in names}
    if len(names) != 1:
        raise InvalidRequestError(
            f"{where}: expected objects with {', '.join(names)}, received {name_of(rows[0])} first."
        )
    return {names[0]: rows}


def _columns(signature: Signature, inputs: Any) -> dict[str, Any]:
    names = [spec.name for spec in signature.inputs]
    if isinstance(inputs, dict) and not _is_base64(inputs):
        _check_names(inputs, names, "inputs")
        return inputs
    if len(names) != 1:
        raise InvalidRequestError(f"inputs: expected an object with {', '.join(names)}, received {name_of(inputs)}.")
    return {names[0]: inputs}


def _check_names(row: Any, names: Sequence[str], where: str) -> None:
    if not isinstance(row, dict) or row.keys() != set(names):
        received = ", ".join(sorted(key[:100] for key in row)[:20]) if isinstance(row, dict) else name_of(row)
        raise InvalidRequestError(f"{where}: expected {', '.join(names)}, received {received or 'an empty object'}.")


def _array(values: Any, spec: TensorSpec, where: str) -> Array:
    if not isinstance(values, list):
        if spec.shape:
            raise InvalidRequestError(f"{where}: expected an array, received {name_of(values)}.")
        values = [values]
        return _of_type(values, spec, where).reshape(())
    flat, shape = flatten(values, where)
    return _of_type(flat, spec, where).reshape(shape)


def _features(values: list[Any], spec: TensorSpec) -> Array:
    """Flat features of examples, in the shape of the input's rows; of one value, the value alone will do."""
    where = f"examples: {spec.name!r}"
    if not isinstance(values[0], list):
        values = [[value] for value in values]
    flat, shape = flatten(values, where)
    inner = spec.shape[1:]
    try:
        return _of_type(flat, spec, where).reshape(
            len(values), *(length if isinstance(length, int) else -1 for length in inner)
        )
    except ValueError:
        raise InvalidRequestError(
            f"{where}: expected values for shape {list(inner)} in each example, received {shape[1]}."
        ) from None


def _of_type(flat: list[Any], spec: TensorSpec, where: str) -> Array:
    dtype = np.dtype(spec.dtype)
    if dtype != STRING:
        return numbers(flat, dtype, where)
    array = np.empty(len(flat), object)
    array[:] = [
        decode_base64(one["b64"], f"{where}[{index}]") if _is_base64(one) else encode_text(one, f"{where}[{index}]")
        for index, one in enumerate(flat)
    ]
    return array


def _example(context: Mapping[str, Any], example: Any, where: str) -> dict[str, Any]:
    if not isinstance(example, dict):
        raise InvalidRequestError(f"{where}: expected an object, received {name_of(example)}.")
    both = context.keys() & example.keys()
    if both:
        raise InvalidRequestError(f"{where}: expected features that the context has not, received {min(both)[:100]!r}.")
    return {**context, **example}


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"}
