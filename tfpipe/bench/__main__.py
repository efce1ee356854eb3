"""`tfpipe bench URL ...`: how fast a service answers, and how much it holds; without TensorFlow."""

if __name__ == "__main__":
    from tfpipe.interruption import end_at_signals

    end_at_signals()

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from tfpipe.bench.asking import Asking
from tfpipe.bench.criteria import parse_criterion
from tfpipe.bench.findings import find
from tfpipe.bench.samples import make_samples, read_samples
from tfpipe.bench.session import Plan, Session, Target
from tfpipe.bench.summary import render_summary
from tfpipe.core import atomic
from tfpipe.core.errors import ConfigError, GateError, InferenceError, StoppedError
from tfpipe.header_option import header
from tfpipe.startup import run_command

_PROTOCOLS = ("predict", "v2", "v2-binary", "grpc", "tfserving")
_CLOSED_CONNECTIONS, _OPEN_CONNECTIONS = 8, 256
_ROUNDS_OF_TWO = 6


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _command(options))


def _command(options: argparse.Namespace) -> int:
    plan = _plan(options)
    if options.output is not None:
        atomic.writable_folder(options.output, where="--output")
    targets, interrupted = _run(_measure(options, plan))
    found = find(targets, plan, interrupted=interrupted)
    sys.stdout.write(render_summary(found))
    if options.output is not None:
        # Pictures take a while to import.
        from tfpipe.bench.page import render_page

        atomic.write_file(options.output / "report.json", json.dumps(found, indent=2) + "\n")
        atomic.write_file(options.output / "report.html", render_page(found, targets))
        sys.stdout.write(f"{options.output / 'report.html'}\n")
    return _exit_code(found)


def _exit_code(found: Mapping[str, Any]) -> int:
    if found["interrupted"]:
        return StoppedError.exit_code
    if any(one["search"] and one["found_rate"] is None for one in found["targets"]):
        return GateError.exit_code
    if any(not one["answered"] for one in found["targets"]):
        return InferenceError.exit_code
    return 0


async def _measure(options: argparse.Namespace, plan: Plan) -> tuple[list[Target], bool]:
    targets = [await _target(url, options) for url in options.url]
    session = Session(targets, plan)
    await session.run()
    return targets, session.interrupted


async def _target(text: str, options: argparse.Namespace) -> Target:
    asking = _asking(text, options)
    model = await asking.describe(options.model, options.model_version)
    if options.input:
        samples = read_samples(options.input, model)
    else:
        samples = make_samples(model, image_size=options.image_size, text_words=options.text_words, seed=options.seed)
    return Target(text, asking, model, [asking.render(model, sample) for sample in samples])


def _asking(text: str, options: argparse.Namespace) -> Asking:
    # gRPC's clients write host:port.
    url = urlsplit(text if "://" in text else f"http://{text}")
    if url.scheme not in ("http", "https", "grpc") or not url.hostname:
        raise ConfigError(f"URL: expected http://HOST:PORT, received {text!r}.")
    if url.scheme == "grpc" and options.protocol != "grpc":
        raise ConfigError(f"URL: expected http://HOST:PORT, received {text!r}. Of gRPC say --protocol grpc.")
    headers = dict(options.header)
    if options.protocol == "grpc":
        # grpc takes long to import.
        from tfpipe.bench.grpc_asking import GrpcAsking

        return GrpcAsking(url, headers, timeout_s=options.timeout)
    from tfpipe.bench import http_asking

    classes: dict[str, type[http_asking.HttpAsking]] = {
        "predict": http_asking.PredictAsking,
        "v2": http_asking.V2Asking,
        "v2-binary": http_asking.V2BinaryAsking,
        "tfserving": http_asking.TensorFlowServingAsking,
    }
    return classes[options.protocol](_without_query(url), headers, timeout_s=options.timeout)


def _without_query(url: SplitResult) -> SplitResult:
    return url._replace(query="", fragment="")


def _plan(options: argparse.Namespace) -> Plan:
    for name in ("rate", "duration", "timeout", "connections", "rounds", "probe"):
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"--{name}: expected more than 0, received {value:g}.")
    if not 0 <= options.warm_up < float("inf"):
        raise ConfigError(f"--warm-up: expected 0 or more, received {options.warm_up:g}.")
    if options.search and options.rate:
        raise ConfigError("--search: expected it without --rate: it finds the rate.")
    is_open = bool(options.search or options.rate)
    return Plan(
        connections=options.connections or (_OPEN_CONNECTIONS if is_open else _CLOSED_CONNECTIONS),
        rate=options.rate,
        duration_s=options.duration,
        warm_up_s=options.warm_up,
        rounds=options.rounds or (_ROUNDS_OF_TWO if len(options.url) > 1 else 1),
        seed=options.seed,
        criterion=parse_criterion(options.search) if options.search else None,
        probe_s=options.probe,
    )


def _run(work: Any) -> Any:
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.run(work)
    return uvloop.run(work)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH such as 480x640, received {text!r}")
    return int(height), int(width)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tfpipe.bench",
        description="Send a load to a service and say what came of it: throughput and latencies with intervals, counts "
        "by status. Several URLs are asked in turn and compared with the first.",
        epilog="exit codes: 0 done; 1 nothing was answered; 2 wrong usage, no service, or the first request refused; "
        "3 no rate holds the limit of --search; 75 ended early, with what was measured until then.",
    )
    parser.add_argument("url", nargs="+", metavar="URL", help="http://HOST:PORT; of gRPC HOST:PORT")
    parser.add_argument("--protocol", choices=_PROTOCOLS, default="predict", help="(default: predict)")
    parser.add_argument("--model", metavar="NAME", help="default: the only one")
    parser.add_argument("--model-version", metavar="VERSION", help="default: as the service routes")
    parser.add_argument(
        "--input", type=Path, nargs="+", metavar="PATH",
        help="images or texts: files, folders, manifests; arrays: .npz files (default: made up to fit the model)",
    )  # fmt: skip
    parser.add_argument(
        "--image-size", type=_size, default=(224, 224), metavar="HxW", help="of images made up (224x224)"
    )
    parser.add_argument("--text-words", type=int, default=12, metavar="N", help="of texts made up (12)")
    parser.add_argument(
        "--header", type=header, action="append", default=[], metavar="'NAME: VALUE'", help="sent along"
    )
    load = parser.add_argument_group("load")
    load.add_argument("--rate", type=float, metavar="R", help="open loop: arrivals a second, at random moments")
    load.add_argument(
        "--connections", type=int, metavar="N",
        help=f"closed loop: callers ({_CLOSED_CONNECTIONS}); open loop: most at once ({_OPEN_CONNECTIONS})",
    )  # fmt: skip
    load.add_argument(
        "--search", metavar="LIMITS", help="find the highest rate that holds, e.g. 'p95<50ms, errors<1%%'"
    )
    load.add_argument("--probe", type=float, default=5.0, metavar="S", help="seconds of each step of a search (5)")
    load.add_argument("--duration", type=float, default=10.0, metavar="S", help="seconds for each URL (10)")
    load.add_argument("--warm-up", type=float, default=2.0, metavar="S", help="seconds before, not counted (2)")
    load.add_argument("--rounds", type=int, metavar="N", help=f"turns of each URL (1; of several {_ROUNDS_OF_TWO})")
    load.add_argument("--timeout", type=float, default=10.0, metavar="S", help="longest wait for an answer (10)")
    load.add_argument("--seed", type=int, default=0, help="of inputs made up and of arrivals (0)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for report.html and report.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
