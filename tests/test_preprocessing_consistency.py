import io
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from serving.engine import Engine, Outcome
from serving.source import ServedBundle
from tests.convert.random_models import ADAPTED, LABELS, config_of
from tests.strategies import configs
from tfpipe.convert.to_onnx import network_to_onnx, preprocessing_to_onnx, probabilities_spec, rows_spec
from tfpipe.core.bundle import Bundle, Manifest, Variant
from tfpipe.core.parity import ROWS, assert_parity
from tfpipe.data.pipeline import RowReader
from tfpipe.export import preprocessing_from_json, preprocessing_to_json
from tfpipe.inference.images import ImageInference
from tfpipe.inference.opening import row_of_image
from tfpipe.models.assembly import assemble, build_network, build_preprocessing, known_normalization
from tfpipe.ort import open_session
from tfpipe.settings import PreprocessingConfig

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

# Every way of resizing and of normalising, on rows of odd sizes.
PREPROCESSING = {
    "stretched": ["preprocessing.image_size=[16,16]", "preprocessing.normalization=adapt"],
    "cropped and filtered": [
        "preprocessing.image_size=[19,23]", "preprocessing.resize=crop", "preprocessing.antialias=true",
        "preprocessing.normalization=imagenet",
    ],
    "padded, nearest": [
        "preprocessing.image_size=[24,10]", "preprocessing.resize=pad", "preprocessing.interpolation=nearest",
        "preprocessing.normalization=none",
    ],
    "bicubic": [
        "preprocessing.image_size=[15,31]", "preprocessing.interpolation=bicubic", "preprocessing.antialias=true",
        "preprocessing.normalization=fixed", "preprocessing.mean=[0.1,0.5,0.9]", "preprocessing.std=[0.3]",
    ],
}  # fmt: skip
# (file format, Pillow modes that it can hold)
FORMATS = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
    "BMP": ("RGB", "L", "P"),
    "GIF": ("L", "P"),
    "WEBP": ("RGB", "RGBA"),
}
ORIENTATION = 0x0112


class OneSample:
    """A source of one sample."""

    labels = LABELS

    def __init__(self, sample):
        self._sample = sample

    def __len__(self):
        return 1

    def identifier(self, index):
        return "drawn"

    def label(self, index):
        return 0

    def stamp(self, index):
        return ""

    def read(self, index):
        return self._sample, 0


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    """By name: the layers that training uses, and the service's engine on their converted form."""
    made = {}
    for name, overrides in PREPROCESSING.items():
        config = config_of("model.name=mlp", *overrides)
        preprocessing = build_preprocessing(config.preprocessing, known_normalization(config) or ADAPTED)
        parts = assemble(preprocessing, build_network(config, len(LABELS)), LABELS)
        graphs = [function(parts, opset=18, metadata={}) for function in (preprocessing_to_onnx, network_to_onnx)]
        made[name] = (preprocessing, _engine(parts, *graphs, tmp_path_factory.mktemp("bundle")))
    return made


def _engine(parts, preprocess, model, folder):
    variant = Variant("fp32", "model.fp32.onnx", {}, 0, {}, {}, True, 0.0, {})
    manifest = Manifest(
        "drawn", None, "image_classification", LABELS, (rows_spec(parts),), (probabilities_spec(parts),), (),
        {"fp32": variant}, "fp32", {}, {}, "",
    )  # fmt: skip
    return Engine(
        ServedBundle(Bundle(folder, manifest, "0" * 64), "drawn", None, ()), variant,
        inference=ImageInference(
            partial(row_of_image, open_session(preprocess.SerializeToString(), provider="cpu", threads=1)), LABELS
        ),
        model=open_session(model.SerializeToString(), provider="cpu", threads=1),
        max_batch_size=8,
    )  # fmt: skip


@st.composite
def image_files(draw):
    """An image file of any format, mode, size up to 90, and EXIF orientation."""
    image_format = draw(st.sampled_from(sorted(FORMATS)))
    mode = draw(st.sampled_from(FORMATS[image_format]))
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if mode == "I;16":
        image = Image.fromarray(random.integers(0, 2**16, (height, width), dtype=np.uint16))
    else:
        image = Image.fromarray(random.integers(0, 256, (height, width, 4), dtype=np.uint8)).convert(
            "RGB" if mode == "CMYK" else mode
        )
        image = image.convert(mode)
    options = {}
    if image_format == "JPEG":
        options = {"quality": draw(st.integers(1, 100)), "progressive": draw(st.booleans())}
    if image_format in ("JPEG", "PNG", "WEBP"):
        exif = Image.Exif()
        exif[ORIENTATION] = draw(st.integers(0, 9))
        options["exif"] = exif
    content = io.BytesIO()
    image.save(content, image_format, **options)
    return content.getvalue()


# Feature: deep-learning-pipeline, Property 20: Preprocessing consistent
@settings(max_examples=100, deadline=None, derandomize=True)
@given(name=st.sampled_from(sorted(PREPROCESSING)), content=image_files())
def test_training_and_serving_preprocess_any_sample_alike(pipelines, name, content):
    preprocessing, engine = pipelines[name]
    reader = RowReader(OneSample(content), preprocessing.resize, max_pixels=1_000_000, cache="none", threads=1)

    resized, readable = reader.read(np.array([0]))
    trained_on = np.asarray(preprocessing.normalized(resized))
    served = engine.prepare(content, Outcome()).rows[0][None]

    assert readable.all()
    assert served.shape == trained_on.shape
    std = np.sqrt(np.asarray(preprocessing.normalization.variance, np.float32)).reshape(-1)
    assert_parity(served * std, trained_on * std, ROWS, where=name)


@st.composite
def preprocessing_configs(draw):
    """Any valid preprocessing section, on rows small enough to be compared."""
    values = draw(configs()).preprocessing.model_dump(mode="json")
    height = draw(st.integers(1, 24))
    width = height if values["augmentation"]["quarter_turns"] else draw(st.integers(1, 24))
    return PreprocessingConfig.model_validate(values | {"image_size": [height, width]})


# Feature: deep-learning-pipeline, Property 21: Preprocessing round trip
@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    config=preprocessing_configs(), seed=st.integers(0, 2**32 - 1), height=st.integers(1, 60), width=st.integers(1, 60)
)
def test_a_saved_preprocessing_transforms_as_it_did_before(config, seed, height, width):
    normalization = known_normalization(config_of("model.name=mlp").model_copy(update={"preprocessing": config}))
    before = build_preprocessing(config, normalization or ADAPTED)
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    draws = random.random((2, 9), dtype=np.float32)

    after, read = preprocessing_from_json(preprocessing_to_json(before, config))

    assert read == config
    np.testing.assert_array_equal(after.rows(images), before.rows(images))
    resized = before.resize(images)
    np.testing.assert_array_equal(
        after.augmentation(resized, draws, training=True), before.augmentation(resized, draws, training=True)
    )
