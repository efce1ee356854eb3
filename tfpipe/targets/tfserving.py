"""TensorFlow Serving: `NAME/VERSION/` with the SavedModel, and requests to warm it up with."""

import shutil
from pathlib import Path

from tfpipe.core.bundle import Bundle
from tfpipe.core.errors import BundleError
from tfpipe.inference.texts import TEXT_TASKS
from tfpipe.targets.answering import is_of_tensors
from tfpipe.targets.golden import golden_requests
from tfpipe.targets.job import Job
from tfpipe.targets.readme import render
from tfpipe.targets.warmup import WARMUP_FILE, signatures_of, write_warmup

_MEANING = {
    "image_bytes": "string (batch): image files, upright 8-bit JPEG, PNG, BMP of 24 bits or GIF",
    "pixels": "uint8 (batch, height, width, 3)",
    "text": "string (batch): texts",
    "input": "preprocessed rows, or token ids, batch first",
}


def write_tfserving(job: Job, folder: Path) -> None:
    """Write NAME/VERSION and a README.

    Raises:
        BundleError: The bundle holds no SavedModel.
    """
    target = folder / job.name / job.version
    shutil.copytree(_saved_model(job.bundle), target)
    if not (target / WARMUP_FILE).is_file():
        write_warmup(target, golden_requests(job.bundle))
    (folder / "README.md").write_text(_readme(job, target), encoding="utf-8")


def _saved_model(bundle: Bundle) -> Path:
    found = sorted(bundle.folder.glob("saved_model/*/saved_model.pb"))
    if not found:
        raise BundleError(
            f"{bundle.folder}: expected a SavedModel (saved_model/VERSION), found none. Convert the model again."
        )
    return found[-1].parent


def _readme(job: Job, saved_model_dir: Path) -> str:
    signatures = signatures_of(saved_model_dir)
    rows = [f"| `{name}` | {'; '.join(map(_described, inputs))} |" for name, inputs in sorted(signatures.items())]
    outputs = ", ".join(f"`{spec.name}`" for spec in job.bundle.manifest.outputs)
    answers = outputs if is_of_tensors(job.bundle) else "`probabilities`, and `label` and `score` of the most probable"
    limits = ""
    if "text" in signatures.get("serving_default", ()):
        limits = " `serving_default` needs the kernels of TensorFlow Text in the server."
    elif job.bundle.manifest.task in TEXT_TASKS:
        limits = " No signature takes strings: no Keras layer gives the token ids of this tokenizer."
    return render("tfserving", job, signatures="\n".join(rows), answers=answers, limits=limits, warmup=WARMUP_FILE)


def _described(name: str) -> str:
    return f"`{name}`: {_MEANING[name]}" if name in _MEANING else f"`{name}`"
