"""The larger families that tfpipe brings, through every step that changes a graph."""

import numpy as np
import onnx
import pytest

from tests.convert.random_models import config_of, random_parts
from tfpipe.convert.half import to_float16
from tfpipe.convert.quantize import to_int8
from tfpipe.convert.recipe import Recipe
from tfpipe.convert.to_onnx import network_to_onnx
from tfpipe.convert.weights import list_weights, weight_bytes
from tfpipe.core.parity import BOUNDS, assert_parity
from tfpipe.export import KerasReference
from tfpipe.ort import open_session

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0"])
def test_a_family_is_converted_halved_and_quantised(name):
    overrides = ["preprocessing.image_size=[32,32]", "preprocessing.normalization=auto"]
    parts = random_parts(config_of(f"model.name={name}", *overrides), statistics=False)
    pixels = np.random.default_rng(1).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    rows = np.asarray(parts.preprocessing.rows(pixels))

    fp32 = network_to_onnx(parts, opset=18, metadata={})
    before = weight_bytes(fp32)
    expected = KerasReference(parts).probabilities_of_rows(rows)
    assert_parity(_answers(fp32, rows), expected, BOUNDS["fp32"], where=name)

    int8 = to_int8(fp32, [{"input": rows}], Recipe("all", "minmax"))
    fp16, kept = to_float16(fp32)
    for precision, graph, reasons in (("fp16", fp16, kept), ("int8", int8, {})):
        onnx.checker.check_model(graph)
        assert np.isfinite(_answers(graph, rows)).all()
        assert weight_bytes(graph) <= 0.51 * before
        listed = list_weights(graph, precision, reasons)
        assert len(listed["converted"]) > len(parts.network.layers) / 5


def _answers(graph, rows):
    return open_session(graph.SerializeToString(), provider="cpu").run({"input": rows})["probabilities"]
