"""Messages of the gRPC service to requests, and answers to messages."""

from collections.abc import Mapping, Sequence
from typing import Any

from serving.errors import InvalidRequestError
from serving.json_values import joined, pieces, shown
from serving.v2.datatypes import BYTES, DTYPES, check_datatype
from serving.v2.grpc_messages import MESSAGES
from serving.v2.messages import (
    InferRequest,
    Tensor,
    WantedOutput,
    bytes_of_tensor,
    check_classes,
    check_count,
    check_request,
    check_shape,
    refuse_parameters,
    shaped,
    tensor_of_bytes,
)

# The field of InferTensorContents for each datatype; FP16 has none.
_CONTENTS = {
    "BOOL": "bool_contents", "INT64": "int64_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents",
    "FP64": "fp64_contents", BYTES: "bytes_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
}  # fmt: skip


def read_infer(message: Any) -> InferRequest:
    """The request of a ModelInferRequest.

    Raises:
        InvalidRequestError: It is not what the protocol says.
    """
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidRequestError(
            f"raw_input_contents: expected one of each of {len(message.inputs)} inputs, received {len(raw)}."
        )
    tensors = [
        _tensor(one, raw[index] if raw else None, f"inputs[{index}]") for index, one in enumerate(message.inputs)
    ]
    outputs = [_wanted(one, f"outputs[{index}]") for index, one in enumerate(message.outputs)]
    parameters = values_of(message.parameters)
    return check_request(InferRequest(tensors, message.id, outputs or None, is_binary=True, parameters=parameters))


def write_infer(*, model_name: str, model_version: str | None, request: InferRequest, outputs: Sequence[Tensor]) -> Any:
    """A ModelInferResponse, its tensors as bytes.

    Args:
        model_name: The one that answered.
        model_version: Likewise; None for a model that is not registered.
        request: Its id is given back.
        outputs: In the order of the answer.
    """
    return MESSAGES["ModelInferResponse"](
        model_name=model_name,
        model_version=model_version or "",
        id=request.id,
        outputs=[{"name": one.name, "datatype": one.datatype, "shape": one.shape} for one in outputs],
        raw_output_contents=[bytes_of_tensor(one) for one in outputs],
    )


def _tensor(one: Any, raw: bytes | None, where: str) -> Tensor:
    where = f"{where} {shown(one.name)}"
    shape = check_shape(one.shape, where)
    datatype = check_datatype(one.datatype, where)
    refuse_parameters(values_of(one.parameters), f"{where}: parameters")
    if raw is None:
        return _of_contents(one, datatype, shape, where)
    if one.HasField("contents"):
        raise InvalidRequestError(f"{where}: expected contents or raw_input_contents, received both.")
    return tensor_of_bytes(one.name, datatype, shape, raw, where)


def _of_contents(one: Any, datatype: str, shape: tuple[int, ...], where: str) -> Tensor:
    field = _CONTENTS.get(datatype)
    if field is None:
        raise InvalidRequestError(
            f"{where}: expected {datatype} in raw_input_contents, as contents has no field for it."
        )
    for other, _ in one.contents.ListFields():
        if other.name != field:
            raise InvalidRequestError(f"{where}: expected {field} for {datatype}, received {other.name}.")
    values = getattr(one.contents, field)
    check_count(shape, len(values), where)
    if datatype == BYTES:
        return Tensor(one.name, BYTES, shape, [value for piece in pieces(values) for value in piece])
    dtype = DTYPES[datatype]
    wide = joined(values, dtype if dtype.itemsize >= 4 else None)
    narrow = wide.astype(dtype)
    if dtype.kind in "iu" and (narrow != wide).any():
        raise InvalidRequestError(f"{where}: expected numbers of {dtype}, received one out of its range.")
    return Tensor(one.name, datatype, shape, shaped(narrow, shape, where))


def _wanted(one: Any, where: str) -> WantedOutput:
    parameters = values_of(one.parameters)
    refuse_parameters(parameters, f"{where}.parameters")
    return WantedOutput(one.name, True, check_classes(parameters.get("classification", 0), where))


def values_of(parameters: Any) -> Mapping[str, Any]:
    """Parameters of a message by name, whichever type each has."""
    values = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        values[name] = None if choice is None else getattr(parameter, choice)
    return values
