"""MLflow: a model folder of the flavor python_function, which holds the bundle and the code that answers."""

import logging
import tempfile
from pathlib import Path

# First: it sets what must be set before MLflow is imported.
import tfpipe.store  # noqa: F401  # isort: skip
import mlflow.pyfunc
import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import Array, Map, Object, Property

from tfpipe.core.bundle import Bundle, read_golden
from tfpipe.inference.tensors import TensorModel
from tfpipe.targets.answering import BundleAnswers, open_proved
from tfpipe.targets.carried import copy_code, requirements
from tfpipe.targets.golden import golden_requests
from tfpipe.targets.job import Job
from tfpipe.targets.readme import render, tensor_table

# They tell of each step, and of a missing pip, which nothing here needs.
for _name in ("mlflow.pyfunc", "mlflow.utils.environment"):
    logging.getLogger(_name).setLevel(logging.ERROR)

LOADER = "tfpipe.targets.mlflow_loader"
_FOR_README = {
    "image": {
        "example": 'answers = model.predict([open("image.png", "rb").read()])',
        "takes": "image files, as bytes or in base64",
        "encoded": "files in base64",
        "column": "image",
    },
    "text": {
        "example": 'answers = model.predict(["a text"])',
        "takes": "texts",
        "encoded": "texts as they are",
        "column": "text",
    },
}


def write_mlflow(job: Job, folder: Path) -> None:
    """Write the MLmodel, the bundle, the code and a README.

    Raises:
        GateError: The golden samples are answered otherwise than they may be.
    """
    # Proved here and now, and again wherever it is loaded.
    model = open_proved(job.bundle, job.variant.precision)
    signature = _signature_of_tensors(job.bundle) if isinstance(model, TensorModel) else _signature(model)
    with tempfile.TemporaryDirectory(prefix="tfpipe-export-") as scratch:
        copy_code(Path(scratch))
        mlflow.pyfunc.save_model(
            path=str(folder),
            loader_module=LOADER,
            data_path=str(job.bundle.folder),
            code_paths=[str(Path(scratch) / "tfpipe")],
            signature=signature,
            input_example=golden_requests(job.bundle)[0] if isinstance(model, TensorModel) else _example(model),
            pip_requirements=[f"mlflow=={mlflow.__version__}", *requirements(job.bundle)],
            model_config={"precision": job.variant.precision},
            metadata={"bundle": job.bundle.sha256, "model_name": job.name, "model_version": job.version},
        )
    if isinstance(model, TensorModel):
        readme = render("mlflow_tensors", job, table=tensor_table(job.bundle.manifest))
    else:
        readme = render("mlflow", job, **_FOR_README[model.inference.takes])
    (folder / "README.md").write_text(readme, encoding="utf-8")


def _example(answers: BundleAnswers) -> list[bytes | str]:
    """One golden sample, as a client may send it; an empty text would show nothing."""
    contents = [answers.bundle.path(sample.file).read_bytes() for sample in read_golden(answers.bundle)]
    content = next((content for content in contents if content), b"")
    return [content if answers.inference.takes == "image" else content.decode()]


def _signature(answers: BundleAnswers) -> ModelSignature:
    # Without a name, so that lists are taken as well as DataFrames of one column, whatever its name.
    given = ColSpec(DataType.binary if answers.inference.takes == "image" else DataType.string)
    return ModelSignature(inputs=Schema([given]), outputs=Schema(_columns(answers)))


def _signature_of_tensors(bundle: Bundle) -> ModelSignature:
    inputs, outputs = (
        Schema([TensorSpec(np.dtype(one.dtype), [_length(axis) for axis in one.shape], one.name) for one in specs])
        for specs in (bundle.manifest.inputs, bundle.manifest.outputs)
    )
    return ModelSignature(inputs=inputs, outputs=outputs)


def _length(axis: int | str) -> int:
    return -1 if isinstance(axis, str) else axis


def _columns(answers: BundleAnswers) -> list[ColSpec | TensorSpec]:
    """The columns of the answers; see `tfpipe.core.postprocess`."""
    manifest = answers.bundle.manifest
    label, score = Property("label", DataType.string), Property("score", DataType.double)
    if manifest.task == "token_classification":
        place = [Property("start", DataType.long), Property("end", DataType.long)]
        entity = Object([Property("text", DataType.string), label, *place, score])
        return [ColSpec(Array(entity), "entities")]
    probabilities = ColSpec(Map(DataType.double), "probabilities")
    if manifest.multi_label:
        return [ColSpec(Array(Object([label, score])), "labels"), probabilities]
    return [ColSpec(DataType.string, "label"), ColSpec(DataType.double, "score"), probabilities]
