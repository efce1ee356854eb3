"""NVIDIA Triton: a model repository, of raw inputs on its Python backend or of rows on its ONNX Runtime backend."""

import shutil
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tfpipe.core.bundle import Bundle, read_golden
from tfpipe.core.signature import Array, TensorSpec
from tfpipe.inference.texts import TEXT_TASKS
from tfpipe.targets.answering import is_of_tensors, open_proved
from tfpipe.targets.carried import copy_bundle, copy_code, labels_text, requirements
from tfpipe.targets.golden import golden_requests
from tfpipe.targets.job import Job
from tfpipe.targets.pbtxt import Name, render
from tfpipe.targets.readme import render as render_readme

# Triton's names of NumPy's types.
_TYPES = {
    "float16": "FP16", "float32": "FP32", "float64": "FP64", "bool": "BOOL",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
}  # fmt: skip
_MAX_BATCH_SIZE = 32
# How long a lone request waits for others: less than a person notices, and than most models take.
_QUEUE_DELAY_US = 2000
_WARMUP_REQUESTS = 4
_LABELS = "labels.txt"
# By whether all tensors begin with the batch's axis, and whether rows are answered for themselves.
_BATCHING = {
    (True, True): "Requests are batched.",
    (True, False): "Requests are not batched, as this variant's answer to a row depends on the rows beside it.",
    (False, True): "Requests are not batched, as not every tensor begins with the batch's axis.",
    (False, False): "Requests are not batched, as not every tensor begins with the batch's axis.",
}
# Triton imports it from the folder of the version.
_MODEL_PY = '''"""Answers by tfpipe's own code, which lies in `code` beside this file."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "code"))

from tfpipe.targets.triton_backend import TritonPythonModel  # noqa: E402, F401
'''


class _Given(NamedTuple):
    """One input of a warm-up request, as Triton wants it.

    Attributes:
        data_type: Triton's name.
        dims: Without the batch's axis, where Triton adds it.
        content: In a file, a string has its length before it. Source: Triton, ModelWarmup.Input in model_config.proto.
    """

    data_type: str
    dims: Sequence[int]
    content: bytes


def write_triton(job: Job, folder: Path) -> None:
    """Write the model repository and a README.

    Raises:
        GateError: The golden samples are answered otherwise than they may be.
    """
    # Proved here and now, whatever the backend.
    open_proved(job.bundle, job.variant.precision)
    model = folder / job.name
    (model / job.version).mkdir(parents=True)
    (model / "warmup").mkdir()
    common = {
        "name": job.name,
        "backend": job.triton_backend,
        "instance_group": [{"count": 1, "kind": Name(f"KIND_{job.device.upper()}")}],
    }
    write = _write_python if job.triton_backend == "python" else _write_onnxruntime
    (folder / "README.md").write_text(write(job, model, common), encoding="utf-8")


def _write_python(job: Job, model: Path, common: Mapping[str, Any]) -> str:
    version = model / job.version
    copy_bundle(job.bundle, version / "bundle")
    copy_code(version / "code")
    (version / "model.py").write_text(_MODEL_PY, encoding="utf-8")
    pins = "".join(f"{pin}\n" for pin in requirements(job.bundle))
    (model.parent / "requirements.txt").write_text(pins, encoding="utf-8")
    manifest, tensors = job.bundle.manifest, is_of_tensors(job.bundle)
    config = {
        **common,
        # As tfpipe's own service has it: BYTES [-1], a row an input. Triton's batch axis would make that [-1, 1].
        "max_batch_size": 0,
        "input": [_tensor(one) for one in manifest.inputs] if tensors else _raw_inputs(job.bundle),
        "output": [_tensor(one) for one in manifest.outputs] if tensors else _answer_outputs(job.bundle),
        "parameters": [{"key": "precision", "value": {"string_value": job.variant.precision}}],
        "model_warmup": _write_warmup(model, _array_requests(job.bundle) if tensors else _raw_requests(job.bundle)),
    }
    (model / "config.pbtxt").write_text(render(config), encoding="utf-8")
    return render_readme("triton_tensors" if tensors else "triton_python", job, table=_table(config))


def _write_onnxruntime(job: Job, model: Path, common: Mapping[str, Any]) -> str:
    manifest = job.bundle.manifest
    shutil.copyfile(job.bundle.path(job.variant.file), model / job.version / "model.onnx")
    # Without the batch's axis, which Triton adds.
    batched = all(one.shape[:1] == ("batch",) for one in (*manifest.inputs, *manifest.outputs))
    alone = job.variant.batch_invariant
    outputs = [_tensor(one, batched=batched) for one in manifest.outputs]
    if manifest.labels:
        # Triton's classification extension answers by label.
        (model / _LABELS).write_text(labels_text(job.bundle), encoding="utf-8")
        outputs = [one | {"label_filename": _LABELS} if one["name"] == "probabilities" else one for one in outputs]
    config = {
        **common,
        "max_batch_size": _MAX_BATCH_SIZE if batched else 0,
        "input": [_tensor(one, batched=batched) for one in manifest.inputs],
        "output": outputs,
        "dynamic_batching": [{"max_queue_delay_microseconds": _QUEUE_DELAY_US}] if batched and alone else [],
        "model_warmup": _write_warmup(model, _array_requests(job.bundle, batched=batched)),
    }
    (model / "config.pbtxt").write_text(render(config), encoding="utf-8")
    template = "triton_onnxruntime_tensors" if is_of_tensors(job.bundle) else "triton_onnxruntime"
    return render_readme(template, job, table=_table(config), batching=_BATCHING[batched, alone])


def _raw_inputs(bundle: Bundle) -> list[dict[str, Any]]:
    if bundle.manifest.task in TEXT_TASKS:
        return [{"name": "text", "data_type": Name("TYPE_STRING"), "dims": [-1]}]
    pixels = {"name": "pixels", "data_type": Name("TYPE_UINT8"), "dims": [-1, -1, -1, 3]}
    return [
        {"name": "image", "data_type": Name("TYPE_STRING"), "dims": [-1], "optional": True},
        pixels | {"optional": True},
    ]


def _answer_outputs(bundle: Bundle) -> list[dict[str, Any]]:
    if bundle.manifest.task == "token_classification":
        return [{"name": "entities", "data_type": Name("TYPE_STRING"), "dims": [-1]}]
    return [
        {"name": "probabilities", "data_type": Name("TYPE_FP32"), "dims": [-1, len(bundle.manifest.labels)]},
        {"name": "label", "data_type": Name("TYPE_STRING"), "dims": [-1]},
        {"name": "score", "data_type": Name("TYPE_FP32"), "dims": [-1]},
    ]


def _tensor(spec: TensorSpec, *, batched: bool = False) -> dict[str, Any]:
    """An input or output; without the batch's axis where Triton adds it."""
    dims = [-1 if isinstance(length, str) else length for length in spec.shape[batched:]]
    return {"name": spec.name, "data_type": Name(f"TYPE_{_TYPES[spec.dtype]}"), "dims": dims}


def _raw_requests(bundle: Bundle) -> list[dict[str, _Given]]:
    name = "text" if bundle.manifest.task in TEXT_TASKS else "image"
    contents = [bundle.path(sample.file).read_bytes() for sample in read_golden(bundle)]
    return [{name: _Given("STRING", [1], struct.pack("<I", len(one)) + one)} for one in contents]


def _array_requests(bundle: Bundle, *, batched: bool = False) -> list[dict[str, _Given]]:
    """Golden samples as the model graph takes them; of each the first row where Triton adds the batch's axis."""
    names = [spec.name for spec in bundle.manifest.inputs]
    return [
        {name: _given(request[name][0] if batched else request[name]) for name in names}
        for request in golden_requests(bundle)
    ]


def _given(array: Array) -> _Given:
    content = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return _Given(_TYPES[array.dtype.name], array.shape, content)


def _write_warmup(model: Path, requests: Sequence[Mapping[str, _Given]]) -> list[dict[str, Any]]:
    """Write the files of the first few requests, and say them as config.pbtxt wants it."""
    entries = []
    for index, request in enumerate(requests[:_WARMUP_REQUESTS]):
        inputs = []
        for place, (name, given) in enumerate(request.items()):
            file = f"golden-{index}-{place}"
            (model / "warmup" / file).write_bytes(given.content)
            data_type = Name(f"TYPE_{given.data_type}")
            value = {"data_type": data_type, "dims": list(given.dims), "input_data_file": file}
            inputs.append({"key": name, "value": value})
        entries.append({"name": f"golden-{index}", "batch_size": 1, "inputs": inputs})
    return entries


def _table(config: Mapping[str, Any]) -> str:
    """What goes in and what comes out, as config.pbtxt says it."""
    rows = ["| | | |", "|---|---|---|"]
    for kind in ("input", "output"):
        for one in config[kind]:
            data_type = one["data_type"].removeprefix("TYPE_").replace("STRING", "BYTES")
            rows.append(f"| {kind} | `{one['name']}` | {data_type} {one['dims']} |")
    return "\n".join(rows)
