import io

import numpy as np
import pytest
from PIL import Image

from tests.convert.random_models import config_of, random_parts
from tests.image_files import one_of_each_kind, picture, with_orientation
from tfpipe.convert.hops import ImageComparison, generated_samples
from tfpipe.convert.to_onnx import network_to_onnx, preprocessing_to_onnx
from tfpipe.convert.trained import RawSample
from tfpipe.core.errors import GateError
from tfpipe.decode import decode_image
from tfpipe.export import export_saved_model
from tfpipe.ort import open_session
from tfpipe.verify.saved_model import load_saved_model

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def parts():
    return random_parts(config_of("model.name=mlp", "preprocessing.image_size=[8,8]"))


@pytest.fixture(scope="module")
def sessions(parts):
    graphs = (function(parts, opset=18, metadata={}) for function in (preprocessing_to_onnx, network_to_onnx))
    return [open_session(graph.SerializeToString(), provider="cpu") for graph in graphs]


class Shifted:
    """An ONNX model whose outputs are off by a constant."""

    def __init__(self, model, offset):
        self._model, self._offset = model, offset

    def run(self, inputs):
        return {name: value + np.float32(self._offset) for name, value in self._model.run(inputs).items()}


def samples_of(contents):
    return [RawSample(name, content, decode_image(content)) for name, content in contents.items()]


def test_every_hop_of_a_right_conversion_is_within_its_bound(parts, sessions):
    preprocess, model = sessions
    comparison = ImageComparison(parts, samples_of(one_of_each_kind()), preprocess)

    whole = comparison.check_model("fp32", model, comparison.check_preprocessing())

    assert [hop.name for hop in comparison.hops] == [
        "preprocess",
        "fp32.rows",
        "fp32",
    ]
    assert all(hop.num_files == len(one_of_each_kind()) + len(generated_samples()) for hop in comparison.hops)
    assert [hop.agreement for hop in comparison.hops] == [None, 1.0, 1.0]
    np.testing.assert_allclose(whole, comparison.probabilities, atol=1e-4)


@pytest.mark.parametrize("offset", [3e-3, np.nan])
def test_rows_that_differ_fail_the_first_hop(parts, sessions, offset):
    with pytest.raises(
        GateError,
        match=r"pixels -> preprocess\.onnx: expected rows within 0\.0001|preprocess\.onnx: expected finite rows",
    ):
        ImageComparison(parts, [], Shifted(sessions[0], offset)).check_preprocessing()


@pytest.mark.parametrize("offset", [2e-3, np.nan])
def test_answers_that_differ_fail_the_hop_of_their_precision(parts, sessions, offset):
    comparison = ImageComparison(parts, [], sessions[0])
    rows = comparison.check_preprocessing()

    with pytest.raises(
        GateError, match=r"rows -> model\.fp32\.onnx: expected (probabilities within|finite probabilities)"
    ):
        comparison.check_model("fp32", Shifted(sessions[1], offset), rows)


def test_int8_has_no_bound_on_one_answer_but_must_answer(parts, sessions):
    comparison = ImageComparison(parts, [], sessions[0])
    rows = comparison.check_preprocessing()

    comparison.check_model("int8", Shifted(sessions[1], 0.25), rows)

    assert comparison.hops[-1].bound is None
    assert comparison.hops[-1].max_abs_diff == pytest.approx(0.25, abs=1e-4)
    with pytest.raises(GateError, match=r"model\.int8\.onnx: expected finite probabilities, received NaN or infinity"):
        comparison.check_model("int8", Shifted(sessions[1], np.nan), rows)


def test_the_saved_model_is_asked_for_bytes_only_where_tensorflow_reads_them_alike(parts, sessions, tmp_path):
    export_saved_model(parts, tmp_path / "1")
    contents = one_of_each_kind() | {"jpeg upside down": with_orientation(picture(), 3)}
    comparison = ImageComparison(parts, samples_of(contents), sessions[0])

    comparison.check_saved_model(load_saved_model(tmp_path / "1"))

    counts = {hop.name: hop.num_files for hop in comparison.hops}
    everything = len(contents) + len(generated_samples())
    assert counts["saved_model.pixels"] == counts["saved_model.tensor"] == everything
    # WebP, CMYK, 16 bits, palettes in BMP, several pictures in one JPEG, turned ones.
    assert everything - 12 <= counts["saved_model.serving_default"] < everything


def test_generated_pictures_are_of_many_sizes_and_the_same_each_time():
    first, second = generated_samples(), generated_samples()

    assert [sample.content for sample in first] == [sample.content for sample in second]
    assert (1, 1, 3) in {sample.sample.shape for sample in first}
    assert {Image.open(io.BytesIO(sample.content)).format for sample in first} == {"PNG", "JPEG"}


def test_generated_pictures_have_colours_that_swapped_channels_change():
    blue_for_red = [np.ptp(one.sample[..., [0, 2]].astype(int), axis=-1).mean() for one in generated_samples()]

    # Half of the pixels have one of the two and not the other.
    assert sum(change > 100 for change in blue_for_red) >= 3
