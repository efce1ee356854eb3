"""What a service compares its traffic with: of raw training samples, and of the answers to validation samples."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tfpipe.convert.conversion import Examples
from tfpipe.convert.measure import Answers as Model
from tfpipe.convert.trained import RawSample, TrainedModel
from tfpipe.core import statistics
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
from tfpipe.core.signature import Array
from tfpipe.core.statistics import Feature, Statistics, of_categories, of_numbers
from tfpipe.models.assembly import TextParts

# A histogram of more is hardly better beside a window of a thousand rows.
_ENOUGH_ANSWERS = 5000


def write_statistics(folder: Path, trained: TrainedModel, examples: Examples | None, model: Model) -> Statistics | None:
    """Write `statistics.json` into a bundle that is being made.

    Args:
        folder: Of the bundle.
        trained: Its raw samples are those of training; of a model trained elsewhere, those that were given.
        examples: Validation data; None: nothing is said of answers. Those to training samples would be surer than any
            that come later.
        model: The variant that answers.

    Returns:
        What was written; None where there are no data, and so no file.
    """
    samples = trained.samples if trained.foreign is None else trained.given_calibration or ()
    inputs, unknown_id, vocabulary = _of_inputs(trained, samples)
    predictions, num_answers = _of_predictions(trained, examples, model)
    if not inputs and not predictions:
        return None
    found = Statistics(
        inputs_from=_whence(trained, len(samples)) if inputs else "",
        predictions_from=f"{num_answers} validation samples" if predictions else "",
        features=(*inputs, *predictions),
        unknown_id=unknown_id,
        vocabulary=vocabulary,
    )
    (folder / statistics.FILE).write_text(found.to_json(), encoding="utf-8")
    return found


def _whence(trained: TrainedModel, count: int) -> str:
    return f"{count} {'training' if trained.foreign is None else 'given'} samples"


def _of_inputs(
    trained: TrainedModel, samples: Sequence[RawSample]
) -> tuple[list[Feature], int | None, tuple[int, ...]]:
    if not samples:
        return [], None, ()
    if isinstance(trained.parts, TextParts):
        return _of_texts(trained.parts, [sample.sample for sample in samples])
    numbers = np.array([image_numbers(sample.sample) for sample in samples])
    return _of_columns(numbers, IMAGE_FEATURES), None, ()


def _of_texts(parts: TextParts, texts: Sequence[str]) -> tuple[list[Feature], int, tuple[int, ...]]:
    inference, tokenizer = parts.inference(), parts.tokenizer
    ids = [text_ids(inference.prepare(text).rows) for text in texts]
    unknown_id = tokenizer.unknown_id
    numbers = [text_numbers(text, some, unknown_id) for text, some in zip(texts, ids, strict=True)]
    features = _of_columns(np.array(numbers), TEXT_FEATURES)
    counts = np.bincount(np.concatenate(ids), minlength=tokenizer.vocabulary_size)
    if not counts.sum():
        return features, unknown_id, ()
    names = _names(parts, texts)
    # What the texts lack has no bin of its own.
    seen = np.flatnonzero(counts).tolist()
    feature, frequent = of_categories(
        VOCABULARY, "inputs", [names.get(token, f"token {token}") for token in seen], [int(counts[one]) for one in seen]
    )
    return [*features, feature], unknown_id, tuple(seen[place] for place in frequent)


def _names(parts: TextParts, texts: Sequence[str]) -> dict[int, str]:
    """What a token looks like where it is first met."""
    names: dict[int, str] = {}
    for text in texts:
        encoding = parts.tokenizer.encode(text)
        for token, start, end in zip(encoding.ids, encoding.starts, encoding.ends, strict=True):
            names.setdefault(token, text[start:end])
    return names


def _of_columns(numbers: Array, units: dict[str, str]) -> list[Feature]:
    return [
        of_numbers(name, "inputs", column, unit)
        for (name, unit), column in zip(units.items(), numbers.T, strict=True)
    ]  # fmt: skip


def _of_predictions(trained: TrainedModel, examples: Examples | None, model: Model) -> tuple[list[Feature], int]:
    if examples is None:
        return [], 0
    parts = trained.parts
    pad_id = parts.tokenizer.pad_id if isinstance(parts, TextParts) and parts.per_token else None
    answers = Answers(trained.multi_label, has_tags=pad_id is not None)
    names = answers.names(parts.labels)
    counts, confidences = np.zeros(len(names), np.int64), []
    for row in _answered(examples, model, pad_id):
        counts += np.bincount(answers.classes(row), minlength=len(names))
        confidences.append(answers.confidence(row))
    if not counts.sum():
        return [], 0
    label, _ = of_categories(LABEL, "predictions", names, counts.tolist())
    return [of_numbers(CONFIDENCE, "predictions", np.array(confidences)), label], len(confidences)


def _answered(examples: Examples, model: Model, pad_id: int | None) -> Iterator[Array]:
    """Probabilities of one row after the other, without padding."""
    # Batches from all over the data: texts come from short to long.
    step = math.ceil(len(examples) / _ENOUGH_ANSWERS)
    for number, (batch, _, _) in enumerate(examples.batches()):
        if number % step or not len(batch):
            continue
        answered = model.run({"input": batch})["probabilities"]
        for row, probabilities in zip(batch, answered, strict=True):
            yield probabilities if pad_id is None else probabilities[: np.count_nonzero(row != pad_id)]
