"""`python -m tfpipe.data validate`: what is wrong with a data set, before it is trained on."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tfpipe.config import parse_config
from tfpipe.core import atomic
from tfpipe.core.entities import scheme_of, types_of
from tfpipe.core.errors import DataError
from tfpipe.data.findings import DataSet, Finding, Limits, find
from tfpipe.data.inspection import inspect_source
from tfpipe.data.sources import Source
from tfpipe.data.splits import open_sources, split_source
from tfpipe.data.text import TextSource
from tfpipe.data.text_findings import TextLimits, find_in_texts, text_summary
from tfpipe.data.text_inspection import inspect_texts
from tfpipe.data.text_page import render_texts
from tfpipe.data.token_counts import open_tokenizer
from tfpipe.data.validation_page import render
from tfpipe.data.validation_report import ValidationReport, image_summary
from tfpipe.decode import MAX_IMAGE_PIXELS
from tfpipe.settings import Config
from tfpipe.text.encoding import Tokenizer

JSON_FILE = "validation.json"
PAGE_FILE = "validation.html"


def validate(
    path: str,
    *,
    output_dir: str | Path,
    validation_path: str | None = None,
    test_path: str | None = None,
    columns: Sequence[str] | None = None,
    validation_fraction: float = 0.0,
    seed: int = 0,
    min_image_size: int = 1,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    balance_tolerance: float = 0.2,
    threads: int | None = None,
) -> ValidationReport:
    """Read every sample of a data set, and write what is wrong to validation.json and validation.html.

    Example:
        report = validate("photos", output_dir="photos-report")
        for finding in report.findings:
            print(finding.severity, finding.message)

    Args:
        path: Training data, in any of the forms of `data.path`.
        output_dir: Folder of the report; made if missing.
        validation_path: Validation data; pictures that are in both are leaks.
        test_path: Test data, likewise.
        columns: Column names of a manifest without a header.
        validation_fraction: Without `validation_path`: look for leaks across the split that training would make; 0 asks
            for none.
        seed: `training.seed` of that split.
        min_image_size: Least height and width in pixels.
        max_image_pixels: Larger images count as faults.
        balance_tolerance: Largest deviation of a class from the mean class size, as a share of it.
        threads: Images read at the same time; None means one per core.

    Returns:
        What was found; `passed` says whether there is no error.

    Raises:
        ConfigError: An argument is out of range, or `output_dir` cannot be written.
        DataError: Nothing is there, or it cannot be opened as a data set at all.
        OSError: The disk is full.
    """
    values = {
        "path": path,
        "validation_path": validation_path,
        "test_path": test_path,
        "columns": None if columns is None else list(columns),
        "validation_fraction": validation_fraction,
        "min_image_size": min_image_size,
        "max_image_pixels": max_image_pixels,
        "balance_tolerance": balance_tolerance,
    }
    config = parse_config({"data": values, "training": {"seed": seed}}, where="validate")
    return validate_config(config, output_dir=output_dir, threads=threads)


def validate_config(
    config: Config,
    *,
    output_dir: str | Path,
    threads: int | None = None,
    tokenizer: Tokenizer | None = None,
) -> ValidationReport:
    """As `validate`, for the data of a run's configuration, images or texts.

    Args:
        config: Its `task`, its section `data`, `training.seed`; of texts also `preprocessing.tokenizer` and
            `.max_length`.
        output_dir: Folder to write; made if missing.
        threads: Images read at the same time; None means one per core.
        tokenizer: Counts the tokens of texts; None: that of `preprocessing.tokenizer`, or nothing where it is not set.
    """
    target = Path(output_dir)
    if tokenizer is None and config.task != "image_classification" and config.preprocessing.tokenizer is not None:
        tokenizer = open_tokenizer(config.preprocessing.tokenizer)
    max_length = config.preprocessing.max_length
    train, validation, test = open_sources(config)
    atomic.writable_folder(target, where="--output")
    sources = {"training": train, "validation": validation, "test": test}
    sources_by_split = {name: source for name, source in sources.items() if source is not None}
    samples: dict[str, list[Any]] = {
        name: (
            inspect_texts(source, name, scheme=scheme_of(train.labels), tokenizer=tokenizer, max_length=max_length)
            if isinstance(source, TextSource)
            else inspect_source(source, name, max_pixels=config.data.max_image_pixels, threads=threads)
        )
        for name, source in sources_by_split.items()
    }
    split_problems: list[Finding] = []
    if validation is None and config.data.validation_fraction > 0:
        samples, split_problems = _as_training_would_split(train, samples, config)
        sources_by_split["validation"] = train
    ignored = [name for source in sources_by_split.values() for name in getattr(source, "ignored", ())]
    data = DataSet(samples, _class_names(train), tuple(ignored))
    report = _report(train, data, split_problems, config, None if tokenizer is None else max_length)
    _write(report, sources_by_split, target)
    return report


def _report(
    train: Source, data: DataSet, split_problems: Sequence[Finding], config: Config, max_tokens: int | None
) -> ValidationReport:
    limits: Limits | TextLimits
    summary: Callable[[Any], dict[str, Any]]
    if isinstance(train, TextSource):
        limits = TextLimits(config.data.balance_tolerance, config.data.max_text_chars, max_tokens)
        findings, summary = find_in_texts(data, limits, train.kind), text_summary
    else:
        limits = Limits(config.data.min_image_size, config.data.balance_tolerance)
        findings, summary = find(data, limits), image_summary
    return ValidationReport(
        path=config.data.path,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        limits=limits,
        data=data,
        findings=(*split_problems, *findings),
        summaries={name: summary(samples) for name, samples in data.samples.items()},
    )


def _class_names(train: Source) -> tuple[str, ...]:
    """What the balance of classes is over: of tagged texts the types of entities."""
    return types_of(train.labels) if isinstance(train, TextSource) and train.kind == "tags" else train.labels


def _as_training_would_split(
    train: Source, samples: Mapping[str, list[Any]], config: Config
) -> tuple[dict[str, list[Any]], list[Finding]]:
    """The samples with those that training would hold out moved to "validation"; or why there is no such split."""
    try:
        kept, held_out = split_source(train, config.data.validation_fraction, config.training.seed)
    except DataError as error:
        return dict(samples), [Finding("cannot_split", "error", str(error), "Training would refuse this data set.")]
    whole = samples["training"]
    moved = {
        "training": [whole[index] for index in kept],
        "validation": [replace(whole[index], split="validation") for index in held_out],
    }
    return {**samples, **moved}, []


def _write(report: ValidationReport, sources: Mapping[str, Source], output_dir: Path) -> None:
    if isinstance(report.limits, TextLimits):
        page = render_texts(report)
    else:
        page = render(report, read=lambda sample: sources[sample.split].read(sample.index)[0])
    atomic.write_file(output_dir / PAGE_FILE, page)
    content = json.dumps(report.to_dict(), indent=1, ensure_ascii=False)
    # Last: where it is, the report is complete.
    atomic.write_file(output_dir / JSON_FILE, content + "\n")
