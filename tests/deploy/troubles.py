"""Services and runs in trouble of each kind that alerts tell of. The trouble is real; only its cause is arranged."""

import contextlib
import json
import os
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx

from tests.serving.bundles import BLUE, RED, make_bundle
from tests.serving.registered import MODEL
from tests.serving.servers import NO_TLS, PATIENCE_S, Process, process, wait_for

_PAUSE_S = 0.2


@contextlib.contextmanager
def repeated(act: Callable[[], object], *, threads: int = 1, pause_s: float = _PAUSE_S) -> Iterator[None]:
    """Do something again and again, in threads of its own, while the block lasts; a connection may break."""
    is_over = threading.Event()

    def work() -> None:
        while not is_over.wait(pause_s):
            with contextlib.suppress(httpx.HTTPError):
                act()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for one in workers:
        one.start()
    try:
        yield
    finally:
        is_over.set()
        for one in workers:
            one.join(PATIENCE_S)


def asks(url: str, headers: Mapping[str, str] | None = None) -> Callable[[], object]:
    """A request to a service, whatever comes of it."""
    client = httpx.Client(base_url=url, timeout=PATIENCE_S, headers=headers, verify=NO_TLS)
    return lambda: client.post("/predict", content=RED)


def address_of(started: Process) -> str:
    return started.url.removeprefix("http://")


@contextlib.contextmanager
def slow(folder: Path) -> Iterator[Process]:
    """A service that answers a row at a time, and lets few wait."""
    bundle = make_bundle(folder / "slow", name="slow", work=150)
    with process("--model", str(bundle), max_batch_size="1", max_queue_rows="16", threads="1") as started:
        _wait_until_ready(started)
        yield started


@contextlib.contextmanager
def overload(started: Process) -> Iterator[None]:
    """Ask it for more than it can, some with less patience than it needs."""
    patient, impatient = asks(started.url), asks(started.url, {"X-Timeout-Ms": "1"})
    with repeated(patient, threads=30), repeated(impatient, threads=6):
        yield


@contextlib.contextmanager
def isolated(folder: Path) -> Iterator[Process]:
    """A service whose model is in a process of its own."""
    bundle = make_bundle(folder / "isolated", name="isolated")
    with process("--model", str(bundle), isolation="process", threads="1") as started:
        _wait_until_ready(started)
        yield started


@contextlib.contextmanager
def crash(started: Process) -> Iterator[None]:
    """Kill its model's process whenever there is one, while it is asked."""

    def kill() -> None:
        for pid in _children_of(started.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    with repeated(asks(started.url), threads=4), repeated(kill, pause_s=1.0):
        yield


@contextlib.contextmanager
def leaving(folder: Path) -> Iterator[Process]:
    """Told to stop with a request in flight that does not come to an end: it drains. Nobody changed its routing."""
    bundle = make_bundle(folder / "leaving", name=MODEL)
    patience = dict.fromkeys(("drain_ms", "body_timeout_ms", "timeout_ms"), "600000")
    with process("--model", str(bundle), threads="1", **patience) as started:
        _wait_until_ready(started)
        host, port = address_of(started).split(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nbegun")
            wait_for(lambda: "tfpipe_in_flight 1.0" in started.get("/metrics").text)
            started.signal(signal.SIGTERM)
            yield started


@contextlib.contextmanager
def sound(folder: Path) -> Iterator[Process]:
    """A service of two models, of which nothing is asked."""
    bundles = [make_bundle(folder / name, name=name) for name in ("moved", "damaged")]
    with process("--model", ",".join(map(str, bundles)), isolation="inline", threads="1") as started:
        _wait_until_ready(started)
        yield started


def stray(folder: Path, started: Process) -> None:
    """Change the golden answers of one of the two a little, and a sample of the other; leave no file descriptors."""
    file = folder / "moved" / "golden" / "answers.json"
    samples = json.loads(file.read_text())
    for sample in samples:
        sample["probabilities"] = [one + 0.015 for one in sample["probabilities"]]
    file.write_text(json.dumps(samples))
    (folder / "damaged" / "golden" / "red.png").write_bytes(BLUE)
    open_files = len(list(Path(f"/proc/{started.pid}/fd").iterdir()))
    resource.prlimit(started.pid, resource.RLIMIT_NOFILE, (open_files + 3, 1024))


def _wait_until_ready(started: Process) -> None:
    # Several start side by side, one of them slow.
    wait_for(started.is_ready, patience_s=180)


def _children_of(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def free_address() -> str:
    """HOST:PORT of this machine where nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"
