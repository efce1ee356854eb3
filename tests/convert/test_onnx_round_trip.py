import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.convert.random_models import config_of, random_parts
from tfpipe.convert.to_onnx import network_to_onnx, preprocessing_to_onnx
from tfpipe.core.parity import BOUNDS, ROWS, assert_parity
from tfpipe.export import KerasReference
from tfpipe.ort import open_session

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

# Plain convolutions, dense layers, and a family with depthwise convolutions, hard swish and squeeze-and-excitation.
MODELS = {
    "small_cnn": ["preprocessing.image_size=[16,16]"],
    "mlp": ["preprocessing.image_size=[16,16]"],
    "mobilenet_v3_small": ["preprocessing.image_size=[32,32]", "preprocessing.normalization=auto"],
}


@pytest.fixture(scope="module")
def models():
    """By name: Keras's answers, and the two ONNX graphs."""
    made = {}
    for name, overrides in MODELS.items():
        parts = random_parts(config_of(f"model.name={name}", *overrides), statistics=name == "small_cnn")
        graphs = (function(parts, opset=18, metadata={}) for function in (preprocessing_to_onnx, network_to_onnx))
        sessions = [open_session(graph.SerializeToString(), provider="cpu") for graph in graphs]
        layer = parts.preprocessing.normalization
        made[name] = (KerasReference(parts), *sessions, np.sqrt(np.asarray(layer.variance)).reshape(-1))
    return made


@st.composite
def images(draw):
    """(H, W, 3) uint8 of any size up to 80: noise within any range of grey, or a plain colour."""
    height, width = draw(st.integers(1, 80)), draw(st.integers(1, 80))
    low = draw(st.integers(0, 255))
    high = draw(st.integers(low, 255))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return random.integers(low, high + 1, (height, width, 3)).astype(np.uint8)


# Feature: deep-learning-pipeline, Property 10: ONNX round trip
@settings(max_examples=100, deadline=None, derandomize=True)
@given(name=st.sampled_from(sorted(MODELS)), batch=st.lists(images(), min_size=1, max_size=4))
def test_onnx_predicts_what_keras_predicts_for_any_input(models, name, batch):
    reference, preprocess, model, std = models[name]

    rows = np.stack([preprocess.run({"image": image})["input"] for image in batch])
    probabilities = model.run({"input": rows})["probabilities"]

    assert_parity(rows * std, np.stack([reference.rows(image) for image in batch]) * std, ROWS, where=f"rows of {name}")
    expected = np.stack([reference.probabilities(image) for image in batch])
    assert_parity(probabilities, expected, BOUNDS["fp32"], where=name)
    # Several rows at once, of Keras's own making.
    together = reference.probabilities_of_rows(np.stack([reference.rows(image) for image in batch]))
    assert_parity(probabilities, together, BOUNDS["fp32"], where=f"batch of {name}")
