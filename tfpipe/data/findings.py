"""What is wrong with a data set, told from the inspection of its samples. Pure: no files, no pictures."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tfpipe.data.inspection import FAULTS, Inspection

_NAMES_SHOWN = 10
_ADVICE_ON_FAULTS = "Repair or remove them; training skips unreadable samples and stops when they are too many."


@dataclass(frozen=True)
class Finding:
    """One kind of thing that is wrong.

    Attributes:
        kind: Short name, e.g. "damaged", "leak", "imbalance".
        severity: "error" (do not train on this) or "warning".
        message: What was found, as a sentence.
        advice: What to do about it.
        groups: The samples concerned. Samples that are equal to each other share a group; otherwise a group is one
            sample. Empty where a class or a file beside the samples is concerned.
    """

    kind: str
    severity: Literal["error", "warning"]
    message: str
    advice: str
    groups: tuple[tuple[Inspection, ...], ...] = ()

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
        samples: Inspections by split; "training" is always there.
        labels: Class names of the training data, also of those without samples.
        ignored: Files beside the samples that were left out.
    """

    samples: Mapping[str, Sequence[Inspection]]
    labels: tuple[str, ...]
    ignored: tuple[str, ...] = ()

    def class_counts(self, split: str) -> Counter[str]:
        """Samples of each class that occurs."""
        return Counter(sample.label for sample in self.samples[split])


def find(data: DataSet, limits: Limits) -> list[Finding]:
    """Every check, errors first."""
    findings = [
        *_class_problems(data),
        *_faults(data),
        *_small_images(data, limits),
        *_equal_pictures(data),
        *_imbalance(data, limits),
        *_left_out(data),
    ]
    return sorted(findings, key=lambda finding: finding.severity != "error")


def _class_problems(data: DataSet) -> Iterator[Finding]:
    counts = data.class_counts("training")
    if len(counts) == 1:
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
            f"Classes without training samples: {_listed(empty)}.",
            "Add samples or remove the folder.",
        )
    for split in data.samples:
        unknown = sorted(set(data.class_counts(split)) - set(counts))
        if unknown:
            groups = tuple((sample,) for sample in data.samples[split] if sample.label in unknown)
            yield Finding(
                "unknown_label",
                "error",
                f"Classes of the {split} data that the training data lack: {_listed(unknown)}.",
                "Correct the labels, or add such samples to the training data.",
                groups,
            )
        absent = [name for name in data.labels if counts[name] and not data.class_counts(split)[name]]
        if absent:
            yield Finding(
                "unscored_class",
                "warning",
                f"Classes without {split} samples: {_listed(absent)}.",
                "Nothing will be known about how well they are recognised.",
            )


def _faults(data: DataSet) -> Iterator[Finding]:
    for fault, title in FAULTS.items():
        groups = tuple((sample,) for samples in data.samples.values() for sample in samples if sample.fault == fault)
        if groups:
            yield Finding(fault, "error", f"{title}: {len(groups)}.", _ADVICE_ON_FAULTS, groups)


def _small_images(data: DataSet, limits: Limits) -> Iterator[Finding]:
    groups = tuple((sample,) for sample in _readable(data) if min(sample.height, sample.width) < limits.min_image_size)
    if groups:
        yield Finding(
            "too_small",
            "error",
            f"Images with a side under {limits.min_image_size} pixels: {len(groups)}.",
            "Remove them, or lower data.min_image_size.",
            groups,
        )


def _equal_pictures(data: DataSet) -> Iterator[Finding]:
    by_pixels: dict[str, list[Inspection]] = defaultdict(list)
    for sample in _readable(data):
        by_pixels[sample.pixel_hash].append(sample)
    equal = [tuple(group) for group in by_pixels.values() if len(group) > 1]
    leaks = tuple(group for group in equal if len({sample.split for sample in group}) > 1)
    conflicts = tuple(group for group in equal if len({sample.label for sample in group}) > 1)
    worse = set(leaks) | set(conflicts)
    duplicates = tuple(group for group in equal if group not in worse)
    if leaks:
        yield Finding(
            "leak",
            "error",
            f"Pictures in more than one of {', '.join(data.samples)}: {len(leaks)}.",
            "A model is not measured by what it was trained on: remove them from one side.",
            leaks,
        )
    if conflicts:
        yield Finding(
            "conflicting_labels",
            "error",
            f"Pictures with more than one label: {len(conflicts)}.",
            "Decide on one label each.",
            conflicts,
        )
    if duplicates:
        copies = sum(len(group) - 1 for group in duplicates)
        yield Finding(
            "duplicate",
            "warning",
            f"Pictures that occur more than once: {len(duplicates)}, with {copies} copies too many.",
            "Remove the copies: they weigh more than other samples, and a random split would leak them.",
            duplicates,
        )


def _imbalance(data: DataSet, limits: Limits) -> Iterator[Finding]:
    counts = data.class_counts("training")
    off = out_of_balance(counts, limits.balance_tolerance)
    if off:
        mean = sum(counts.values()) / len(counts)
        shares = [f"{name} {counts[name]} ({counts[name] / mean - 1:+.0%})" for name in off]
        yield Finding(
            "imbalance",
            "warning",
            f"Classes further than {limits.balance_tolerance:.0%} from the mean of {mean:.0f} samples: "
            f"{_listed(shares, quote=False)}.",
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
            f"{len(data.ignored)}, {_listed(sorted(data.ignored))}.",
            "Convert those that are images (to JPEG, PNG, BMP, GIF or WebP), or remove them.",
        )


def _readable(data: DataSet) -> list[Inspection]:
    return [sample for samples in data.samples.values() for sample in samples if not sample.fault]


def _listed(names: Sequence[str], *, quote: bool = True) -> str:
    shown = ", ".join(repr(name) if quote else name for name in names[:_NAMES_SHOWN])
    return f"{shown} and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else shown
