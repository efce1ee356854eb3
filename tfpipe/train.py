"""Train a model: `horovodrun -np 4 python -m tfpipe.train`, or the same without horovodrun on one process."""

if __name__ == "__main__":
    from tfpipe.interruption import end_at_signals

    end_at_signals()

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tfpipe.config import documented_keys, load_config, read_values, to_yaml
from tfpipe.core.errors import ConfigError, TfpipeError
from tfpipe.distributed import launched_local_rank, launched_rank
from tfpipe.settings import Config
from tfpipe.startup import run_command
from tfpipe.training import workspace

if TYPE_CHECKING:
    from tfpipe.training.run import TrainingResult


def train(
    config: Config,
    *,
    resume: bool = False,
    overwrite: bool = False,
    fast_dev_run: bool = False,
    profile: bool = False,
) -> "TrainingResult":
    """Train, evaluate, save and register one model.

    Example:
        config = load_config("configs/image_classification_digits.yaml", ["training.epochs=3"])
        result = train(config)
        print(result.metrics["val_accuracy"], result.output_dir)

    Args:
        config: The run; see `tfpipe.config.load_config`.
        resume: Go on with the unfinished run in `config.output_dir`, from its newest checkpoint that is whole.
        overwrite: Remove the run that `config.output_dir` holds.
        fast_dev_run: One batch of training, validation and test data through everything; nothing is tracked or
            registered. Written to a folder `fast-dev-run` beside `config.output_dir`, replaced by the next.
        profile: Write a TensorBoard profile of some steps into `config.output_dir`/profile.

    Raises:
        ConfigError: The configuration cannot be used, or `output_dir` holds another run.
        DataError: The data cannot be used.
        TrainingError: Training cannot go on.
        GateError: `tracking.min_metrics` were missed: the model was logged, not registered.
        TrackingError: The tracking server is away; the model is kept in `output_dir`.
        StoppedError: A signal came; the state was saved, unless it was a second one.
    """
    # TensorFlow takes seconds to import; --help and a mistyped key need not wait for it.
    from tfpipe.training.run import run

    return run(config, resume=resume, overwrite=overwrite, fast_dev_run=fast_dev_run, profile=profile)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_intermixed_args(arguments)
    return run_command(lambda: _command(options))


def _command(options: argparse.Namespace) -> int:
    try:
        config = _read_config(options)
    except TfpipeError:
        if launched_local_rank() != 0:
            # The workers of a machine read the same file; one of them says what is wrong with it.
            return ConfigError.exit_code
        raise
    if options.print_config:
        if launched_rank() == 0:
            sys.stdout.write(to_yaml(config))
        return 0
    result = train(
        config,
        resume=options.resume,
        overwrite=options.overwrite,
        fast_dev_run=options.fast_dev_run,
        profile=options.profile,
    )
    if launched_rank() == 0:
        sys.stderr.write(_closing_lines(result, config, fast_dev_run=options.fast_dev_run))
    return 0


def _read_config(options: argparse.Namespace) -> Config:
    overrides = list(options.overrides)
    # The chief's output folder counts; another machine may not have it.
    if options.resume and launched_rank() == 0:
        pattern = read_values(options.config, overrides, resolve=False).get("output_dir")
        if isinstance(pattern, str):
            overrides.append(f"output_dir={workspace.newest_unfinished(pattern)}")
    return load_config(options.config, overrides)


def _closing_lines(result: "TrainingResult", config: Config, *, fast_dev_run: bool) -> str:
    scores = "  ".join(f"{name} {value:.4f}" for name, value in result.metrics.items() if name != "epoch")
    lines = [f"best epoch {int(result.metrics['epoch']) + 1}: {scores}", f"report: {result.output_dir}/report.html"]
    if fast_dev_run:
        lines.append("one batch of each went through everything; nothing was tracked or registered")
    elif result.model_version is not None:
        lines.append(f"registered: models:/{result.registered_model}/{result.model_version} in {config.tracking.uri}")
    else:
        lines.append("not registered: tracking.registered_model is not set")
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tfpipe.train",
        description="Train a model as a configuration says. Without --config: the digits classifier.",
        epilog=f"keys (key=value overrides the file; values are YAML):\n{documented_keys()}\n"
        "exit codes: 0 done; 2 wrong usage, configuration or input; 3 tracking.min_metrics missed; 75 stopped by a "
        "signal, resumable; 1 the rest.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", help="one YAML file: the whole run")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--resume", action="store_true", help="go on with an unfinished run in output_dir")
    parser.add_argument("--overwrite", action="store_true", help="remove the run that output_dir holds")
    how.add_argument(
        "--fast-dev-run",
        action="store_true",
        help="try everything on one batch of training, validation and test data; nothing is tracked or registered, and "
        "the files go to a folder fast-dev-run beside output_dir, which the next replaces",
    )
    parser.add_argument("--profile", action="store_true", help="write a TensorBoard profile into output_dir/profile")
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration and end")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="like training.epochs=3")
    return parser


if __name__ == "__main__":
    sys.exit(main())
