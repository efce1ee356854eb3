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
from tests.serving.servers import PATIENCE_S, Process, process, wait_for

_PAUSE_S = 0.05


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
    client = httpx.Client(base_url=url, timeout=PATIENCE_S, headers=headers)
    return lambda: client.post("/predict", content=RED)


def address_of(started: Process) -> str:
    return started.url.removeprefix("http://")


@contextlib.contextmanager
def overloaded(folder: Path) -> Iterator[str]:
    """Slow, a row at a time, asked for more than it can, by some with less patience than it needs; gives HOST:PORT."""
    bundle = make_bundle(folder / "slow", name="slow", work=300)
    with process("--model", str(bundle), max_batch_size="1", max_queue_rows="24", threads="1") as started:
        wait_for(lambda: _is_ready(started))
        with (
            repeated(asks(started.url), threads=40),
            repeated(asks(started.url, {"X-Timeout-Ms": "1"}), threads=16),
        ):
            yield address_of(started)


@contextlib.contextmanager
def crashing(folder: Path) -> Iterator[str]:
    """Asked, while its model's process is killed whenever there is one; gives HOST:PORT."""
    bundle = make_bundle(folder / "crashing", name="crashing")
    with process("--model", str(bundle), isolation="process", threads="1") as started:
        wait_for(lambda: _is_ready(started))

        def kill() -> None:
            for pid in _children_of(started.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

        with repeated(asks(started.url), threads=4), repeated(kill, pause_s=0.5):
            yield address_of(started)


@contextlib.contextmanager
def leaving(folder: Path) -> Iterator[Process]:
    """Told to stop with a request in flight that does not come to an end: it drains."""
    bundle = make_bundle(folder / "leaving", name="leaving")
    with process("--model", str(bundle), drain_ms="600000", body_timeout_ms="600000", threads="1") as started:
        wait_for(lambda: _is_ready(started))
        host, port = address_of(started).split(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nbegun")
            wait_for(lambda: "tfpipe_in_flight 1.0" in httpx.get(f"{started.url}/metrics").text)
            started.signal(signal.SIGTERM)
            yield started


@contextlib.contextmanager
def damaged(folder: Path) -> Iterator[str]:
    """A golden sample became another picture after it was loaded; it finds out when nobody asks; gives HOST:PORT."""
    bundle = make_bundle(folder / "damaged", name="damaged")
    with process("--model", str(bundle), threads="1") as started:
        wait_for(lambda: _is_ready(started))
        (bundle / "golden" / "red.png").write_bytes(BLUE)
        yield address_of(started)


@contextlib.contextmanager
def moved(folder: Path) -> Iterator[str]:
    """Its golden answers moved, but not far; and it has hardly a file descriptor left; gives HOST:PORT."""
    bundle = make_bundle(folder / "moved", name="moved")
    with process("--model", str(bundle), threads="1") as started:
        wait_for(lambda: _is_ready(started))
        file = bundle / "golden" / "answers.json"
        samples = json.loads(file.read_text())
        for sample in samples:
            sample["probabilities"] = [one + 0.015 for one in sample["probabilities"]]
        file.write_text(json.dumps(samples))
        resource.prlimit(started.pid, resource.RLIMIT_NOFILE, (32, 1024))
        yield address_of(started)


def _is_ready(started: Process) -> bool:
    return httpx.get(f"{started.url}/health").status_code == httpx.codes.OK


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
