"""What is wrong with a data set of texts, told from their inspection. Pure: no files."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

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
from tfpipe.data.token_counts import TokenCount
from tfpipe.data.validation_report import value_range
from tfpipe.text.packing import SPECIAL_TOKENS


@dataclass(frozen=True)
class TextLimits:
    """What `validate` measures texts against.

    Attributes:
        balance_tolerance: Largest deviation of a class from the mean class size, as a share of it.
        max_text_chars: Longer texts, in code points, are faults.
        max_tokens: What the model reads of a text, special tokens included; None where tokens are not counted.
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
        *_unknown_tokens(data),
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
    counts = [sample.tokens for sample in readable if sample.tokens is not None]
    return {
        "samples": len(samples),
        "readable": len(readable),
        "classes": classes,
        "without_label": sum(not sample.labels for sample in samples),
        "characters": value_range([sample.num_chars for sample in readable]),
        "words": value_range([sample.num_words for sample in readable]),
        "tokens": _token_summary(counts) if counts else None,
    }


def tokens_told(summary: dict[str, Any]) -> str:
    """What is known about the tokens of one split, as a clause; `summary` is that of `text_summary`."""
    tokens = summary["tokens"]
    if tokens is None:
        return "no tokens"
    texts = f"{tokens['truncated']:,} of {summary['readable']:,} texts cut ({tokens['truncated_share']:.1%})"
    unknown = f"{tokens['unknown']:,} of {tokens['total']:,} tokens unknown ({tokens['unknown_share']:.2%})"
    lengths = (
        f"{tokens['min']:,} to {tokens['max']:,} tokens, median {tokens['median']:,.0f}, 99 % up to {tokens['p99']:,}"
    )
    return f"{lengths}; {texts}; {unknown}"


def _token_summary(counts: Sequence[TokenCount]) -> dict[str, Any]:
    lengths = [count.num_tokens for count in counts]
    total = sum(lengths) - SPECIAL_TOKENS * len(lengths)
    cut = sum(count.cut_at is not None for count in counts)
    unknown = sum(count.num_unknown for count in counts)
    return {
        **(value_range(lengths) or {}),
        "p95": int(np.quantile(lengths, 0.95, method="higher")),
        "p99": int(np.quantile(lengths, 0.99, method="higher")),
        "truncated": cut,
        "truncated_share": cut / len(counts),
        # Of the texts themselves, without the special tokens that a row adds.
        "total": total,
        "unknown": unknown,
        "unknown_share": unknown / total if total else 0.0,
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
    counted = [sample for sample in data.readable() if sample.tokens is not None]
    cut = sorted(
        (sample for sample in counted if sample.tokens.cut_at is not None),
        key=lambda sample: -sample.tokens.num_tokens,
    )
    if cut:
        yield Finding(
            "truncated",
            "warning",
            f"Texts of more than {limits.max_tokens} tokens, whose end the model does not see: {len(cut):,} of "
            f"{len(counted):,} ({len(cut) / len(counted):.1%}); the longest has {cut[0].tokens.num_tokens:,}.",
            "Raise preprocessing.max_length, at the cost of time and memory, or shorten the texts.",
            _each(
                _told(
                    sample,
                    f"{sample.tokens.num_tokens:,} tokens; not seen from character {sample.tokens.cut_at:,} of "
                    f"{sample.num_chars:,} on.",
                )
                for sample in cut
            ),
        )


def _unknown_tokens(data: DataSet) -> Iterator[Finding]:
    counted = [sample for sample in data.readable() if sample.tokens is not None]
    samples = sorted(
        (sample for sample in counted if sample.tokens.num_unknown), key=lambda sample: -sample.tokens.num_unknown
    )
    if samples:
        total = sum(sample.tokens.num_tokens - SPECIAL_TOKENS for sample in counted)
        unknown = sum(sample.tokens.num_unknown for sample in samples)
        surfaces = Counter(surface for sample in samples for surface in sample.tokens.unknown)
        # By count, then by name: the same data give the same report.
        frequent = sorted(surfaces, key=lambda surface: (-surfaces[surface], surface))
        yield Finding(
            "unknown_tokens",
            "warning",
            f"Tokens that the vocabulary lacks: {unknown:,} of {total:,} ({unknown / total:.2%}), in "
            f"{len(samples):,} of {len(counted):,} texts; in most texts {listed(frequent)}.",
            "The model sees one and the same token for all of them. Few do no harm; many ask for a tokenizer that was "
            "trained on such texts, or one of byte-level BPE, which knows every character.",
            _each(_told(sample, f"Unknown: {listed(sample.tokens.unknown)}.") for sample in samples),
        )


def _told(sample: TextInspection, detail: str) -> TextInspection:
    return replace(sample, detail=detail)


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
