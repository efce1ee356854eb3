"""TensorRT where it is missing, which is said item by item; and what there is to test without a GPU."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tfpipe.conversion_settings import ConversionConfig
from tfpipe.convert.backends import measure_engine, note_fallback
from tfpipe.convert.candidate import Measured
from tfpipe.convert.gate import Figures
from tfpipe.convert.report import Findings
from tfpipe.convert.to_tensorrt import (
    Surroundings,
    batches_of,
    calibration_batches,
    convert_saved_model,
    look_around,
    missing,
    require,
)
from tfpipe.core.bundle import Execution
from tfpipe.core.errors import ConfigError, ConversionError
from tfpipe.ort import open_session

pytestmark = [pytest.mark.tensorflow]

COMPLETE = Surroundings(
    gpus=("NVIDIA L4",),
    tensorflow="2.17.1",
    is_cuda_build=True,
    linked=(8, 6, 1),
    loaded=(8, 6, 1),
    onnxruntime="1.31.1",
    providers=("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
    has_library=True,
)


@pytest.mark.parametrize("backend", ["onnx", "tftrt", "tensorrt"])
def test_nothing_is_missing_where_everything_is_there(backend):
    assert missing(backend, COMPLETE) == []


@pytest.mark.parametrize(
    ("backend", "changes", "sentences"),
    [
        ("tftrt", {"gpus": ()}, ["A GPU: no NVIDIA GPU is seen."]),
        ("tensorrt", {"gpus": ()}, ["A GPU: no NVIDIA GPU is seen."]),
        ("tftrt", {"is_cuda_build": False}, ["CUDA in TensorFlow: 2.17.1 was built without."]),
        ("tftrt", {"linked": None}, ["TF-TRT in TensorFlow: 2.17.1 was built without; 2.17 is the last that has it."]),
        ("tftrt", {"loaded": None}, ["TensorRT 8: TensorFlow 2.17.1 was built against 8.6.1 and cannot load it. The "]),
        (
            "tftrt",
            {"loaded": (10, 3, 0)},
            ["TensorRT 8, from 8.6.1 on, which TensorFlow 2.17.1 was built against: it "],
        ),
        ("tftrt", {"loaded": (8, 5, 9)}, ["TensorRT 8, from 8.6.1 on, which TensorFlow 2.17.1 was built against: it "]),
        ("tftrt", {"loaded": (8, 6, 2)}, []),
        ("tensorrt", {"linked": None, "loaded": None}, []),
        (
            "tensorrt",
            {"providers": ("CPUExecutionProvider",)},
            ["ONNX Runtime's TensorRT provider: onnxruntime 1.31.1 offers CPU. Install onnxruntime-gpu in its place, "],
        ),
        ("tensorrt", {"has_library": False}, ["TensorRT 10: libnvinfer.so.10 cannot be loaded. Install it "]),
        ("tftrt", {"has_library": False, "providers": ()}, []),
        ("onnx", {"gpus": (), "loaded": None}, []),
    ],
)
def test_each_thing_that_is_missing_is_said(backend, changes, sentences):
    found = missing(backend, replace(COMPLETE, **changes))

    assert len(found) == len(sentences)
    assert all(one.startswith(sentence) for one, sentence in zip(found, sentences, strict=True))


def test_everything_that_is_missing_is_said_at_once():
    there = replace(COMPLETE, gpus=(), providers=("CPUExecutionProvider",), has_library=False)

    assert len(missing("tensorrt", there)) == 3


def test_a_backend_that_lacks_something_is_refused():
    with pytest.raises(ConfigError, match=r"--backend tftrt: .* it lacks: A GPU: .* or add --allow-fallback") as caught:
        require("tftrt", allow_fallback=False, look=lambda: replace(COMPLETE, gpus=()))

    assert caught.value.exit_code == 2


def test_a_fallback_that_is_allowed_is_recorded():
    fallback = require("tensorrt", allow_fallback=True, look=lambda: replace(COMPLETE, gpus=()))
    findings = Findings("m", "int8", ConversionConfig())

    note_fallback(findings, fallback)

    assert findings.measured_on["fallback"] == {"backend": "tensorrt", "missing": ["A GPU: no NVIDIA GPU is seen."]}
    assert findings.notes == [
        "--backend tensorrt was asked for; ONNX Runtime stands in, as it lacks: A GPU: no NVIDIA GPU is seen."
    ]


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("backend", ["onnx", "tftrt", "tensorrt"])
def test_a_backend_that_lacks_nothing_is_no_fallback(backend, allowed):
    assert require(backend, allow_fallback=allowed, look=lambda: COMPLETE) is None


def test_an_unknown_backend_is_refused():
    with pytest.raises(ConfigError, match="--backend: expected onnx, tftrt, tensorrt, received 'openvino'"):
        require("openvino", allow_fallback=True)


def test_this_machine_is_looked_at_without_harm():
    there = look_around()

    assert there.tensorflow.startswith("2.17")
    assert there.linked == (8, 6, 1)
    if there.loaded is None:
        assert any(one.startswith("TensorRT 8: ") for one in missing("tftrt", there))


@pytest.mark.skipif("not look_around().gpus == ()", reason="a GPU is here")
def test_tf_trt_that_fails_is_one_sentence(tmp_path):
    with pytest.raises(ConversionError, match="--backend tftrt: expected TF-TRT to convert the SavedModel; "):
        convert_saved_model(tmp_path / "1", tmp_path / "out", precision="fp16", batches=[], calibration=[])


def padded(rows):
    """Rows of ids as a batch, in steps of four."""
    length = -(-max(map(len, rows)) // 4) * 4
    return np.stack([np.pad(row, (0, length - len(row))) for row in rows])


def test_a_profile_spans_from_the_shortest_row_to_a_batch_of_the_longest():
    rows = [np.ones(length, np.int32) for length in (9, 2, 5)]

    smallest, largest = batches_of(rows, padded, 8)

    assert (smallest.shape, largest.shape) == ((1, 4), (8, 12))


@pytest.mark.parametrize("lengths", [(5,), (3, 9, 2), (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11), (8, 8, 8, 8, 1)])
def test_calibration_has_every_row_and_one_shape(lengths):
    rows = [np.full(length, length, np.int32) for length in lengths]

    batches = calibration_batches(rows, padded, 4)

    assert len({batch.shape for batch in batches}) == 1
    seen = {int(row[0]) for batch in batches for row in batch}
    assert seen == set(lengths)


def test_an_engine_gets_the_figures_of_its_own_answers():
    weights = np.eye(3, dtype=np.float32)
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3])
    result = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 3])
    nodes = [helper.make_node("MatMul", ["input", "w"], ["l"]), helper.make_node("Softmax", ["l"], ["probabilities"])]
    graph = helper.make_graph(nodes, "g", [given], [result], [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    engine = open_session(model.SerializeToString(), provider="cpu")
    conversion = SimpleNamespace(batch=np.stack, cut=lambda probabilities, rows: list(probabilities))
    rows = list(np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32))
    expected = engine.run({"input": np.stack(rows)})["probabilities"] + np.float32(0.25)
    on_cpu = Measured(
        SimpleNamespace(),
        Execution("int8", latency_ms={"1": {"p50": 5.0}}),
        Figures("int8", 10, 10, 0.9, p50_ms=5.0),
        0.0,
    )

    measured = measure_engine(engine, on_cpu, conversion, list(zip(rows, expected, strict=True)), None)

    assert measured.execution.variant == "int8"
    assert measured.execution.golden_max_abs_diff == pytest.approx(0.25, abs=1e-4)
    assert measured.execution.batch_invariant
    assert set(measured.execution.latency_ms) == {"1", "8"}
    assert measured.figures.p50_ms == measured.execution.latency_ms["1"]["p50"] != 5.0
    assert measured.figures.score is None
