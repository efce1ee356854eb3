"""`python -m tfpipe.verify BUNDLE|URL`: every hop of a bundle measured anew on this machine."""

if __name__ == "__main__":
    from tfpipe.interruption import end_at_signals

    end_at_signals()

import argparse
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from tfpipe.core import atomic, certificate
from tfpipe.core.bundle import Bundle, open_bundle
from tfpipe.core.certificate import Certificate, Hop
from tfpipe.core.errors import ConfigError, InferenceError
from tfpipe.core.golden_tensors import read_golden_tensors
from tfpipe.header_option import header
from tfpipe.inference.tensors import TENSOR_TASK
from tfpipe.provenance import library_versions, processor
from tfpipe.startup import run_command
from tfpipe.verify.golden import GoldenSamples
from tfpipe.verify.http import describe, http_hop, missing_service, running_service
from tfpipe.verify.keras import keras_hop
from tfpipe.verify.tensors import saved_model_hop, tensor_hops

_GATE_MISSED = 3
_SCHEME = "models:/"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 3 where a hop is broken."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _command(options))


def _command(options: argparse.Namespace) -> int:
    url = options.target if options.target.startswith(("http://", "https://")) else None
    bundle = _open(options.bundle or (_bundle_of_service(url) if url else options.target))
    headers = dict(options.header)
    found = verify(bundle, url=url, headers=headers, model=options.model, threads=options.threads)
    print(_table(found))
    if options.output is not None:
        atomic.write_file(Path(options.output), found.to_json())
    broken = found.broken
    if broken is None:
        print(f"{bundle.folder} ({bundle.short_id}): all {len(found.hops)} hops hold on this machine.")
        return 0
    print(f"{bundle.folder} ({bundle.short_id}): the first hop that broke is {broken.name!r}. {broken.problem}")
    return _GATE_MISSED


def verify(
    bundle: Bundle,
    *,
    url: str | None = None,
    headers: Mapping[str, str] | None = None,
    model: str | None = None,
    threads: int | None = None,
) -> Certificate:
    """Measure every hop that can be measured here on the bundle's golden samples; Keras's answers are those in it.

    Args:
        bundle: Checked.
        url: A service that runs the bundle; None: one is started.
        headers: For that service: an API key.
        model: The trained model, to have Keras itself answer again: see `tfpipe.convert.convert`.
        threads: Of ONNX Runtime; None: one a core.

    Raises:
        BundleError: It has no golden samples, or files that cannot be read.
        InferenceError: The service does not answer.
    """
    if bundle.manifest.task == TENSOR_TASK:
        return _verify_tensors(bundle, threads)
    golden = GoldenSamples(bundle)
    recorded = _recorded(bundle)
    hops: list[Hop] = []
    left_out: dict[str, str] = {}
    if model is None:
        left_out["keras"] = "Keras's answers are those that the bundle holds; --model MODEL has it answer again"
    else:
        hops.append(keras_hop(model, golden))
    hops += golden.hops(threads=threads)
    if importlib.util.find_spec("tensorflow") is None:
        left_out["saved_model"] = "TensorFlow is not installed here"
    else:
        hops += _saved_model_hops(golden)
    if url is not None:
        hops.append(http_hop(url, golden, headers=headers))
    elif reason := missing_service():
        left_out["http"] = reason
    elif any(hop.problem for hop in hops):
        left_out["http"] = "a hop before it is broken, and the service refuses such a bundle"
    else:
        hops.append(_started_http_hop(golden))
    hops = [replace(hop, score=_recorded_score(recorded, hop.name)) for hop in hops]
    return _certificate(hops, left_out)


def _started_http_hop(golden: GoldenSamples) -> Hop:
    try:
        with running_service(golden.bundle.folder) as started:
            return http_hop(started, golden)
    except InferenceError as error:
        num_files = len(golden.samples)
        return Hop("http", "file -> HTTP answer", "probabilities", num_files, None, None, problem=str(error))


def _verify_tensors(bundle: Bundle, threads: int | None) -> Certificate:
    hops, left_out = list(tensor_hops(bundle, threads=threads)), {"http": "named tensors are no file to send"}
    if importlib.util.find_spec("tensorflow") is None:
        left_out["saved_model"] = "TensorFlow is not installed here"
    else:
        (folder,) = bundle.path("saved_model").iterdir()
        hops.append(saved_model_hop(folder, read_golden_tensors(bundle)))
    return _certificate(hops, left_out)


def _certificate(hops: Sequence[Hop], left_out: dict[str, str]) -> Certificate:
    made_on = {"processor": processor(), "library_versions": library_versions()}
    return Certificate(tuple(hops), left_out, made_on, datetime.now(UTC).isoformat(timespec="seconds"))


def _saved_model_hops(golden: GoldenSamples) -> list[Hop]:
    # TensorFlow takes seconds to import, and may not be there.
    from tfpipe.verify.saved_model import Asked, load_saved_model, saved_model_hops

    (folder,) = golden.bundle.path("saved_model").iterdir()
    asked = [Asked(s.content, s.decoded, s.row, s.golden.probabilities) for s in golden.samples]
    return saved_model_hops(load_saved_model(folder), asked)


def _recorded(bundle: Bundle) -> Certificate | None:
    path = bundle.path(certificate.FILE)
    # Bundles made before there were certificates have none.
    return Certificate.from_json(path.read_text(encoding="utf-8"), where=str(path)) if path.is_file() else None


def _recorded_score(recorded: Certificate | None, name: str) -> certificate.Score | None:
    hop = recorded.hop(name) if recorded is not None else None
    return hop.score if hop is not None else None


def _open(target: str) -> Bundle:
    if not target.startswith(_SCHEME):
        return open_bundle(Path(target))
    # MLflow takes seconds to import.
    from tfpipe.registry import Registry

    registry = Registry()
    cache = Path("~/.cache/tfpipe/bundles").expanduser()
    return open_bundle(registry.download_bundle(registry.resolve(target), cache))


def _bundle_of_service(url: str) -> str:
    served = describe(url)
    if served.get("version") is None:
        raise ConfigError(
            f"{url}: expected a model of the registry, received {served.get('name')!r} without a version. Give the "
            "bundle that it serves: --bundle FOLDER."
        )
    return f"{_SCHEME}{served['name']}/{served['version']}"


def _table(found: Certificate) -> str:
    head = ("hop", "files", "largest", "mean", "same class", "bound", "")
    rows = [head, *(_cells(hop) for hop in found.hops)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, *(f"left out: {name}: {why}." for name, why in found.left_out.items())])


def _cells(hop: Hop) -> tuple[str, ...]:
    bound = "reported" if hop.bound is None else f"{hop.bound.atol:.2g} + {hop.bound.rtol:g} x"
    return (
        hop.title,
        str(hop.num_files),
        "-" if hop.max_abs_diff is None else f"{hop.max_abs_diff:.2g}",
        "-" if hop.mean_abs_diff is None else f"{hop.mean_abs_diff:.2g}",
        "-" if hop.agreement is None else f"{hop.agreement:.1%}",
        bound,
        "BROKEN" if hop.problem else "ok",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tfpipe.verify",
        description="Compare every hop between a raw file and an answer with the trained model, on this machine: "
        "decoding, preprocessing, each ONNX variant, the SavedModel (where TensorFlow is installed) and HTTP.",
        epilog="exit codes: 0 every hop holds; 2 wrong usage or bundle; 3 a hop is broken; 1 the rest.",
    )
    parser.add_argument("target", metavar="BUNDLE|URL", help="a bundle's folder, models:/NAME/VERSION, or a service")
    parser.add_argument(
        "--bundle", metavar="FOLDER", help="with a URL: the bundle (default: the champion's, from the registry)"
    )
    parser.add_argument(
        "--header", type=header, action="append", default=[], metavar="'NAME: VALUE'", help="with a URL: sent along"
    )
    parser.add_argument("--model", metavar="MODEL", help="the trained model, to have Keras answer again")
    parser.add_argument("--threads", type=int, metavar="N", help="of ONNX Runtime (default: one a core)")
    parser.add_argument("--output", metavar="FILE", help="write the certificate as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
