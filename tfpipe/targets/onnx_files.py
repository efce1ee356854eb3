"""Plain ONNX: the graphs of one variant with the labels and golden samples, composed to one graph where they can be."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import compose, helper, numpy_helper, version_converter

from tfpipe.core.bundle import read_golden
from tfpipe.core.errors import ConversionError
from tfpipe.core.parity import assert_parity, golden_bound
from tfpipe.decode import decode_image
from tfpipe.inference.interface import Inference
from tfpipe.inference.opening import PREPROCESS_FILE
from tfpipe.inference.tensors import TensorModel
from tfpipe.ort import open_session
from tfpipe.targets.answering import open_proved
from tfpipe.targets.carried import labels_text
from tfpipe.targets.job import Job
from tfpipe.targets.readme import render, tensor_table
from tfpipe.text import tokenizer as tokenizers

WHOLE = "whole.onnx"
MODEL = "model.onnx"
# Of names in the model's graph, which Keras would not give.
_PREFIX = "whole/rows_to_answers/"
_AXIS = "whole/first_axis"
_BATCH = "whole/batch"


def write_onnx(job: Job, folder: Path) -> None:
    """Write model.onnx, golden/, README.md and what stands around the model.

    That is labels.txt, of images preprocess.onnx and whole.onnx, of texts tokenizer/; of named tensors nothing.

    Raises:
        ConversionError: The graphs cannot be composed.
        GateError: The golden samples are answered otherwise than they may be.
    """
    model = open_proved(job.bundle, job.variant.precision)
    shutil.copyfile(job.bundle.path(job.variant.file), folder / MODEL)
    shutil.copytree(job.bundle.path("golden"), folder / "golden")
    if isinstance(model, TensorModel):
        readme = render("onnx_tensors", job, table=tensor_table(job.bundle.manifest))
    else:
        readme = _write_around(job, folder, model.inference)
    (folder / "README.md").write_text(readme, encoding="utf-8")


def _write_around(job: Job, folder: Path, inference: Inference) -> str:
    """Write what stands before the model and after it; returns the README."""
    (folder / "labels.txt").write_text(labels_text(job.bundle), encoding="utf-8")
    if inference.takes == "image":
        shutil.copyfile(job.bundle.path(PREPROCESS_FILE), folder / PREPROCESS_FILE)
        onnx.save(compose_whole(onnx.load(folder / PREPROCESS_FILE), onnx.load(folder / MODEL)), folder / WHOLE)
        _check_whole(job, folder / WHOLE)
    else:
        shutil.copytree(job.bundle.path(tokenizers.FOLDER), folder / tokenizers.FOLDER)
    return _readme(job, inference)


def compose_whole(preprocess: onnx.ModelProto, model: onnx.ModelProto) -> onnx.ModelProto:
    """One graph of one image: `image` uint8 (height, width, 3) -> the model's outputs without the batch's axis.

    Args:
        preprocess: `image` -> a row without the batch's axis.
        model: A batch of rows -> outputs whose first axis is the batch.

    Raises:
        ConversionError: They cannot be composed.
    """
    try:
        opset, ir_version = max(_opset(preprocess), _opset(model)), max(preprocess.ir_version, model.ir_version)
        first, second = (_brought_to(graph, opset, ir_version) for graph in (preprocess, model))
        # The second alone: a prefix would take the first one's input with it, whose name clients give.
        second = compose.add_prefix(second, _PREFIX)
        _add_batch_axis(first)
        whole = compose.merge_models(first, second, io_map=[(_BATCH, second.graph.input[0].name)])
        _drop_batch_axis(whole, [output.name for output in model.graph.output])
        onnx.checker.check_model(whole, full_check=True)
    except (ValueError, RuntimeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionError(f"{WHOLE}: expected preprocessing and model to compose to one graph; {error}") from error
    return whole


def _brought_to(model: onnx.ModelProto, opset: int, ir_version: int) -> onnx.ModelProto:
    """A copy at an opset and IR version, which two graphs must share to become one; without its metadata."""
    brought = onnx.ModelProto()
    brought.CopyFrom(model if _opset(model) == opset else version_converter.convert_version(model, opset))
    brought.ir_version = ir_version
    # What a part says of itself is not true of the whole.
    del brought.metadata_props[:]
    return brought


def _opset(model: onnx.ModelProto) -> int:
    return int(next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))


def _add_batch_axis(model: onnx.ModelProto) -> None:
    """Let a graph that gives one row give a batch of one."""
    [row] = model.graph.output
    tensor = row.type.tensor_type
    shape = [1, *(axis.dim_value for axis in tensor.shape.dim)]
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), _AXIS))
    model.graph.node.append(helper.make_node("Unsqueeze", [row.name, _AXIS], [_BATCH]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info(_BATCH, tensor.elem_type, shape))


def _drop_batch_axis(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Let a graph that answers batches answer one row, under the names that its outputs had."""
    for output, name in zip(model.graph.output, names, strict=True):
        tensor = output.type.tensor_type
        shape = [axis.dim_value or axis.dim_param for axis in tensor.shape.dim][1:]
        model.graph.node.append(helper.make_node("Squeeze", [output.name, _AXIS], [name]))
        output.CopyFrom(helper.make_tensor_value_info(name, tensor.elem_type, shape))


def _check_whole(job: Job, path: Path) -> None:
    """Prove the composed graph on the golden samples."""
    session = open_session(path, provider="cpu", threads=1)
    bound = golden_bound(job.variant.precision, job.variant.golden_max_abs_diff)
    output = job.bundle.manifest.outputs[0].name
    for sample in read_golden(job.bundle):
        pixels = decode_image(job.bundle.path(sample.file).read_bytes())
        answer = session.run({session.input_names[0]: pixels}, [output])[output]
        assert_parity(answer, sample.probabilities, bound, where=f"{WHOLE}, golden sample {sample.file}")


def _readme(job: Job, inference: Inference) -> str:
    outputs = job.bundle.manifest.outputs
    return render(
        "onnx_images" if inference.takes == "image" else "onnx_texts",
        job,
        output=outputs[0].name,
        outputs=", ".join(f"`{one.name}`" for one in outputs),
        sample=read_golden(job.bundle)[0].file,
        max_length=inference.lengths[-1],
    )
