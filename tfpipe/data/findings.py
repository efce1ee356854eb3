"""What is wrong with a data set, told from the inspection of its samples. Pure: no files, no pictures.

`find` is for images; `tfpipe.data.text_findings` has texts, and shares what is the same for both.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from tfpipe.data.inspection import FAULTS

_NAMES_SHOWN = 10
_ADVICE_ON_FAULTS = "Repair or remove them; training skips unreadable samples and stops when they are too many."


class Inspected(Protocol):
    """What is known about one sample of any kind."""

    @property
    def split(self) -> str:
        """What it is for: "training", "validation" or "test"."""

    @property
    def identifier(self) -> str:
        """As the source gives it."""

    @property
    def label(self) -> str:
        """Its label, or its labels, as a person reads them."""

    @property
    def labels(self) -> tuple[str, ...]:
        """What it counts for in the balance of classes."""

    @property
    def fault(self) -> str:
        """Why it cannot be used; "" for a sample that can."""

    @property
    def detail(self) -> str:
        """What is wrong, as a sentence."""


Severity: TypeAlias = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One kind of thing that is wrong.

    Attributes:
        kind: Short name, e.g. "damaged", "leak", "imbalance".
        severity: "error" (do not train on this) or "warning".
        message: What was found, as a sentence.
        advice: What to do about it.
        groups: The samples concerned, each an `Inspected`. Samples that are equal to each other share a group;
            otherwise a group is one sample. Empty where a class or a file beside the samples is concerned.
    """

    kind: str
    severity: Severity
    message: str
    advice: str
    groups: tuple[tuple[Any, ...], ...] = ()

    @property
    def num_samples(self) -> int:
        """Samples over all groups."""
        return sum(len(group) for group in self.groups)


@dataclass(frozen=True)
class Limits:
    """What `validate` measures against.

    Attributes:
        min_image_size: Least height and width in pixels.
        balance_tolerance: Largest deviation of a class from the mean class size, as a share of it.
    """

    min_image_size: int
    balance_tolerance: float


@dataclass(frozen=True)
class DataSet:
    """Everything known about the data of one validation.

    Attributes:
        samples: Each an `Inspected`, by split; "training" is always there.
        labels: Class names of the training data, also of those without samples.
        ignored: Files beside the samples that were left out.
    """

    samples: Mapping[str, Sequence[Any]]
    labels: tuple[str, ...]
    ignored: tuple[str, ...] = ()

    def class_counts(self, split: str) -> Counter[str]:
        """Samples of each class that occurs."""
        return Counter(name for sample in self.samples[split] for name in sample.labels)

    def readable(self) -> list[Any]:
        """Samples of all splits that can be used."""
        return [sample for samples in self.samples.values() for sample in samples if not sample.fault]


def find(data: DataSet, limits: Limits) -> list[Finding]:
    """Every check, errors first."""
    findings = [
        *class_problems(data),
        *faults(data, FAULTS),
        *_small_images(data, limits),
        *equal_samples(
            data, key_of=lambda sample: sample.pixel_hash, answer_of=lambda sample: sample.label, noun="Pictures"
        ),
        *imbalance(data, limits.balance_tolerance),
        *_left_out(data),
    ]
    return errors_first(findings)


def errors_first(findings: Sequence[Finding]) -> list[Finding]:
    """Findings in the order in which a person should read them."""
    return sorted(findings, key=lambda finding: finding.severity != "error")


def class_problems(data: DataSet, *, needs_two: bool = True) -> Iterator[Finding]:
    """Classes that are missing on either side of training and scoring.

    Args:
        data: All samples.
        needs_two: Whether one class alone is an error.
    """
    counts = data.class_counts("training")
    if len(counts) == 1 and needs_two:
        yield Finding(
            "one_class",
            "error",
            f"All training samples are of one class: {next(iter(counts))!r}.",
            "A classifier needs at least two classes.",
        )
    empty = [name for name in data.labels if not counts[name]]
    if empty:
        yield Finding(
            "empty_class",
            "error",
            f"Classes without training samples: {listed(empty)}.",
            "Add samples or remove the folder.",
        )
    for split in data.samples:
        unknown = sorted(set(data.class_counts(split)) - set(counts))
        if unknown:
            groups = tuple((sample,) for sample in data.samples[split] if not set(unknown).isdisjoint(sample.labels))
            yield Finding(
                "unknown_label",
                "error",
                f"Classes of the {split} data that the training data lack: {listed(unknown)}.",
                "Correct the labels, or add such samples to the training data.",
                groups,
            )
        absent = [name for name in data.labels if counts[name] and not data.class_counts(split)[name]]
        if absent:
            yield Finding(
                "unscored_class",
                "warning",
                f"Classes without {split} samples: {listed(absent)}.",
                "Nothing will be known about how well they are recognised.",
            )


def faults(data: DataSet, titles: Mapping[str, str]) -> Iterator[Finding]:
    """Samples that cannot be used, by fault and the heading that each has."""
    for fault, title in titles.items():
        groups = tuple((sample,) for samples in data.samples.values() for sample in samples if sample.fault == fault)
        if groups:
            yield Finding(fault, "error", f"{title}: {len(groups)}.", _ADVICE_ON_FAULTS, groups)


def _small_images(data: DataSet, limits: Limits) -> Iterator[Finding]:
    groups = tuple((sample,) for sample in data.readable() if min(sample.height, sample.width) < limits.min_image_size)
    if groups:
        yield Finding(
            "too_small",
            "error",
            f"Images with a side under {limits.min_image_size} pixels: {len(groups)}.",
            "Remove them, or lower data.min_image_size.",
            groups,
        )


def equal_samples(
    data: DataSet,
    *,
    key_of: Callable[[Any], str],
    answer_of: Callable[[Any], Hashable],
    noun: str,
    conflict: str = "with more than one label",
    conflict_severity: Severity = "error",
) -> Iterator[Finding]:
    """Leaks between splits, copies with different labels, and other copies.

    Args:
        data: All samples.
        key_of: What equal samples share.
        answer_of: What equal samples should share.
        noun: Samples in the plural, for messages.
        conflict: What is wrong where they do not, for messages.
        conflict_severity: How bad that is.
    """
    by_key: dict[str, list[Any]] = defaultdict(list)
    for sample in data.readable():
        by_key[key_of(sample)].append(sample)
    equal = [tuple(group) for group in by_key.values() if len(group) > 1]
    leaks = tuple(group for group in equal if len({sample.split for sample in group}) > 1)
    conflicts = tuple(group for group in equal if len({answer_of(sample) for sample in group}) > 1)
    worse = set(leaks) | set(conflicts)
    duplicates = tuple(group for group in equal if group not in worse)
    if leaks:
        yield Finding(
            "leak",
            "error",
            f"{noun} in more than one of {', '.join(data.samples)}: {len(leaks)}.",
            "A model is not measured by what it was trained on: remove them from one side.",
            leaks,
        )
    if conflicts:
        yield Finding(
            "conflicting_labels",
            conflict_severity,
            f"{noun} {conflict}: {len(conflicts)}.",
            "Decide on one answer each.",
            conflicts,
        )
    if duplicates:
        copies = sum(len(group) - 1 for group in duplicates)
        yield Finding(
            "duplicate",
            "warning",
            f"{noun} that occur more than once: {len(duplicates)}, with {copies} copies too many.",
            "Remove the copies: they weigh more than other samples, and a random split of your own would leak them.",
            duplicates,
        )


def imbalance(data: DataSet, tolerance: float) -> Iterator[Finding]:
    """Classes whose size is far from the mean; see `out_of_balance`."""
    counts = data.class_counts("training")
    off = out_of_balance(counts, tolerance) if counts else []
    if off:
        mean = sum(counts.values()) / len(counts)
        shares = [f"{name} {counts[name]} ({counts[name] / mean - 1:+.0%})" for name in off]
        yield Finding(
            "imbalance",
            "warning",
            f"Classes further than {tolerance:.0%} from the mean of {mean:.0f} samples: {listed(shares, quote=False)}.",
            "Add samples of the rare classes, or judge the model by a metric that weighs classes equally.",
        )


def out_of_balance(counts: Mapping[str, int], tolerance: float) -> list[str]:
    """Classes further from the mean class size than `tolerance` times it, the furthest first."""
    mean = sum(counts.values()) / len(counts)
    off = [name for name, count in counts.items() if abs(count - mean) > tolerance * mean]
    return sorted(off, key=lambda name: (-abs(counts[name] - mean), name))


def _left_out(data: DataSet) -> Iterator[Finding]:
    if data.ignored:
        yield Finding(
            "ignored_files",
            "warning",
            f"Files that are left out, since they lie in no class folder or their name does not end like an image's: "
            f"{len(data.ignored)}, {listed(sorted(data.ignored))}.",
            "Convert those that are images (to JPEG, PNG, BMP, GIF or WebP), or remove them.",
        )


def listed(names: Sequence[str], *, quote: bool = True) -> str:
    """The first few names."""
    shown = ", ".join(repr(name) if quote else name for name in names[:_NAMES_SHOWN])
    return f"{shown} and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else shown
