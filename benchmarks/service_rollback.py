"""One second over the time until a rollback holds, by the command from its start and by the call that it makes.

    make bench NAME=service_rollback

A service of a registered model in an MLflow store of one SQLite file is asked without a pause. Each turn promotes
version 2 and rolls back from it, by `tfpipe registry rollback --replicas` and by the call that this makes. What counts
is when the last request was sent that version 2 answered; none may be sent to it after the command has returned.
"""

import contextlib
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import conclude_nearest
from benchmarks.served_models import jpeg, tiny_bundle
from serving.keys_command import create_key
from tfpipe.registry import Registry
from tfpipe.store import connect, create_store

TURNS, MOST_S, PATIENCE_S = 7, 1.0, 60.0
MODEL, LEFT = "tiny", "2"
_BEFORE_S = 0.2


class Client:
    """Asks the service on one connection.

    Args:
        port: On 127.0.0.1.
        key: An API key.
    """

    def __init__(self, port: int, key: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        self._key = {"Authorization": f"Bearer {key}"}

    def ask(self, method: str, path: str, body: Any = None, *, content: bytes | None = None) -> dict[str, Any]:
        """The JSON of the answer, which must be one."""
        data = content if content is not None else json.dumps(body).encode() if body is not None else None
        kind = "image/jpeg" if content is not None else "application/json"
        self._connection.request(method, path, data, {**self._key, "Content-Type": kind})
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{method} {path}: expected 200, received {answer.status}: {text[:500]!r}")
        return dict(json.loads(text))


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        uri, key = _store(folder), create_key(folder / "keys.json", {"name": "bench", "scopes": ["admin", "predict"]})
        with _service(folder, uri) as port:
            admin = Client(port, key)
            command = [sys.executable, "-m", "tfpipe.cli", "registry", "rollback", "--model", MODEL]
            environ = {**os.environ, "TFPIPE_ADMIN_KEY": key}
            ways: dict[str, Callable[[], object]] = {
                "command": lambda: subprocess.run(
                    [*command, "--replicas", admin.url], env=environ, check=True, stdout=subprocess.DEVNULL
                ),
                "call": lambda: admin.ask("POST", f"/admin/models/{MODEL}/rollback", {}),
            }
            figures: dict[str, list[float]] = {way: [] for way in ways}
            for turn in range(TURNS):
                for way, roll_back in ways.items():
                    figures[way].append(_until_it_holds(Client(port, key), admin, way, roll_back))
                shown = ", ".join(f"{way} {seconds[-1]:.3f} s" for way, seconds in figures.items())
                print(f"turn {turn + 1}/{TURNS}  {shown}", flush=True)
    for way, seconds in figures.items():
        print(f"{way}: holds after {statistics.median(seconds):.3f} s (goal: {MOST_S:g})")
    conclude_nearest("service_rollback", {way: [MOST_S / one for one in seconds] for way, seconds in figures.items()})


def _until_it_holds(prober: Client, admin: Client, way: str, roll_back: Callable[[], object]) -> float:
    """Seconds from the start of a rollback until the last request was sent that the version left has answered."""
    admin.ask("PUT", f"/admin/models/{MODEL}/routing", {"promote": LEFT})
    answers: list[tuple[float, str]] = []
    stop = threading.Event()

    def probe() -> None:
        picture = jpeg(64, 64, seed=0)
        while not stop.is_set():
            sent_s = time.monotonic()
            answers.append((sent_s, prober.ask("POST", "/predict", content=picture)["model_version"]))

    thread = threading.Thread(target=probe)
    thread.start()
    time.sleep(_BEFORE_S)
    started_s = time.monotonic()
    roll_back()
    returned_s = time.monotonic()
    time.sleep(_BEFORE_S)
    stop.set()
    thread.join()
    late = sum(version == LEFT and sent_s > returned_s for sent_s, version in answers)
    if late or answers[-1][1] == LEFT:
        raise SystemExit(f"{way}: expected no request on the version left once it has returned, found {late}.")
    print(f"{way}: returned after {returned_s - started_s:.3f} s, {len(answers)} requests, none lost", flush=True)
    return max(sent_s for sent_s, version in answers if version == LEFT) - started_s


def _store(folder: Path) -> str:
    """A store with two versions, the first of which is the champion; gives its address."""
    uri = f"sqlite:///{folder}/mlflow.db"
    create_store(uri)
    experiment = connect(uri).create_experiment("runs", artifact_location=(folder / "runs").as_uri())
    trained = folder / "trained"
    trained.mkdir()
    for name in ("config.yaml", "model.keras", "model.json"):
        (trained / name).write_text(name)
    registry = Registry(uri)
    metadata = {"created": "2026-01-01T00:00:00+00:00", "metrics": {}}
    for _ in range(2):
        run_id = connect(uri).create_run(experiment).info.run_id
        registry.attach_bundle(
            registry.register(MODEL, run_id=run_id, folder=trained, metadata=metadata), tiny_bundle()
        )
    return uri


@contextlib.contextmanager
def _service(folder: Path, uri: str) -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    settings = {
        "MODEL": f"models:/{MODEL}@champion", "PORT": port, "CACHE_DIR": folder / "cache", "LOG_LEVEL": "error",
        "API_KEYS_FILE": folder / "keys.json",
    }  # fmt: skip
    environ = {**os.environ, "MLFLOW_TRACKING_URI": uri}
    environ |= {f"TFPIPE_SERVING_{name}": str(value) for name, value in settings.items()}
    process = subprocess.Popen([sys.executable, "-m", "serving"], env=environ)
    try:
        _wait_until_ready(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _wait_until_ready(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline_s:
        with contextlib.suppress(OSError, SystemExit, http.client.HTTPException):
            # A connection each: one that failed cannot be used again.
            Client(port, "").ask("GET", "/health/ready")
            return
        time.sleep(0.1)  # polls
    raise SystemExit("service: expected it to be ready within a minute, but it is not.")


if __name__ == "__main__":
    main()
