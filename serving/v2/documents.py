"""What the protocol tells of a model and of the service.

Source: KServe, Open Inference Protocol v2, "Model Metadata", "Server Metadata"; Triton, "Model Configuration
Extension", "Model Repository Extension", "Statistics Extension".
"""

from collections.abc import Sequence
from typing import Any

import tfpipe
from serving.model_facts import ModelFacts
from serving.v2.datatypes import BYTES, datatype_of
from serving.v2.inputs import taken_names
from serving.v2.outputs import given_names
from tfpipe.core.signature import TensorSpec

EXTENSIONS = (
    "binary_tensor_data", "classification", "model_configuration", "model_repository", "parameters", "statistics",
)  # fmt: skip
_PLATFORM = "onnxruntime_onnx"
# By their number in Triton's model_config.proto.
DATA_TYPES = (
    "TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_INT8", "TYPE_INT16",
    "TYPE_INT32", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_STRING",
)  # fmt: skip


def server_metadata() -> dict[str, Any]:
    """The document at /v2."""
    return {"name": "tfpipe", "version": tfpipe.__version__, "extensions": list(EXTENSIONS)}


def model_metadata(model: ModelFacts, versions: Sequence[str]) -> dict[str, Any]:
    """The document at /v2/models/{m}.

    Args:
        model: The version that is asked about.
        versions: All that are ready.
    """
    return {
        "name": model.name,
        "versions": list(versions),
        "platform": _PLATFORM,
        # The one that everybody can send; the others are in the configuration.
        "inputs": [_input(model, taken_names(model)[0])] if model.takes != "tensors" else _entries(model.inputs),
        "outputs": [_output(model, name) for name in given_names(model)]
        if model.takes != "tensors"
        else _entries(model.outputs),
    }


def model_config(model: ModelFacts, *, max_batch_size: int) -> dict[str, Any]:
    """The document at /v2/models/{m}/config, in the words of Triton's ModelConfig.

    Args:
        model: The version that is asked about.
        max_batch_size: Most rows that the service runs at once.
    """
    if model.takes == "tensors":
        inputs, outputs = _entries(model.inputs), _entries(model.outputs)
    else:
        inputs = [{**_input(model, name), "optional": True} for name in taken_names(model)]
        outputs = [_output(model, name) for name in given_names(model)]
    return {
        "name": model.name,
        "platform": _PLATFORM,
        "backend": "onnxruntime",
        # Zero says that shapes have the batch's axis in them, as the metadata's.
        "max_batch_size": 0,
        "input": [_config_entry(one) for one in inputs],
        "output": [_config_entry(one) for one in outputs],
        "parameters": {"max_batch_size": {"string_value": str(max_batch_size)}},
    }


def _config_entry(entry: dict[str, Any]) -> dict[str, Any]:
    datatype = "TYPE_STRING" if entry["datatype"] == BYTES else f"TYPE_{entry['datatype']}"
    kept = {"optional": True} if entry.get("optional") else {}
    return {"name": entry["name"], "data_type": datatype, "dims": entry["shape"], **kept}


def _entries(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    return [_entry(spec.name, datatype_of(spec.dtype), *spec.shape) for spec in specs]


def _entry(name: str, datatype: str, *shape: int | str) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [-1 if isinstance(axis, str) else axis for axis in shape]}


def _input(model: ModelFacts, name: str) -> dict[str, Any]:
    if name == "pixels":
        return _entry(name, "UINT8", -1, -1, -1, 3)
    if name == "input":
        spec = model.inputs[0]
        return _entry(name, datatype_of(spec.dtype), *spec.shape)
    return _entry(name, BYTES, -1)


def _output(model: ModelFacts, name: str) -> dict[str, Any]:
    if name in ("label", "entities"):
        return _entry(name, BYTES, -1)
    if name == "score":
        return _entry(name, "FP32", -1)
    if name == "probabilities":
        return _entry(name, "FP32", -1, len(model.labels))
    return _entry(
        name, "FP32", -1, next(axis for spec in model.outputs if spec.name == name for axis in spec.shape[1:])
    )
