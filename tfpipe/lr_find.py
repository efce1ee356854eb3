"""Suggest a learning rate: `python -m tfpipe.lr_find --config run.yaml`, under horovodrun too."""

if __name__ == "__main__":
    from tfpipe.interruption import end_at_signals

    end_at_signals()

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tfpipe.config import load_config
from tfpipe.core import atomic
from tfpipe.core.errors import ConfigError, TfpipeError
from tfpipe.distributed import launched_rank
from tfpipe.startup import run_command

if TYPE_CHECKING:
    from tfpipe.training.learning_rate_finder import Finding

PICTURE, FIGURES = "lr_find.png", "lr_find.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_intermixed_args(arguments)
    return run_command(lambda: _command(options))


def _command(options: argparse.Namespace) -> int:
    try:
        config = load_config(options.config, options.overrides)
        _check(options)
    except TfpipeError:
        # Every worker read the same; the chief says what is wrong with it.
        if launched_rank() != 0:
            return ConfigError.exit_code
        raise
    # TensorFlow takes seconds to import; --help and a mistyped key need not wait for it.
    from tfpipe.training.learning_rate_finder import find

    finding, world = find(config, steps=options.steps, lowest=options.lowest, highest=options.highest)
    if world.is_chief:
        write(finding, options.output)
        sys.stdout.write(_answer(finding, options.output))
    return 0


def write(finding: "Finding", folder: Path) -> None:
    """Write the picture and the figures.

    Args:
        finding: Of `tfpipe.training.learning_rate_finder.find`.
        folder: Made where it is missing.
    """
    from tfpipe.training.figures import learning_rate_figure

    atomic.writable_folder(folder, where="--output")
    document = asdict(finding)
    for name in ("losses", "smoothed_losses"):
        # JSON has no infinity.
        document[name] = [loss if math.isfinite(loss) else None for loss in document[name]]
    atomic.write_file(folder / FIGURES, json.dumps(document, indent=1) + "\n")
    figure = learning_rate_figure(finding.learning_rates, finding.losses, finding.smoothed_losses, finding.suggestion)
    figure.savefig(folder / PICTURE, dpi=120)


def _answer(finding: "Finding", folder: Path) -> str:
    tried = f"{len(finding.losses)} updates, {finding.learning_rates[0]:.3g} to {finding.learning_rates[-1]:.3g}"
    why = "; stopped there, as the loss diverged" if finding.stopped else ""
    advice = (
        "no suggestion: the loss never falls. Try --lowest, --highest or more --steps."
        if finding.suggestion is None
        else f"training.learning_rate={finding.suggestion:.2g}"
    )
    return f"{tried}{why}\n{advice}\npicture: {folder / PICTURE}\n"


def _check(options: argparse.Namespace) -> None:
    if not 0 < options.lowest < options.highest:
        raise ConfigError(
            f"--lowest and --highest: expected 0 < lowest < highest, received {options.lowest:g} and "
            f"{options.highest:g}."
        )
    if options.steps < 10:
        raise ConfigError(f"--steps: expected at least 10, received {options.steps}.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tfpipe.lr_find",
        description="Train shortly while the learning rate grows exponentially, and suggest the rate at which the "
        "smoothed loss falls fastest (Smith 2015, arXiv:1506.01186). Writes a picture and its figures; touches no run, "
        "no checkpoint and no tracking store.",
    )
    parser.add_argument("--config", metavar="FILE", help="one YAML file: the run that the rate is for")
    parser.add_argument("--steps", type=int, default=100, help="updates (default: %(default)s)")
    parser.add_argument("--lowest", type=float, default=1e-7, help="first learning rate (default: %(default)s)")
    parser.add_argument("--highest", type=float, default=10.0, help="last learning rate (default: %(default)s)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help=f"where {PICTURE} and {FIGURES} go (default: here)",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="like training.batch_size=32")
    return parser


if __name__ == "__main__":
    sys.exit(main())
