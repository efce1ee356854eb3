"""Bundles that know what they were trained on, and traffic that is like it or not; without TensorFlow."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from tests.serving.bundles import LABELS, make_bundle, reference_of
from tests.serving.text_bundles import CLASSES, make_text_bundle, text_reference
from tfpipe.core.observed import (
    CONFIDENCE,
    IMAGE_FEATURES,
    LABEL,
    TEXT_FEATURES,
    VOCABULARY,
    Answers,
    image_numbers,
    text_ids,
    text_numbers,
)
from tfpipe.core.statistics import Feature, Statistics, of_categories, of_numbers
from tfpipe.text.encoding import Tokenizer
from tfpipe.text.packing import row_of

COLOURS = np.array([(255, 60, 60), (60, 255, 60), (60, 60, 255)])
WORDS = {
    "common": ("the dog", "a fox", "sleeps", "jumps over", "quick", "lazy", "on the rug", "brown"),
    "strange": ("ÖÄÜ", "ẞẞ", "Žluťoučký", "Ωμέγα", "ÅÆØ", "кот"),
}


def digits(first: int, last: int, *, inverted: bool = False) -> list[np.ndarray]:
    """Handwritten digits in red, green or blue ink, (8, 8, 3) uint8."""
    greys = load_digits().images[first:last, :, :, None] / 16
    pixels = [greys[place] * COLOURS[place % 3] for place in range(len(greys))]
    return [(255 - one if inverted else one).astype(np.uint8) for one in pixels]


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def texts(count: int, words: Sequence[str] = WORDS["common"], *, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(words, size=rng.integers(3, 9))) for _ in range(count)]


def digits_statistics() -> Statistics:
    """Of training on 300 digits and validation on as many."""
    numbers = np.array([image_numbers(one) for one in digits(0, 300)])
    inputs = [
        of_numbers(name, "inputs", column, unit)
        for (name, unit), column in zip(IMAGE_FEATURES.items(), numbers.T, strict=True)
    ]
    answered = [reference_of(one) for one in digits(300, 600)]
    return Statistics("300 training samples", "300 validation samples", (*inputs, *predictions(answered, LABELS)))


def digits_bundle(folder: Path) -> Path:
    """Trained on 300 digits, and validated on as many."""
    return make_bundle(folder, name="digits", statistics=digits_statistics())


def moods_bundle(folder: Path, tokenizer: Tokenizer) -> Path:
    """Trained on 300 texts, and validated on as many."""
    training = texts(300, seed=1)
    ids = [text_ids([row_of(tokenizer, tokenizer.encode(text).ids, 24)]) for text in training]
    numbers = np.array(
        [text_numbers(text, some, tokenizer.unknown_id) for text, some in zip(training, ids, strict=True)]
    )
    inputs = [of_numbers(name, "inputs", column) for name, column in zip(TEXT_FEATURES, numbers.T, strict=True)]
    counts = np.bincount(np.concatenate(ids), minlength=tokenizer.vocabulary_size).tolist()
    vocabulary, known = of_categories(VOCABULARY, "inputs", [f"token {one}" for one in range(len(counts))], counts)
    answered = [text_reference(tokenizer, text, task="text_classification") for text in texts(300, seed=2)]
    features = (*inputs, vocabulary, *predictions(answered, CLASSES))
    statistics = Statistics("300 training samples", "300 validation samples", features, tokenizer.unknown_id, known)
    return make_text_bundle(folder, tokenizer, statistics=statistics)


def predictions(answered: Sequence[np.ndarray], labels: Sequence[str]) -> list[Feature]:
    answers = Answers()
    counts = np.bincount([answers.classes(one)[0] for one in answered], minlength=len(labels)).tolist()
    confidence = of_numbers(CONFIDENCE, "predictions", np.array([answers.confidence(one) for one in answered]))
    return [confidence, of_categories(LABEL, "predictions", labels, counts)[0]]
