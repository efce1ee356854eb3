import keras
import numpy as np
import pytest
import tensorflow as tf
from onnx.helper import get_node_attr_value

from tests.convert.random_models import config_of
from tfpipe.convert.onnx_file import all_nodes
from tfpipe.convert.tensor_function import of_keras
from tfpipe.convert.to_onnx import preprocessing_to_onnx, tensors_to_onnx
from tfpipe.core.errors import ConversionError
from tfpipe.core.parity import ROWS, assert_parity
from tfpipe.export import KerasReference
from tfpipe.models.assembly import assemble, build_network, build_preprocessing
from tfpipe.models.zoo import Normalization
from tfpipe.ort import open_session

pytestmark = pytest.mark.tensorflow

# (height, width): the target itself, larger, smaller, odd, long and thin, single pixels, no common factor.
SIZES = ((24, 20), (48, 40), (12, 10), (1, 1), (1, 50), (50, 1), (23, 21), (7, 301), (301, 7), (127, 89), (480, 641))
METHODS = ("bilinear", "bilinear,antialias", "nearest", "bicubic,antialias")
MODES = ("stretch", "crop", "pad")


def _parts(method, mode):
    interpolation, _, antialias = method.partition(",")
    config = config_of(
        "model.name=mlp", "preprocessing.image_size=[24,20]", "preprocessing.normalization=none",
        f"preprocessing.interpolation={interpolation}", f"preprocessing.antialias={bool(antialias)}",
        f"preprocessing.resize={mode}",
    )  # fmt: skip
    preprocessing = build_preprocessing(config.preprocessing, Normalization((0.0,), (1.0,)))
    return assemble(preprocessing, build_network(config, 2), ("a", "b"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", METHODS)
def test_every_way_of_resizing_gives_keras_rows_at_every_size(method, mode):
    parts = _parts(method, mode)
    graph = preprocessing_to_onnx(parts, opset=18, metadata={}).SerializeToString()
    session, reference = open_session(graph, provider="cpu"), KerasReference(parts)
    random = np.random.default_rng(4)

    for size in SIZES:
        pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        received = session.run({"image": pixels})["input"]
        where = f"{method}, {mode}, {size}"
        assert_parity(received, reference.rows(pixels), ROWS, where=where)


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_choosing_pixels_is_bit_equal(method):
    parts = _parts(method, "stretch")
    graph = preprocessing_to_onnx(parts, opset=18, metadata={}).SerializeToString()
    session, reference = open_session(graph, provider="cpu"), KerasReference(parts)
    pixels = np.random.default_rng(4).integers(0, 256, (481, 641, 3), dtype=np.uint8)

    received, expected = session.run({"image": pixels})["input"], reference.rows(pixels)

    if method == "nearest":
        np.testing.assert_array_equal(received, expected)
    # Rescaling may fuse with the blend: one unit in the last place.
    np.testing.assert_allclose(received, expected, rtol=0, atol=2**-23)


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_several_images_of_any_number_of_channels_are_resized_alike(method):
    images = keras.Input((None, None, 4), name="images")
    resized = keras.layers.Lambda(lambda given: tf.image.resize(given, (6, 9), method), output_shape=(6, 9, 4))(images)
    model = keras.Model(images, resized)
    graph = tensors_to_onnx(of_keras(model), opset=18, metadata={"graph": "tensors"})
    session = open_session(graph.SerializeToString(), provider="cpu")
    given = np.random.default_rng(4).random((2, 7, 5, 4), np.float32)

    (received,) = session.run({session.input_names[0]: given}).values()

    np.testing.assert_array_equal(received, tf.image.resize(given, (6, 9), method).numpy())


def test_no_part_is_cut_out_of_an_image_that_is_taken_whole():
    graph = preprocessing_to_onnx(_parts("bilinear", "stretch"), opset=18, metadata={})

    # ONNX Runtime copies for each Slice, though it may leave nothing out.
    assert "Slice" not in {node.op_type for node in all_nodes(graph.graph)}


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_no_pixel_is_picked_as_a_piece_of_its_own(method):
    graph = preprocessing_to_onnx(_parts(method, "stretch"), opset=18, metadata={})

    axes = [get_node_attr_value(node, "axis") for node in all_nodes(graph.graph) if node.op_type == "Gather"]

    # Of the shape's numbers, and of rows and columns, which are numbers side by side; pixels would be along axis 2.
    assert set(axes) == {0, 1}


def test_antialiasing_under_the_older_operator_set_is_refused():
    with pytest.raises(
        ConversionError, match=r"expected conversion\.opset=18, which antialiased resizing needs, received 17"
    ):
        preprocessing_to_onnx(_parts("bilinear,antialias", "stretch"), opset=17, metadata={})
