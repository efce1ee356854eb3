import io
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from serving.engine import Engine
from serving.source import ServedBundle
from tests.convert.random_models import ADAPTED, LABELS, config_of
from tests.models.text_networks import text_config
from tests.strategies import configs
from tests.text.texts import CORPUS, any_text
from tfpipe.convert.texts import TEXT, TextConversion
from tfpipe.convert.to_onnx import network_to_onnx, preprocessing_to_onnx, probabilities_spec, rows_spec
from tfpipe.core.bundle import Bundle, Manifest, Variant
from tfpipe.core.parity import ROWS, assert_parity
from tfpipe.data.pipeline import RowReader
from tfpipe.data.text import TextRow, TextSource
from tfpipe.data.token_rows import TokenReader
from tfpipe.distributed import World
from tfpipe.export import preprocessing_from_json, preprocessing_to_json
from tfpipe.inference.images import ImageInference
from tfpipe.inference.opening import open_inference, row_of_image
from tfpipe.models.assembly import assemble, assemble_text, build_network, build_preprocessing, known_normalization
from tfpipe.models.text_zoo import Tokens, build_text_network
from tfpipe.ort import open_session
from tfpipe.settings import PreprocessingConfig
from tfpipe.tasks.find import find_task
from tfpipe.text.keras_side import keras_ids, save_proved
from tfpipe.text.packing import pack
from tfpipe.text.tokenizer import open_saved
from tfpipe.text.train_tokenizer import train_tokenizer

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
    served = engine.prepare(content, {}).rows[0][None]

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


# Texts: by kind of tokenizer, the task and how it is trained.
TEXT_KINDS = {
    "wordpiece": ("text_classification", {"lowercase": True, "strip_accents": True}),
    "sentencepiece": ("token_classification", {}),
    "bpe": ("text_classification", {}),
}
TAGS = ("O", "B-X", "I-X")


@pytest.fixture(scope="module")
def text_pipelines(tmp_path_factory):
    """By kind of tokenizer: what training has, and the bundle that conversion writes of it."""
    made = {}
    for kind, (name, options) in TEXT_KINDS.items():
        folder = tmp_path_factory.mktemp(kind)
        save_proved(train_tokenizer(CORPUS, kind=kind, vocabulary_size=400, **options), folder / "trained")
        saved, task = open_saved(folder / "trained"), find_task(name, TAGS)
        tokens = Tokens(saved.tokenizer.vocabulary_size, saved.tokenizer.pad_id, 128)
        network = build_text_network(text_config(), tokens, len(TAGS), per_token=name == "token_classification")
        parts = assemble_text(saved, network, task, max_length=24)
        manifest = Manifest("drawn", None, name, TAGS, (), (), (TEXT,), {}, "fp32", {}, {}, "")
        TextConversion(parts, text_config()).write_preprocessing(folder, {})
        made[kind] = (parts, Bundle(folder, manifest, "0" * 64))
    return made


def served(parts, bundle, text):
    """A text as the service makes rows of it, from what conversion writes."""
    (bundle.folder / "preprocessing.json").write_text(TextConversion(parts, text_config()).settings(), encoding="utf-8")
    inference = open_inference(bundle)
    rows = inference.prepare(inference.decode(text.encode())).rows
    return rows, inference.batch(rows)


# Property 20 as above, of texts: any string, and any length of a row.
@settings(max_examples=100, deadline=None, derandomize=True)
@given(kind=st.sampled_from(sorted(TEXT_KINDS)), text=any_text(), max_length=st.integers(3, 40))
def test_training_and_serving_make_the_same_tokens_of_any_text(text_pipelines, kind, text, max_length):
    parts, bundle = text_pipelines[kind]
    parts = replace(parts, max_length=max_length)
    tokenizer = parts.tokenizer
    source = TextSource([TextRow("drawn", text, ("O",))], TAGS, kind="single", max_chars=10_000, where="drawn")
    reader = TokenReader(
        source, tokenizer, find_task("text_classification", TAGS), max_length=max_length, world=World()
    )

    trained_on, readable = reader.read(np.array([0]))
    rows, batch = served(parts, bundle, text)
    (ids,) = keras_ids(tokenizer, [text])

    assert readable.all()
    # A longer text to tag has further rows; training cuts it behind the first.
    np.testing.assert_array_equal(batch[:1], trained_on)
    assert rows[0].tolist() == pack(
        ids, max_length=max_length, start_id=tokenizer.start_id, end_id=tokenizer.end_id
    )  # fmt: skip


# Property 21 as above, of texts: the tokenizer's folder and the settings, written and read.
@settings(max_examples=100, deadline=None, derandomize=True)
@given(kind=st.sampled_from(sorted(TEXT_KINDS)), text=any_text(), max_length=st.integers(3, 40))
def test_a_saved_tokenizer_makes_the_rows_that_it_made_before(text_pipelines, kind, text, max_length):
    parts, bundle = text_pipelines[kind]
    parts = replace(parts, max_length=max_length)

    rows, _ = served(parts, bundle, text)

    before = parts.inference().prepare(text).rows
    assert [row.tolist() for row in rows] == [row.tolist() for row in before]
    assert all(len(row) <= max_length for row in rows)
