"""NVIDIA Triton: a model repository, of raw inputs on its Python backend or of rows on its ONNX Runtime backend."""

import shutil
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfpipe.core.bundle import Bundle, read_golden
from tfpipe.core.signature import Array, TensorSpec
from tfpipe.targets.answering import BundleAnswers
from tfpipe.targets.carried import copy_bundle, copy_code, labels_text, requirements
from tfpipe.targets.job import Job
from tfpipe.targets.pbtxt import Name, render
from tfpipe.targets.readme import render as render_readme
from tfpipe.targets.tfserving import golden_requests

# Triton's names of NumPy's types.
_TYPES = {
    "float16": "FP16", "float32": "FP32", "float64": "FP64", "bool": "BOOL",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
}  # fmt: skip
_MAX_BATCH_SIZE = 32
# How long a lone request waits for others: less than a person notices, and than most models take.
_QUEUE_DELAY_US = 2000
_WARMUP_SAMPLES = 4
_LABELS = "labels.txt"
_BATCHED = "Requests are batched."
_NOT_BATCHED = "Requests are not batched, as this variant's answer to a row depends on the rows beside it."
# Triton imports it from the folder of the version.
_MODEL_PY = '''"""Answers by tfpipe's own code, which lies in `code` beside this file."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "code"))

from tfpipe.targets.triton_backend import TritonPythonModel  # noqa: E402, F401
'''


def write_triton(job: Job, folder: Path) -> None:
    """Write the model repository and a README.

    Raises:
        GateError: The golden samples are answered otherwise than they may be.
    """
    # Proved here and now, whatever the backend.
    answers = BundleAnswers(job.bundle.folder, precision=job.variant.precision)
    model = folder / job.name
    (model / job.version).mkdir(parents=True)
    (model / "warmup").mkdir()
    write = _write_python if job.triton_backend == "python" else _write_onnxruntime
    common = {
        "name": job.name,
        "backend": job.triton_backend,
        "instance_group": [{"count": 1, "kind": Name(f"KIND_{job.device.upper()}")}],
    }
    readme = write(job, model, common, answers)
    (folder / "README.md").write_text(readme, encoding="utf-8")


def _write_python(job: Job, model: Path, common: Mapping[str, Any], answers: BundleAnswers) -> str:
    version = model / job.version
    copy_bundle(job.bundle, version / "bundle")
    copy_code(version / "code")
    (version / "model.py").write_text(_MODEL_PY, encoding="utf-8")
    pins = "".join(f"{pin}\n" for pin in requirements(job.bundle))
    (model.parent / "requirements.txt").write_text(pins, encoding="utf-8")
    takes = answers.inference.takes
    raw = [job.bundle.path(sample.file).read_bytes() for sample in read_golden(job.bundle)[:_WARMUP_SAMPLES]]
    # In a file, a string has its length before it. Source: Triton, ModelWarmup.Input in model_config.proto.
    contents = [struct.pack("<I", len(one)) + one for one in raw]
    config = {
        **common,
        # As tfpipe's own service has it: BYTES [-1], a row an input. Triton's batch axis would make that [-1, 1].
        "max_batch_size": 0,
        "input": _raw_inputs(takes),
        "output": _answer_outputs(job.bundle),
        "parameters": [{"key": "precision", "value": {"string_value": job.variant.precision}}],
        "model_warmup": _write_warmup(model, takes, "TYPE_STRING", [(content, [1]) for content in contents]),
    }
    (model / "config.pbtxt").write_text(render(config), encoding="utf-8")
    return render_readme("triton_python", job, table=_table(config))


def _write_onnxruntime(job: Job, model: Path, common: Mapping[str, Any], answers: BundleAnswers) -> str:
    manifest = job.bundle.manifest
    shutil.copyfile(job.bundle.path(job.variant.file), model / job.version / "model.onnx")
    (model / _LABELS).write_text(labels_text(job.bundle), encoding="utf-8")
    spec = manifest.inputs[0]
    rows = [request[spec.name][0] for request in golden_requests(job.bundle)[:_WARMUP_SAMPLES]]
    warmup = _write_warmup(model, spec.name, _type(spec), [(_little_endian(row), row.shape) for row in rows])
    config = {
        **common,
        "max_batch_size": _MAX_BATCH_SIZE,
        "input": [_tensor(spec)],
        "output": [_output(one) for one in manifest.outputs],
        # Strangers' requests share a batch only where a row's answer does not depend on the rows beside it.
        "dynamic_batching": [{"max_queue_delay_microseconds": _QUEUE_DELAY_US}] if job.variant.batch_invariant else [],
        "model_warmup": warmup,
    }
    (model / "config.pbtxt").write_text(render(config), encoding="utf-8")
    batching = _BATCHED if job.variant.batch_invariant else _NOT_BATCHED
    return render_readme("triton_onnxruntime", job, table=_table(config), batching=batching)


def _raw_inputs(takes: str) -> list[dict[str, Any]]:
    raw = {"name": takes, "data_type": Name("TYPE_STRING"), "dims": [-1]}
    if takes == "text":
        return [raw]
    pixels = {"name": "pixels", "data_type": Name("TYPE_UINT8"), "dims": [-1, -1, -1, 3]}
    return [{**one, "optional": True} for one in (raw, pixels)]


def _answer_outputs(bundle: Bundle) -> list[dict[str, Any]]:
    if bundle.manifest.task == "token_classification":
        return [{"name": "entities", "data_type": Name("TYPE_STRING"), "dims": [-1]}]
    return [
        {"name": "probabilities", "data_type": Name("TYPE_FP32"), "dims": [-1, len(bundle.manifest.labels)]},
        {"name": "label", "data_type": Name("TYPE_STRING"), "dims": [-1]},
        {"name": "score", "data_type": Name("TYPE_FP32"), "dims": [-1]},
    ]


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    """An input or output without the batch's axis, which Triton adds."""
    dims = [-1 if isinstance(length, str) else length for length in spec.shape[1:]]
    return {"name": spec.name, "data_type": Name(_type(spec)), "dims": dims}


def _output(spec: TensorSpec) -> dict[str, Any]:
    # With the labels' names Triton's classification extension answers by label.
    return {**_tensor(spec), **({"label_filename": _LABELS} if spec.name == "probabilities" else {})}


def _type(spec: TensorSpec) -> str:
    return f"TYPE_{_TYPES[spec.dtype]}"


def _little_endian(array: Array) -> bytes:
    return array.astype(array.dtype.newbyteorder("<")).tobytes()


def _write_warmup(
    model: Path, name: str, data_type: str, contents: Sequence[tuple[bytes, Sequence[int]]]
) -> list[dict[str, Any]]:
    """Write the files of warm-up requests, and say them as config.pbtxt wants it.

    Args:
        model: Folder of the model.
        name: Of the input.
        data_type: Of the input, as Triton says it.
        contents: Bytes and dims of each request.
    """
    entries = []
    for index, (content, dims) in enumerate(contents):
        file = f"golden-{index}"
        (model / "warmup" / file).write_bytes(content)
        value = {"data_type": Name(data_type), "dims": list(dims), "input_data_file": file}
        entries.append({"name": file, "batch_size": 1, "inputs": [{"key": name, "value": value}]})
    return entries


def _table(config: Mapping[str, Any]) -> str:
    """What goes in and what comes out, as config.pbtxt says it."""
    rows = ["| | | |", "|---|---|---|"]
    for kind in ("input", "output"):
        for one in config[kind]:
            data_type = one["data_type"].removeprefix("TYPE_").replace("STRING", "BYTES")
            rows.append(f"| {kind} | `{one['name']}` | {data_type} {one['dims']} |")
    return "\n".join(rows)
