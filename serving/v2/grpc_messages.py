"""Messages and methods of the protocol's gRPC service, made at import from the table below.

Made rather than generated: code from protoc runs with the Protocol Buffers that made it and the next one, while
training pins 4.25 (TensorFlow 2.17) and the service runs on whatever is current. See docs/adr/0017.

Source: KServe, Open Inference Protocol v2, "GRPC"; Triton, its extensions' "GRPC" sections. Only the fields that the
service reads or writes; others are skipped, as Protocol Buffers do with what they do not know.
"""

import re
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "inference.GRPCInferenceService"
_FILE = "tfpipe/open_inference.proto"
_PARAMETERS = "map<string, InferParameter> parameters = {}"
_CHOICES = "oneof parameter_choice"

# In the syntax of proto3, by full name.
_FIELDS: dict[str, str] = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live = 1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready = 1",
    "ModelReadyRequest": "string name = 1; string version = 2",
    "ModelReadyResponse": "bool ready = 1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name = 1; string version = 2; repeated string extensions = 3",
    "ModelMetadataRequest": "string name = 1; string version = 2",
    "ModelMetadataResponse": "string name = 1; repeated string versions = 2; string platform = 3; "
    "repeated ModelMetadataResponse.TensorMetadata inputs = 4; "
    "repeated ModelMetadataResponse.TensorMetadata outputs = 5",
    "ModelMetadataResponse.TensorMetadata": "string name = 1; string datatype = 2; repeated int64 shape = 3",
    "InferParameter": f"{_CHOICES} bool bool_param = 1; {_CHOICES} int64 int64_param = 2; "
    f"{_CHOICES} string string_param = 3; {_CHOICES} double double_param = 4; {_CHOICES} uint64 uint64_param = 5",
    "InferTensorContents": "repeated bool bool_contents = 1; repeated int32 int_contents = 2; "
    "repeated int64 int64_contents = 3; repeated uint32 uint_contents = 4; repeated uint64 uint64_contents = 5; "
    "repeated float fp32_contents = 6; repeated double fp64_contents = 7; repeated bytes bytes_contents = 8",
    "ModelInferRequest": "string model_name = 1; string model_version = 2; string id = 3; "
    f"{_PARAMETERS.format(4)}; repeated ModelInferRequest.InferInputTensor inputs = 5; "
    "repeated ModelInferRequest.InferRequestedOutputTensor outputs = 6; repeated bytes raw_input_contents = 7",
    "ModelInferRequest.InferInputTensor": "string name = 1; string datatype = 2; repeated int64 shape = 3; "
    f"{_PARAMETERS.format(4)}; InferTensorContents contents = 5",
    "ModelInferRequest.InferRequestedOutputTensor": f"string name = 1; {_PARAMETERS.format(2)}",
    "ModelInferResponse": "string model_name = 1; string model_version = 2; string id = 3; "
    f"{_PARAMETERS.format(4)}; repeated ModelInferResponse.InferOutputTensor outputs = 5; "
    "repeated bytes raw_output_contents = 6",
    "ModelInferResponse.InferOutputTensor": "string name = 1; string datatype = 2; repeated int64 shape = 3",
    "ModelConfigRequest": "string name = 1; string version = 2",
    "ModelConfigResponse": "ModelConfig config = 1",
    "ModelConfig": "string name = 1; string platform = 2; int32 max_batch_size = 4; repeated ModelInput input = 5; "
    "repeated ModelOutput output = 6; map<string, ModelParameter> parameters = 14; string backend = 17",
    "ModelInput": "string name = 1; int32 data_type = 2; repeated int64 dims = 4; bool optional = 8",
    "ModelOutput": "string name = 1; int32 data_type = 2; repeated int64 dims = 3",
    "ModelParameter": "string string_value = 1",
    "ModelStatisticsRequest": "string name = 1; string version = 2",
    "ModelStatisticsResponse": "repeated ModelStatistics model_stats = 1",
    "ModelStatistics": "string name = 1; string version = 2; uint64 last_inference = 3; uint64 inference_count = 4; "
    "uint64 execution_count = 5; InferStatistics inference_stats = 6; repeated InferBatchStatistics batch_stats = 7",
    "InferStatistics": "StatisticDuration success = 1; StatisticDuration fail = 2; StatisticDuration queue = 3; "
    "StatisticDuration compute_input = 4; StatisticDuration compute_infer = 5; StatisticDuration compute_output = 6",
    "InferBatchStatistics": "uint64 batch_size = 1; StatisticDuration compute_input = 2; "
    "StatisticDuration compute_infer = 3; StatisticDuration compute_output = 4",
    "StatisticDuration": "uint64 count = 1; uint64 ns = 2",
    "RepositoryIndexRequest": "string repository_name = 1; bool ready = 2",
    "RepositoryIndexResponse": "repeated RepositoryIndexResponse.ModelIndex models = 1",
    "RepositoryIndexResponse.ModelIndex": "string name = 1; string version = 2; string state = 3; string reason = 4",
    "ModelRepositoryParameter": f"{_CHOICES} bool bool_param = 1; {_CHOICES} int64 int64_param = 2; "
    f"{_CHOICES} string string_param = 3; {_CHOICES} bytes bytes_param = 4",
    "RepositoryModelLoadRequest": "string repository_name = 1; string model_name = 2; "
    "map<string, ModelRepositoryParameter> parameters = 3",
    "RepositoryModelLoadResponse": "",
    "RepositoryModelUnloadRequest": "string repository_name = 1; string model_name = 2; "
    "map<string, ModelRepositoryParameter> parameters = 3",
    "RepositoryModelUnloadResponse": "",
}
METHODS = (
    "ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer", "ModelConfig",
    "ModelStatistics", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload",
)  # fmt: skip
# Known to clients, and not there: tensors travel in messages, and what Triton would set by the others is set at start.
REFUSED_METHODS = (
    "SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister", "CudaSharedMemoryStatus",
    "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister", "TraceSetting", "LogSettings",
)  # fmt: skip

_FIELD = re.compile(
    r"(?:oneof (?P<oneof>\w+) )?(?P<repeated>repeated )?(?P<kind>map<string, (?P<value>\w+)>|[\w.]+) (?P<name>\w+) = "
    r"(?P<number>\d+)"
)
_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = frozenset(_Field.Type.keys())


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name=_FILE, package="inference", syntax="proto3")
    messages: dict[str, Any] = {}
    # Outer messages stand before what is nested in them.
    for full_name, fields in _FIELDS.items():
        outer, _, name = full_name.rpartition(".")
        message = messages[outer].nested_type.add(name=name) if outer else file.message_type.add(name=name)
        messages[full_name] = message
        for field in filter(None, fields.split("; ")):
            _add_field(message, full_name, field)
    return file


def _add_field(message: Any, full_name: str, text: str) -> None:
    match = _FIELD.fullmatch(text)
    if match is None:
        raise ValueError(f"{full_name}: expected a field in proto3's syntax, received {text!r}.")
    kind, value = match["kind"], match["value"]
    field = message.field.add(name=match["name"], number=int(match["number"]))
    field.label = _Field.LABEL_REPEATED if match["repeated"] or value else _Field.LABEL_OPTIONAL
    if match["oneof"]:
        if not message.oneof_decl:
            message.oneof_decl.add(name=match["oneof"])
        field.oneof_index = 0
    if value:
        # Protocol Buffers, "Maps: backwards compatibility": a repeated message of key and value.
        kind = f"{full_name}.ParametersEntry"
        entry = message.nested_type.add(name="ParametersEntry")
        entry.options.map_entry = True
        _add_field(entry, kind, "string key = 1")
        _add_field(entry, kind, f"{value} value = 2")
    scalar = f"TYPE_{kind.upper()}"
    if scalar in _SCALARS:
        field.type = _Field.Type.Value(scalar)
    else:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".inference.{kind}"


def _classes() -> dict[str, Any]:
    # A pool of their own: a client in the same process brings the same names.
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(_file().SerializeToString())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"inference.{name}")) for name in _FIELDS}


MESSAGES = _classes()
"""Message classes by name within the package."""
