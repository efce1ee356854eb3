"""`tfpipe export BUNDLE --target TARGET --output DIR`: a bundle, written for another server."""

import argparse
import sys
from collections.abc import Sequence

from tfpipe.startup import run_command
from tfpipe.targets.export import DEVICES, TARGETS, TRITON_BACKENDS, ExportOptions, export


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _command(options))


def _command(options: argparse.Namespace) -> int:
    result = export(
        options.bundle,
        options.target,
        options.output,
        options=ExportOptions(options.precision, options.triton_backend, options.device, options.name),
        overwrite=options.overwrite,
        tracking_uri=options.tracking_uri,
    )
    sys.stderr.write(f"{options.target}: {result.folder}\nhow to serve it: {result.folder / 'README.md'}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tfpipe export",
        description="Write a bundle for another server, whole or not at all. TensorFlow is not needed.",
        epilog="exit codes: 0 done; 2 wrong usage, bundle or output; 3 what was written answers otherwise than Keras; "
        "1 the rest.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle's folder, or models:/NAME/VERSION")
    parser.add_argument("--target", required=True, choices=TARGETS, help="what is to serve it")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier export wrote there")
    parser.add_argument("--precision", default="auto", help="variant to export (default: the bundle's own choice)")
    parser.add_argument("--name", help="under which the server knows the model (default: the bundle's)")
    parser.add_argument(
        "--triton-backend", choices=TRITON_BACKENDS, default="python",
        help="python takes raw files or texts, onnxruntime preprocessed rows (default: python)",
    )  # fmt: skip
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="what Triton runs it on (default: cpu)")
    parser.add_argument("--tracking-uri", metavar="URI", help="the registry of models:/... (default: as MLflow has it)")
    return parser
