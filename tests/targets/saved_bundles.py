"""Bundles with a SavedModel, of Keras models with random weights: what conversion writes, without its training."""

from pathlib import Path

import numpy as np
import onnx

from tests.convert.random_models import config_of, random_parts
from tests.image_files import one_of_each_kind
from tests.models.text_networks import randomised, text_config, text_network
from tests.serving.text_bundles import CLASSES, GOLDEN_TEXTS
from tests.targets.manifests import fp32_manifest
from tests.text.texts import CORPUS
from tfpipe.convert.conversion import Conversion
from tfpipe.convert.images import ImageConversion
from tfpipe.convert.texts import TextConversion
from tfpipe.core.bundle import seal, write_golden
from tfpipe.decode import decode_image
from tfpipe.export import KerasReference
from tfpipe.models.assembly import assemble_text
from tfpipe.models.text_zoo import Tokens
from tfpipe.tasks.single_label import SingleLabel
from tfpipe.text.packing import row_of
from tfpipe.text.tokenizer import open_saved
from tfpipe.text.train_tokenizer import train_tokenizer

MAX_LENGTH = 24
VERSION = "7"


def make_image_bundle(folder: Path) -> Path:
    """Of a small convolutional net; golden are image files of every kind."""
    config = config_of("model.name=small_cnn", "preprocessing.image_size=[12,10]")
    parts = random_parts(config)
    reference = KerasReference(parts)
    golden = [
        (f"{name.replace(' ', '-')}.bin", content, reference.probabilities(decode_image(content)))
        for name, content in one_of_each_kind().items()
    ]
    return _write(folder, ImageConversion(parts, config), "image_classification", parts.labels, golden)


def make_text_bundle(folder: Path, *, kind: str) -> Path:
    """Of a small network of texts; golden are awkward ones. Returns the bundle, which lies in the folder."""
    tokenizer = train_tokenizer(CORPUS, kind=kind, vocabulary_size=400)
    tokenizer.save(folder / "saved")
    saved = open_saved(folder / "saved")
    tokens = Tokens(tokenizer.vocabulary_size, tokenizer.pad_id, MAX_LENGTH)
    network = randomised(text_network("text_cnn", num_classes=len(CLASSES), tokens=tokens))
    parts = assemble_text(saved, network, SingleLabel(CLASSES), max_length=MAX_LENGTH)
    golden = []
    for number, text in enumerate(GOLDEN_TEXTS):
        row = row_of(tokenizer, tokenizer.encode(text).ids, MAX_LENGTH)
        golden.append((f"{number}.txt", text.encode(), np.asarray(parts.model(row[None], training=False))[0]))
    return _write(folder / "bundle", TextConversion(parts, text_config()), "text_classification", CLASSES, golden)


def _write(folder: Path, conversion: Conversion, task: str, labels, golden) -> Path:
    folder.mkdir()
    conversion.write_preprocessing(folder, {})
    path = folder / "model.fp32.onnx"
    onnx.save(conversion.network({}), path)
    (folder / "preprocessing.json").write_text(conversion.settings())
    conversion.write_saved_model(folder / "saved_model" / VERSION)
    write_golden(folder, golden)
    manifest = fp32_manifest(
        path,
        model_name="pets",
        model_version=VERSION,
        task=task,
        labels=tuple(labels),
        inputs=(conversion.input,),
        outputs=(conversion.output,),
        preprocess_inputs=conversion.preprocess_inputs,
    )
    seal(folder, manifest)
    return folder
