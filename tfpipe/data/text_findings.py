"""What is wrong with a data set of texts, told from their inspection. Pure: no files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tfpipe.data.findings import (
    DataSet,
    Finding,
    class_problems,
    equal_samples,
    errors_first,
    faults,
    imbalance,
    listed,
)
from tfpipe.data.text import Kind
from tfpipe.data.text_inspection import TEXT_FAULTS, TextInspection
from tfpipe.data.validation_report import value_range


@dataclass(frozen=True)
class TextLimits:
    """What `validate` measures texts against.

    Attributes:
        balance_tolerance: Largest deviation of a class from the mean class size, as a share of it.
        max_text_chars: Longer texts, in code points, are faults.
        max_tokens: What the model reads of a text; None where it is not known.
    """

    balance_tolerance: float
    max_text_chars: int
    max_tokens: int | None = None


def find_in_texts(data: DataSet, limits: TextLimits, kind: Kind) -> list[Finding]:
    """Every check, errors first.

    Args:
        data: Its samples are each a `TextInspection`.
        limits: What to measure against.
        kind: What the samples' labels are.
    """
    findings = [
        *_no_labels(data, kind),
        *class_problems(data, needs_two=kind == "single"),
        *faults(data, TEXT_FAULTS),
        *_empty(data),
        *_invalid_tags(data),
        *equal_samples(
            data,
            key_of=lambda sample: sample.key,
            answer_of=lambda sample: sample.answer,
            noun="Texts",
            conflict="tagged in more than one way" if kind == "tags" else "with different labels",
            # Annotators differ over a tag now and then, in published corpora too.
            conflict_severity="warning" if kind == "tags" else "error",
        ),
        *_odd_characters(data),
        *_truncated(data, limits),
        *imbalance(data, limits.balance_tolerance),
        *_left_out(data),
    ]
    return errors_first(findings)


def text_summary(samples: Sequence[TextInspection]) -> dict[str, Any]:
    """What is known about one split of texts, as JSON has it."""
    readable = [sample for sample in samples if not sample.fault]
    classes: dict[str, int] = {}
    for sample in samples:
        for name in sample.labels:
            classes[name] = classes.get(name, 0) + 1
    tokens = [sample.num_tokens for sample in readable if sample.num_tokens is not None]
    return {
        "samples": len(samples),
        "readable": len(readable),
        "classes": classes,
        "without_label": sum(not sample.labels for sample in samples),
        "characters": value_range([sample.num_chars for sample in readable]),
        "words": value_range([sample.num_words for sample in readable]),
        "tokens": value_range(tokens),
    }


def _no_labels(data: DataSet, kind: Kind) -> Iterator[Finding]:
    if kind != "single" and not data.class_counts("training"):
        what = "a label" if kind == "multi" else "an entity"
        yield Finding("no_labels", "error", f"No training text has {what}.", "There is nothing to learn: add labels.")


def _empty(data: DataSet) -> Iterator[Finding]:
    groups = _each(sample for sample in data.readable() if not sample.num_words)
    if groups:
        yield Finding(
            "empty", "error", f"Texts without any character that shows: {len(groups)}.", "Remove them.", groups
        )


def _invalid_tags(data: DataSet) -> Iterator[Finding]:
    groups = _each(sample for sample in data.readable() if sample.invalid_tags)
    if groups:
        yield Finding(
            "invalid_tags",
            "error",
            f"Texts whose tags are not valid BIO or BIOES: {len(groups)}.",
            "An entity begins with B- (one of a single word, in BIOES, is S-) and goes on with I- of the same type. "
            "Training reads an I- after another type as the beginning of an entity.",
            groups,
        )


def _odd_characters(data: DataSet) -> Iterator[Finding]:
    readable = data.readable()
    for kind, groups, message, advice in (
        (
            "replacement_characters",
            _each(sample for sample in readable if sample.replacement_chars),
            "Texts with U+FFFD, which stands for what could not be decoded",
            "What was there is lost: make the texts again from their origin, in its true encoding.",
        ),
        (
            "control_characters",
            _each(sample for sample in readable if sample.control_chars),
            "Texts with control characters",
            "Remove them; a tokenizer drops some of them and ends a text at others.",
        ),
        (
            "garbled",
            _each(sample for sample in readable if sample.is_garbled),
            "Texts that read as UTF-8 decoded as Windows-1252, like 'cafÃ©'",
            "Encode them as Windows-1252 and decode them as UTF-8.",
        ),
    ):
        if groups:
            yield Finding(kind, "warning", f"{message}: {len(groups)}.", advice, groups)


def _truncated(data: DataSet, limits: TextLimits) -> Iterator[Finding]:
    counted = [sample for sample in data.readable() if sample.num_tokens is not None]
    if limits.max_tokens is None or not counted:
        return
    groups = _each(sample for sample in counted if sample.num_tokens > limits.max_tokens)
    if groups:
        yield Finding(
            "truncated",
            "warning",
            f"Texts of more than {limits.max_tokens} tokens, whose end the model does not see: {len(groups)} of "
            f"{len(counted)} ({len(groups) / len(counted):.1%}).",
            "Let the model read more tokens, cut the texts yourself, or use sliding windows.",
            groups,
        )


def _left_out(data: DataSet) -> Iterator[Finding]:
    if data.ignored:
        yield Finding(
            "ignored_files",
            "warning",
            f"Files that are left out, since they lie in no class folder or their name does not end in .txt: "
            f"{len(data.ignored)}, {listed(sorted(data.ignored))}.",
            "Rename those that are texts, or remove them.",
        )


def _each(samples: Iterator[Any]) -> tuple[tuple[Any, ...], ...]:
    return tuple((sample,) for sample in samples)
