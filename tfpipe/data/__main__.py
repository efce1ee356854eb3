"""`python -m tfpipe.data validate|pack|train-tokenizer`: parse, call, print."""

if __name__ == "__main__":
    from tfpipe.interruption import end_at_signals

    end_at_signals()

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from tfpipe.config import COMMAND_LINE, override_values, parse_config, read_values
from tfpipe.core import atomic
from tfpipe.core.errors import ConfigError, GateError
from tfpipe.data.corpus import read_texts
from tfpipe.data.pack import pack
from tfpipe.data.splits import text_form
from tfpipe.data.text_findings import TextLimits, tokens_told
from tfpipe.data.validate import JSON_FILE, PAGE_FILE, validate_config
from tfpipe.data.validation_report import ValidationReport
from tfpipe.settings import Config
from tfpipe.startup import run_command

# Whole words with `=`: a file may be called data.csv.
_VALUE = r"=(.|\n)*"
_KEY = rf"(data\.[\w.]+|training\.seed|task){_VALUE}"
_VALIDATE_KEY = rf"{_KEY}|preprocessing\.(tokenizer|max_length){_VALUE}"
_TRAIN_TOKENIZER_KEY = rf"(data\.[\w.]+|task){_VALUE}"
_TASKS = get_args(Config.model_fields["task"].annotation)
_TEXT_TASKS = tuple(task for task in _TASKS if task != "image_classification")
_KEYS_HELP = "any key of the section data, or task; `python -m tfpipe.train --help` explains them"
_SEED_KEYS_HELP = _KEYS_HELP.replace(", or", ", training.seed, or")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 done, 2 wrong usage or input, 3 errors in the data."""
    parser = argparse.ArgumentParser(
        prog="python -m tfpipe.data", description="Check and pack labelled images and texts; make a tokenizer."
    )
    parser.add_argument("command", choices=("validate", "pack", "train-tokenizer"), help="each has its own --help")
    words = list(sys.argv[1:] if arguments is None else arguments)
    chosen = parser.parse_args(words[:1])
    # Not argparse's own sub-commands: those refuse key=value words after an option.
    options, command = {
        "validate": (_validate_parser(), _validate),
        "pack": (_pack_parser(), _pack),
        "train-tokenizer": (_train_tokenizer_parser(), _train_tokenizer),
    }[chosen.command]
    parsed = options.parse_intermixed_args(words[1:])
    return run_command(lambda: command(parsed))


def _validate(options: argparse.Namespace) -> int:
    path, overrides = _split_words(options)
    config = _config(path, overrides, options)
    if options.tokenizer is not None and config.task not in _TEXT_TASKS:
        raise ConfigError(f"--tokenizer: expected texts, received task {config.task}. Set --task {_TEXT_TASKS[0]}.")
    report = validate_config(config, output_dir=options.output)
    print(_summary(report))
    print(f"Report: {options.output}/{PAGE_FILE} and {JSON_FILE}")
    return 0 if report.passed else GateError.exit_code


def _pack(options: argparse.Namespace) -> int:
    path, overrides = _split_words(options)
    config = _config(path, overrides, options)
    result = pack(
        config.data.path,
        options.output,
        shards=options.shards,
        seed=config.training.seed,
        columns=config.data.columns,
        max_image_pixels=config.data.max_image_pixels,
        skip_corrupt=options.skip_corrupt,
        overwrite=options.overwrite,
        form=text_form(config),
    )
    skipped = f", {len(result.skipped)} corrupt ones skipped" if result.skipped else ""
    what = "tags" if config.task == "token_classification" else "classes"
    print(f"Packed {result.num_samples:,} samples of {len(result.labels)} {what}{skipped}.")
    print(f"{result.num_shards} shards, content {result.content_sha256[:12]}. Use: data.path={result.output_dir}")
    return 0


def _train_tokenizer(options: argparse.Namespace) -> int:
    # They import TensorFlow and the libraries of tokenizers, which images do without.
    from tfpipe.text.keras_side import save_proved
    from tfpipe.text.tokenizer_files import MANIFEST
    from tfpipe.text.train_tokenizer import train_tokenizer

    path, overrides = _split_words(options)
    config = _config(path, overrides, options)
    form = text_form(config)
    if form is None:
        raise ConfigError(f"task: expected {' or '.join(_TEXT_TASKS)}, received {config.task}.")
    target = Path(options.output)
    if target.exists() and not (options.overwrite and (target / MANIFEST).is_file()):
        raise ConfigError(
            f"--output: expected a new folder, but {options.output!r} exists. Add --overwrite to replace an earlier "
            "tokenizer; anything else stays."
        )
    atomic.writable_folder(target.parent, where="--output")
    tokenizer = train_tokenizer(
        read_texts(config.data.path, form),
        kind=options.kind,
        vocabulary_size=options.vocabulary_size,
        lowercase=options.lowercase,
        strip_accents=options.strip_accents,
    )
    with atomic.staged_folder(target, replace=options.overwrite) as staging:
        save_proved(tokenizer, staging)
    print(f"Trained a {tokenizer.kind} tokenizer of {tokenizer.vocabulary_size:,} tokens: {options.output}")
    return 0


def _train_tokenizer_parser() -> argparse.ArgumentParser:
    parser = _command_parser(
        "train-tokenizer",
        "Make a vocabulary from texts: what data.path takes, tables without labels too, or .txt, a text a line. The "
        "same texts give the same vocabulary.",
        tasks=_TEXT_TASKS,
        keys_help=_KEYS_HELP,
        example="data.columns=[label,text]",
    )
    parser.set_defaults(key=_TRAIN_TOKENIZER_KEY)
    parser.add_argument("--kind", choices=("wordpiece", "bpe", "sentencepiece"), default="wordpiece")
    parser.add_argument("--vocabulary-size", type=int, default=8000, metavar="N", help="tokens; default: %(default)s")
    parser.add_argument("--lowercase", action="store_true", help="make no difference between upper and lower case")
    parser.add_argument("--strip-accents", action="store_true", help="wordpiece: take é for e")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier tokenizer")
    return parser


def _validate_parser() -> argparse.ArgumentParser:
    parser = _command_parser(
        "validate",
        "Read every sample; write validation.json and validation.html. Exit code 3 where there are errors.",
    )
    parser.add_argument("--validation", metavar="PATH", help="validation data; samples in both are leaks")
    parser.add_argument("--test", metavar="PATH", help="test data, likewise")
    parser.add_argument("--config", metavar="FILE", help="take data, tokenizer and training.seed from a run's YAML")
    parser.add_argument(
        "--tokenizer",
        metavar="DIR",
        help="count the tokens of texts; preprocessing.max_length=N says how many are read",
    )
    parser.set_defaults(key=_VALIDATE_KEY)
    return parser


def _pack_parser() -> argparse.ArgumentParser:
    parser = _command_parser("pack", "Write TFRecord shards and manifest.json, which holds the hash of the content.")
    parser.add_argument("--config", metavar="FILE", help="take task, data and training.seed from a run's YAML")
    parser.add_argument("--shards", type=int, metavar="N", help="number of files; default: about 128 MiB each")
    parser.add_argument("--skip-corrupt", action="store_true", help="leave out samples that cannot be read")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier pack")
    return parser


def _command_parser(
    name: str,
    description: str,
    *,
    tasks: Sequence[str] = _TASKS,
    keys_help: str = _SEED_KEYS_HELP,
    example: str = "data.columns=[path,label]",
) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m tfpipe.data {name}",
        usage=f"python -m tfpipe.data {name} PATH --output DIR [options] [key=value ...]",
        description=description,
        epilog=f"key=value: {keys_help}. Example: {example}",
    )
    parser.add_argument("--task", choices=tasks, help=f"what the data are for; default: {tasks[0]}")
    parser.set_defaults(default_task=tasks[0], key=_KEY, keys_help=keys_help)
    parser.add_argument("words", nargs="*", metavar="PATH", help="the data, in any of the forms of data.path")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write")
    return parser


def _split_words(options: argparse.Namespace) -> tuple[str | None, list[str]]:
    overrides = [word for word in options.words if re.fullmatch(options.key, word)]
    paths = [word for word in options.words if not re.fullmatch(options.key, word)]
    if len(paths) > 1:
        raise ConfigError(f"expected one PATH and key=value words ({options.keys_help}), received {' '.join(paths)!r}.")
    return (paths[0] if paths else None), overrides


def _config(path: str | None, overrides: Sequence[str], options: argparse.Namespace) -> Config:
    config_file = getattr(options, "config", None)
    if getattr(options, "tokenizer", None) is not None:
        overrides = [*overrides, f"preprocessing.tokenizer={json.dumps(options.tokenizer)}"]
    where = config_file or COMMAND_LINE
    if config_file is not None:
        values = read_values(config_file, overrides)
    else:
        # No split of its own, unlike a run: only what is asked for is compared.
        defaults = {"task": options.default_task, "data": {"validation_fraction": 0.0}}
        values = override_values(defaults, overrides, where=where)
    given = {
        "path": path,
        "validation_path": getattr(options, "validation", None),
        "test_path": getattr(options, "test", None),
    }
    if options.task is not None:
        values["task"] = options.task
    values["data"].update({key: value for key, value in given.items() if value is not None})
    if "path" not in values["data"]:
        raise ConfigError(
            "expected a PATH, received none. Example: python -m tfpipe.data validate photos --output report."
        )
    return parse_config(values, where=where, overrides=overrides)


def _summary(report: ValidationReport) -> str:
    sizes = ", ".join(f"{len(samples):,} {split}" for split, samples in report.data.samples.items())
    lines = [f"{report.path}: {sizes} samples, {len(report.data.labels)} classes"]
    if isinstance(report.limits, TextLimits) and report.limits.max_tokens is not None:
        lines += [f"  {name}: {tokens_told(split)}" for name, split in report.summaries.items()]
    lines += [f"  {finding.severity:7}  {finding.message}{_examples(finding.groups)}" for finding in report.findings]
    verdict = "Passed" if report.passed else "Failed"
    lines.append(f"{verdict}: {len(report.errors)} error(s), {len(report.warnings)} warning(s).")
    return "\n".join(lines)


def _examples(groups: Sequence[Sequence[Any]]) -> str:
    names = [sample.identifier for group in groups[:3] for sample in group[:2]]
    return f"\n           {', '.join(names)}{', ...' if len(groups) > 3 else ''}" if names else ""


if __name__ == "__main__":
    sys.exit(main())
