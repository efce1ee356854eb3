"""`python -m tfpipe.convert`: a trained model -> a bundle that can be served."""

if __name__ == "__main__":
    from tfpipe.interruption import end_at_signals

    end_at_signals()

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tfpipe.config import documented_keys
from tfpipe.convert.foreign_settings import described_keys, is_foreign, read_foreign_config
from tfpipe.convert.settings import PRECISIONS, check_place, read_settings
from tfpipe.core.errors import ConfigError
from tfpipe.inference.tensors import TENSOR_TASK
from tfpipe.startup import run_command

if TYPE_CHECKING:
    from tfpipe.convert.asked import ConversionResult
    from tfpipe.convert.search import Budget

_BACKENDS = ("onnx", "tftrt", "tensorrt")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_intermixed_args(arguments)
    return run_command(lambda: _command(options))


def _command(options: argparse.Namespace) -> int:
    # TensorFlow takes seconds to import: neither --help nor a mistyped key or path waits for it.
    check_place(options.model)
    (read_foreign_config if is_foreign(options.model) else read_settings)(options.config, options.overrides)
    from tfpipe.convert.pipeline import convert

    result = convert(
        options.model,
        precision=options.precision,
        output=options.output,
        config=options.config,
        overrides=options.overrides,
        registered_model=os.environ.get("TFPIPE_REGISTERED_MODEL") or None,
        force=options.force,
        attach=options.attach,
        allow_code=options.allow_code,
        imports=options.imports,
        search=_budget(options),
        backend=options.backend,
        allow_fallback=options.allow_fallback,
    )
    sys.stderr.write(_closing_lines(result, is_searched=options.search))
    return 0


def _budget(options: argparse.Namespace) -> "Budget | None":
    from tfpipe.convert.search import Budget

    given = {"max_trials": options.max_trials, "max_s": options.max_minutes and options.max_minutes * 60}
    given = {name: value for name, value in given.items() if value is not None}
    if given and not options.search:
        raise ConfigError("--max-trials, --max-minutes: expected --search beside them, received none.")
    return Budget(**given) if options.search else None


def _closing_lines(result: "ConversionResult", *, is_searched: bool) -> str:
    # TensorFlow is there: it was converted with.
    from tfpipe.tasks.find import find_task

    manifest = result.bundle.manifest
    variants = manifest.variants
    metric = "–"
    if manifest.task != TENSOR_TASK:
        metric = find_task(manifest.task, manifest.labels, multi_label=manifest.multi_label).headline
    reference = variants["fp32"].size_bytes
    lines = [f"{'':14}{'size':>12}{'of fp32':>9}{metric:>10}{'ms (batch 1)':>14}{'ms (batch 8)':>14}"]
    ranks = {precision: rank for rank, precision in enumerate(PRECISIONS)}
    for name in sorted(variants, key=lambda name: (ranks.get(variants[name].precision, len(ranks)), name)):
        variant = variants[name]
        score = variant.metrics.get(metric)
        shown = "–" if score is None else f"{score:.2%}"
        lines.append(
            f"{name:14}{variant.size_bytes / 1e6:9.3f} MB{variant.size_bytes / reference:9.1%}{shown:>10}"
            + "".join(f"{ms:14.3f}" for ms in variant.latency_ms.values())
        )
    if is_searched:
        best = result.bundle.executions()[0]
        lines.append(
            f"fastest that passed: {best.title}: {best.latency_ms['1']['p50']:.3f} ms for one row, one thread a core"
        )
    folder = result.bundle.folder
    lines += [f"bundle: {folder}", f"report: {folder / 'report.html'}", *_serving_lines(result)]
    return "\n".join(lines) + "\n"


def _serving_lines(result: "ConversionResult") -> list[str]:
    version, folder, serve = result.version, shlex.quote(str(result.bundle.folder)), "python -m serving --model"
    if result.bundle.manifest.task == TENSOR_TASK:
        return [f"ask it by the names of its inputs, from Python (see the report) or over /v2: {serve} {folder}"]
    if version is None:
        return [f"serve it: {serve} {folder}"]
    # Loads MLflow, which a registered version has done already.
    from tfpipe.store import store_uri

    elsewhere = result.tracking_uri != store_uri(None)
    store = shlex.quote(result.tracking_uri)
    serve = f"MLFLOW_TRACKING_URI={store} {serve}" if elsewhere else serve
    if result.is_champion:
        return [f"{version.uri} is champion; serve it: {serve} models:/{version.name}@champion"]
    option = f" --tracking-uri {store}" if elsewhere else ""
    return [
        f"attached to {version.uri}; serve it: {serve} {version.uri}",
        f"make it champion: tfpipe registry promote {version.version} --model {version.name}{option}",
    ]


def _parser() -> argparse.ArgumentParser:
    keys = "\n".join(_key_lines())
    parser = argparse.ArgumentParser(
        prog="python -m tfpipe.convert",
        description="Convert a trained model to ONNX and a SavedModel, prove it against Keras, and write its bundle.",
        epilog=f"keys (key=value; values are YAML):\n{keys}\n\n"
        "exit codes: 0 done; 2 wrong usage, configuration or input; 3 accuracy, size or parity missed "
        "(the report stays, no bundle is written); 75 stopped by Ctrl-C or SIGTERM; 1 the rest.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS,
        help="what is served by default and judged; fp32 and fp16 are always in the bundle (default: int8; with "
        "--search whichever is fastest; fp32 for a model that was trained elsewhere and comes without data)",
    )  # fmt: skip
    parser.add_argument(
        "--search", action="store_true",
        help="find the fastest variant, and way to run it, that passes the gate on this machine",
    )  # fmt: skip
    parser.add_argument("--max-trials", type=int, metavar="N", help="of --search (default: 12)")
    parser.add_argument("--max-minutes", type=float, metavar="M", help="of --search (default: 5)")
    parser.add_argument("--backend", choices=_BACKENDS, default="onnx", help="what the model is converted for")
    parser.add_argument(
        "--allow-fallback", action="store_true",
        help="go on with ONNX Runtime, and record it, where the backend cannot be used here",
    )  # fmt: skip
    parser.add_argument(
        "--model", metavar="MODEL",
        help="models:/NAME/VERSION, models:/NAME@ALIAS, a model.keras, an output_dir, a checkpoint, or a model that "
        "was trained elsewhere (.keras, .h5, the folder of a SavedModel); default: the newest version of "
        "tracking.registered_model, TFPIPE_REGISTERED_MODEL or the only registered name",
    )  # fmt: skip
    parser.add_argument(
        "--force", action="store_true",
        help="make the bundle although limits on score, classes, size or speed are missed; it records which",
    )  # fmt: skip
    parser.add_argument(
        "--attach", action="store_true",
        help="of a model from a path: attach the bundle to the registered version that has this model, if one has",
    )  # fmt: skip
    parser.add_argument("--output", metavar="DIR", help="the bundle's folder (default: bundles/NAME-VERSION)")
    parser.add_argument(
        "--config", metavar="FILE",
        help="YAML whose conversion section and tracking store are used; of a model that was trained elsewhere, all",
    )  # fmt: skip
    parser.add_argument(
        "--import", metavar="MODULE", dest="imports", action="append", default=[],
        help="module with the classes of a model that was trained elsewhere; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--allow-code", action="store_true",
        help="run the Python code that Lambda layers of a model file hold; only for files from a source you trust",
    )  # fmt: skip
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="like conversion.max_metric_drop=0.05")
    return parser


def _key_lines() -> list[str]:
    """The documented keys that a conversion takes, each with its line of meaning."""
    lines = documented_keys().splitlines()
    wanted = ("  conversion.", "  tracking.uri", "  tracking.registered_model", "  data.path", "  data.validation_path")
    own = [text for i, line in enumerate(lines) if line.startswith(wanted) for text in lines[i : i + 2]]
    foreign = [text for key, meaning in described_keys() for text in (f"  {key}", f"      {meaning}")]
    return [*own, "keys of a model that was trained elsewhere:", *foreign]


if __name__ == "__main__":
    sys.exit(main())
