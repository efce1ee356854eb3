"""The last hop: what a running service answers over HTTP."""

import contextlib
import importlib.util
import json
import os
import queue
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from tfpipe.core.bundle import Bundle, Execution
from tfpipe.core.certificate import Hop, compare
from tfpipe.core.errors import InferenceError
from tfpipe.core.parity import Bound, golden_bound
from tfpipe.core.signature import Array
from tfpipe.inference.golden import bound_of
from tfpipe.inference.interface import answer_of
from tfpipe.verify.golden import GoldenSamples

_START_S = 120.0
_POLL_S = 0.1
_ANSWER_S = 60.0
_STOP_S = 15.0
_SETTINGS = "TFPIPE_SERVING_"


def missing_service() -> str:
    """Why no service can be started here; "" where one can."""
    missing = [name for name in ("serving", "fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
    return f"the service is not installed here: {', '.join(missing)}" if missing else ""


@contextlib.contextmanager
def running_service(folder: Path, execution: Execution | None = None) -> Iterator[str]:
    """Serve a bundle on a free port of this machine for as long as the block lasts.

    Args:
        folder: Of the bundle.
        execution: The one way to run it; None: the service's choice, which passes over what does not answer.

    Yields:
        Its address, once it is ready.

    Raises:
        InferenceError: It does not start.
    """
    command = [sys.executable, "-m", "serving", "--model", str(folder), "--host", "127.0.0.1", "--port", "0"]
    if execution is not None:
        command += ["--precision", execution.variant, "--provider", execution.provider]
    # Settings of the service that the user runs are not meant for this one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        url = _address(process)
        _wait_until_ready(process, url)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def http_bound(bundle: Bundle, served: Mapping[str, Any]) -> Bound:
    """How far the answers of a service may lie from Keras's.

    Args:
        bundle: What it should serve.
        served: By `describe`: the variant, provider and arithmetic that answer.
    """
    if served["variant"] not in bundle.manifest.variants:
        # Another bundle's: its answers will tell.
        return golden_bound(served["precision"], 0.0)
    return bound_of(bundle, Execution(served["variant"], served["provider"], served["arithmetic"]))


def describe(url: str, bundle: Bundle | None = None) -> dict[str, Any]:
    """A version that a service has loaded, as its /health tells: the bundle's, else the champion, else the first.

    Raises:
        InferenceError: There is no service, or it is not ready.
    """
    state = _get(f"{url}/health")
    if state.get("status") != "ready" or not state.get("models"):
        raise InferenceError(f"{url}: expected a service that is ready, received status {state.get('status')!r}.")
    wanted = bundle.short_id if bundle is not None else None

    models: list[dict[str, Any]] = state["models"]
    return min(models, key=lambda one: (one.get("bundle") != wanted, "champion" not in one.get("aliases", ())))


def http_hop(url: str, golden: GoldenSamples, *, headers: Mapping[str, str] | None = None) -> Hop:
    """Send every golden sample and compare the answers with Keras's.

    Args:
        url: Of the service.
        golden: Of the bundle that it serves; of several versions the one that is of this bundle is asked.
        headers: To send along: an API key.

    Raises:
        InferenceError: The service does not answer.
    """
    # Of a text that is longer than a row Keras's answer is known of its first row alone.
    asked = [sample for sample in golden.samples if len(sample.prepared.rows) == 1]
    served = describe(url, golden.bundle)
    ask = partial(_ask, _address_of(url, served), headers or {})
    answers = [ask(sample.content, sample.decoded) for sample in asked]
    bound = http_bound(golden.bundle, served)
    title = f"file -> HTTP answer ({served['precision']} on {served['provider']})"
    references = [sample.golden.probabilities for sample in asked]
    expected = [
        json.loads(json.dumps(answer_of(sample.prepared, [reference])))
        for sample, reference in zip(asked, references, strict=True)
    ]
    given = [answer["predictions"][0] for answer in answers]
    kind = "entities" if any("entities" in one for one in expected) else "probabilities"
    lacking = next((answer for answer in given if kind not in answer), None)
    if lacking is not None:
        problem = f"{title}: expected answers with {kind}, received {', '.join(lacking)}."
        return Hop("http", title, "probabilities", len(given), None, None, bound=bound, problem=problem)
    if kind == "entities":
        return _entities_hop(title, given, expected, references, bound)
    labels = golden.inference.labels
    hop = compare("http", title, _in_order(given, labels), _in_order(expected, labels), bound)
    is_recorded = served["variant"] in golden.differences and served["provider"] == "cpu"
    if hop.problem or not is_recorded:
        return hop
    wider = golden_bound(served["precision"], golden.differences[served["variant"]])
    further = [ask(sample.content, sample.decoded)["predictions"][0] for sample in golden.generated]
    return replace(hop, problem=golden.generated_problem(title, _in_order(further, labels), wider))


def _in_order(answers: Sequence[Any], labels: Sequence[str]) -> list[Array]:
    return [np.array([answer["probabilities"].get(label, np.nan) for label in labels]) for answer in answers]


def _entities_hop(
    title: str, given: Sequence[Any], expected: Sequence[Any], references: Sequence[Array], bound: Bound
) -> Hop:
    """Of tags the service tells entities alone: which they are, and how sure it is of those that both found.

    Where no tag of Keras's is so close to another that the bound lets them change places, the entities are its own.
    """
    same, differences, problem = 0, [0.0], ""
    for answer, reference, probabilities in zip(given, expected, references, strict=True):
        found, known = (
            {_place(entity): entity["score"] for entity in both["entities"]} for both in (answer, reference)
        )
        same += found.keys() == known.keys()
        apart = {place: abs(found[place] - known[place]) for place in found.keys() & known.keys()}
        differences += apart.values()
        if found.keys() != known.keys() and _is_decided(probabilities, bound):
            problem = problem or f"{title}: expected entities {_told(known)}, received {_told(found)}."
        # `not <=` rather than `>`: a NaN must fail.
        if not all(apart[place] <= bound.atol + bound.rtol * known[place] for place in apart):
            problem = problem or (
                f"{title}: expected scores within {bound.atol:g} + {bound.rtol:g} x value of Keras's, received a "
                f"difference of {max(apart.values()):.3g}."
            )
    return Hop(
        "http", title, "probabilities", len(given), max(differences), float(np.mean(differences)), same / len(given),
        bound=bound, problem=problem,
    )  # fmt: skip


def _is_decided(probabilities: Array, bound: Bound) -> bool:
    """Whether answers within the bound have the same most probable tag of every token; (tokens, tags)."""
    second, first = np.sort(probabilities.astype(np.float64), axis=-1)[:, -2:].T
    return bool(np.all(first - second > 2 * bound.atol + bound.rtol * (first + second)))


def _told(entities: Mapping[tuple[Any, ...], float]) -> str:
    return ", ".join(f"{label} {start}-{end}" for label, start, end in entities) or "none"


def _place(entity: dict[str, Any]) -> tuple[Any, ...]:
    return entity["label"], entity["start"], entity["end"]


def _address_of(url: str, served: Mapping[str, Any]) -> str:
    """Where that very version answers, however requests are routed."""
    wanted = {"model_name": served["name"], "model_version": served["version"]}
    return f"{url}/predict?{urllib.parse.urlencode({name: value for name, value in wanted.items() if value})}"


def _ask(address: str, headers: Mapping[str, str], content: bytes, decoded: Array | str) -> dict[str, Any]:
    is_text = isinstance(decoded, str)
    body = json.dumps({"text": decoded}).encode() if is_text else content
    kind = "application/json" if is_text else "application/octet-stream"
    return _get(address, body, {**headers, "Content-Type": kind})


def _get(url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> dict[str, Any]:
    if not url.startswith(("http://", "https://")):
        raise InferenceError(f"{url}: expected the address of a service, http://HOST:PORT.")
    request = urllib.request.Request(url, data=body, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_S) as response:
            answer: dict[str, Any] = json.load(response)
            return answer
    except urllib.error.HTTPError as error:
        said = error.read(2000).decode(errors="replace")
        try:
            # A service that is not ready says so with status 503.
            answer = json.loads(said)
        except ValueError:
            answer = {}
        if "status" in answer:
            return answer
        raise InferenceError(f"{url}: expected an answer, received status {error.code}: {said}") from error
    except (OSError, ValueError) as error:
        # urllib wraps what the system says.
        reason = getattr(error, "reason", error)
        raise InferenceError(
            f"{url}: expected an answer, but: {getattr(reason, 'strerror', None) or reason}."
        ) from error


def _address(process: subprocess.Popen[str]) -> str:
    """What the service says that it listens on; what it writes later is read too, so that it never waits for us."""
    lines: queue.Queue[str | None] = queue.Queue()
    if process.stderr is None:
        raise RuntimeError("service: expected its standard error to be read.")
    threading.Thread(target=_read, args=(process.stderr, lines), daemon=True).start()
    last, deadline = "nothing", time.monotonic() + _START_S
    while time.monotonic() < deadline:
        with contextlib.suppress(queue.Empty):
            line = lines.get(timeout=_POLL_S)
            if line is None:
                break
            last = line.strip() or last
            with contextlib.suppress(ValueError, KeyError, TypeError):
                return str(json.loads(line)["url"])
    raise InferenceError(f"service: expected it to listen within {_START_S:g} s; it said: {last}")


def _read(stream: IO[str], lines: "queue.Queue[str | None]") -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _wait_until_ready(process: subprocess.Popen[str], url: str) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise InferenceError(f"service: expected it to become ready; it ended with exit code {process.returncode}.")
        with contextlib.suppress(InferenceError):
            if _get(f"{url}/health")["status"] == "ready":
                return
        time.sleep(_POLL_S)
    raise InferenceError(f"service: expected it to be ready within {_START_S:g} s.")
