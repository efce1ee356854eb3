"""tfpipe's service and its peers, each started as its documentation advises, pinned to one core, one thread a run."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import numpy as np
import psutil

from benchmarks.load import SERVER_CORE
from tfpipe.bench.http_channel import render_request

_ENVIRONMENTS = Path(".venvs").resolve()
_APPS = Path(__file__).with_name("peers").resolve()
_PATIENCE_S = 90.0
# Some say that they are ready before their model is.
_LOADING_S = 20.0
OURS = "tfpipe"
T = TypeVar("T")
_JSON = {"Content-Type": "application/json"}
_BINARY = "application/octet-stream"


@dataclass(frozen=True)
class Asked:
    """What all contenders of a benchmark are asked.

    Attributes:
        bundle: tfpipe's, with the same graphs.
        graphs: Folder of model.onnx and, where pixels are sent, preprocess.onnx.
        name: Of tfpipe's input: "input" or "pixels".
        rows: A request's content each: (1, ...) arrays.
        batch_size: Most rows of one run.
    """

    bundle: Path
    graphs: Path
    name: str
    rows: Sequence[np.ndarray]
    batch_size: int = 16


@dataclass(frozen=True)
class Contender:
    """One server.

    Attributes:
        name: Shown.
        command: Port and a folder of its own -> what starts it.
        ready: Path that answers 200 when it can be asked.
        path: Of an inference.
        body: A row -> further headers and the body.
        environ: Further variables.
    """

    name: str
    command: Callable[[int, Path], list[str]]
    ready: str
    path: str
    body: Callable[[np.ndarray], tuple[Mapping[str, str], bytes]]
    environ: Mapping[str, str] = field(default_factory=dict)

    def requests(self, port: int, rows: Sequence[np.ndarray]) -> list[bytes]:
        """Whole requests, one a row."""
        url = urlsplit(f"http://127.0.0.1:{port}")
        return [render_request(url, "POST", self.path, *self.body(row)) for row in rows]


@dataclass(frozen=True)
class Running:
    """A server that is ready.

    Attributes:
        port: On 127.0.0.1.
        pid: Of the process started.
        requests: One a row.
        start_s: Seconds from its start to ready.
    """

    port: int
    pid: int
    requests: list[bytes]
    start_s: float

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Its processes stand still until the block ends: some compute while nobody asks them."""
        process = psutil.Process(self.pid)
        processes = [process, *process.children(recursive=True)]
        for one in processes:
            one.suspend()
        try:
            yield
        finally:
            for one in processes:
                one.resume()


def contenders(asked: Asked) -> dict[str, Contender]:
    """tfpipe's service and the peers, by name; those of environments that are missing are made first.

    Of the peers those alone that the variable PEERS names, between commas, where it is set.

    Raises:
        RuntimeError: An environment cannot be made.
        SystemExit: PEERS names one that there is not.
    """
    for script in ("peers_env.sh", "triton_env.sh"):
        subprocess.run([f"scripts/{script}"], check=True)
    peers, mlserver = (_ENVIRONMENTS / name / "bin" for name in ("peers", "peers-mlserver"))
    row = asked.rows[0]

    def base64_json(row: np.ndarray) -> tuple[Mapping[str, str], bytes]:
        return _JSON, json.dumps({"content": b64encode(row.tobytes()).decode()}).encode()

    def app(name: str) -> Callable[[int, Path], list[str]]:
        return lambda port, _: [str(peers / "python"), str(_APPS / f"{name}_app.py"), str(port)]

    listed = [
        tfpipe(asked),
        Contender("FastAPI", app("fastapi"), "/ready", "/predict", raw_body),
        Contender("LitServe", app("litserve"), "/health", "/predict", base64_json),
        Contender(
            "BentoML",
            lambda port, _: [
                *(str(peers / "python"), "-m", "bentoml", "serve", "bentoml_app:Answers"),
                *("--host", "127.0.0.1", "--port", str(port), "--working-dir", str(_APPS)),
            ],
            "/readyz",
            "/predict",
            lambda row: (_JSON, json.dumps({"contents": [b64encode(row.tobytes()).decode()]}).encode()),
            {"BENTOML_DO_NOT_TRACK": "1"},
        ),
        Contender(
            "MLServer",
            lambda port, folder: [str(mlserver / "mlserver"), "start", str(_mlserver(folder, port, asked.batch_size))],
            "/v2/health/ready",
            "/v2/models/answers/infer",
            _mlserver_body,
        ),
        Contender("Ray Serve", app("ray"), "/-/healthz", "/predict", raw_body, {"RAY_USAGE_STATS_ENABLED": "0"}),
        Contender(
            "Triton",
            lambda port, folder: _triton(folder, port, row, asked.batch_size),
            "/v2/models/answers/ready",
            "/v2/models/answers/infer",
            lambda row: v2_body("input", row),
            _triton_environ(),
        ),
    ]
    others = {one.name for one in listed} - {OURS}
    chosen = set(os.environ["PEERS"].split(",")) if "PEERS" in os.environ else others
    if unknown := sorted(chosen - others):
        raise SystemExit(f"PEERS: expected some of {', '.join(sorted(others))}, received {', '.join(unknown)}.")
    return {one.name: one for one in listed if one.name in {OURS, *chosen}}


def tfpipe(asked: Asked, **settings: str) -> Contender:
    """tfpipe's service, asked by the protocol's binary extension.

    Args:
        asked: What it is asked.
        settings: Of the service, without their prefix.
    """
    name = json.loads((asked.bundle / "bundle.json").read_text(encoding="utf-8"))["model_name"]
    values = {"THREADS": "1", "MAX_BATCH_SIZE": str(asked.batch_size), "PROVIDER": "cpu", "LOG_LEVEL": "warning"}
    values |= {"MODEL": str(asked.bundle), **settings}
    return Contender(
        OURS,
        lambda port, _: [sys.executable, "-m", "serving", "--port", str(port)],
        "/health/ready",
        f"/v2/models/{name}/infer",
        lambda row: v2_body(asked.name, row),
        {f"TFPIPE_SERVING_{key}": value for key, value in values.items()},
    )


def predict(asked: Asked, media_type: str) -> Contender:
    """tfpipe's service, asked by /predict; rows are bytes of encoded images."""
    return dataclasses.replace(
        tfpipe(asked), path="/predict", body=lambda row: ({"Content-Type": media_type}, row.tobytes())
    )


def as_rows(contents: Iterable[bytes]) -> list[np.ndarray]:
    """Encoded images as the rows of `Asked`."""
    return [np.frombuffer(content, np.uint8)[None] for content in contents]


def raw_body(row: np.ndarray) -> tuple[Mapping[str, str], bytes]:
    """Nothing but the content."""
    return {"Content-Type": _BINARY}, row.tobytes()


def v2_body(name: str, row: np.ndarray) -> tuple[Mapping[str, str], bytes]:
    """The Open Inference Protocol with its binary extension, both ways."""
    datatype = {"float32": "FP32", "uint8": "UINT8"}[row.dtype.name]
    content = row.tobytes()
    given = {"name": name, "datatype": datatype, "shape": row.shape, "parameters": {"binary_data_size": len(content)}}
    outputs = [{"name": "probabilities", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": [given], "outputs": outputs}).encode()
    return {"Content-Type": _BINARY, "Inference-Header-Content-Length": str(len(head))}, head + content


def in_turns(
    listed: dict[str, Contender], asked: Asked, measure: Callable[[str, Running], T], *, turns: int
) -> dict[str, list[T]]:
    """Measure contenders by turns, each alone; a peer that does not answer is named and left out.

    Args:
        listed: By name; "tfpipe" is one of them.
        asked: What they are asked.
        measure: Name and server -> what was measured of it, printed as it is.
        turns: Of each.

    Returns:
        What was measured by name, one a turn.

    Raises:
        RuntimeError: tfpipe itself does not answer.
    """
    found: dict[str, list[T]] = {name: [] for name in listed}
    for turn in range(turns):
        for name in list(found):
            try:
                with serving(listed[name], asked) as running:
                    measured = measure(name, running)
            except RuntimeError as error:
                if name == OURS:
                    raise
                print(f"{name}: left out, it does not answer: {error}", flush=True)
                del found[name]
                continue
            found[name].append(measured)
            print(f"turn {turn + 1}/{turns}  {name}: {measured}", flush=True)
    return found


@contextlib.contextmanager
def serving(contender: Contender, asked: Asked) -> Iterator[Running]:
    """Run a server on one core until the block ends.

    Raises:
        RuntimeError: It ended, or was not ready in time; with the end of what it wrote.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="tfpipe-served-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        command = ["taskset", "-c", str(SERVER_CORE), *contender.command(port, folder)]
        log = folder / "log"
        started_s = time.monotonic()
        with open(log, "wb") as file:
            # A group of its own: some start several processes.
            process = subprocess.Popen(
                command, env=_environ(contender, asked), stdout=file, stderr=file, start_new_session=True
            )
        try:
            _wait_until_ready(contender, f"http://127.0.0.1:{port}{contender.ready}", process, log)
            start_s = time.monotonic() - started_s
            running = Running(port, process.pid, contender.requests(port, asked.rows), start_s)
            _check_answer(contender, running)
            yield running
        finally:
            _stop(process)


def resident_bytes(pid: int) -> int:
    """Memory of a process that is resident now."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    if found is None:
        raise RuntimeError(f"expected VmRSS of process {pid}")
    return int(found[1]) * 1024


def free_port() -> int:
    """One that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environ(contender: Contender, asked: Asked) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TFPIPE_")}
    shape = "x".join(map(str, asked.rows[0].shape[1:]))
    peer = {"PEER_MODEL": str(asked.graphs.resolve()), "PEER_SHAPE": shape, "PEER_BATCH": str(asked.batch_size)}
    peer |= {"PEER_CODE": str(_APPS), "OMP_NUM_THREADS": "1"}
    if contender.name != OURS:
        # Where the apps find their model; of tfpipe nothing.
        peer["PYTHONPATH"] = str(_APPS)
    return {**inherited, **peer, **contender.environ}


def _wait_until_ready(contender: Contender, url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline_s:
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=2) as answer:
            if answer.status == 200:
                return
        if process.poll() is not None:
            break
        time.sleep(0.02)  # polls
    written = log.read_text(encoding="utf-8", errors="replace")[-2000:]
    raise RuntimeError(f"{contender.name}: expected it to be ready within {_PATIENCE_S:.0f} s. {written}")


def _check_answer(contender: Contender, running: Running) -> None:
    """A server that refuses would be the fastest of all."""
    head, _, body = running.requests[0].partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    request = urllib.request.Request(f"http://127.0.0.1:{running.port}{contender.path}", body, headers)
    deadline_s = time.monotonic() + _LOADING_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10):
                return
        except urllib.error.HTTPError as error:
            if time.monotonic() > deadline_s or error.code not in (404, 503):
                raise RuntimeError(f"{contender.name}: {error.code} {error.read(500)!r}") from error
            time.sleep(0.1)  # polls


def _stop(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _mlserver(folder: Path, port: int, batch_size: int) -> Path:
    # One process: its workers only cost on one core.
    settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    settings |= {"parallel_workers": 0, "debug": False, "metrics_endpoint": None}
    model = {"name": "answers", "implementation": "mlserver_app.Answers"}
    model |= {"max_batch_size": batch_size, "max_batch_time": 0.002}
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
    return folder


def _mlserver_body(row: np.ndarray) -> tuple[Mapping[str, str], bytes]:
    given = {"name": "input", "datatype": "BYTES", "shape": [1, 1], "data": [b64encode(row.tobytes()).decode()]}
    return _JSON, json.dumps({"inputs": [given]}).encode()


def _triton(folder: Path, port: int, row: np.ndarray, batch_size: int) -> list[str]:
    model = folder / "repository" / "answers"
    (model / "1").mkdir(parents=True)
    shutil.copy(_APPS / "triton_app.py", model / "1" / "model.py")
    datatype = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}[row.dtype.name]
    (model / "config.pbtxt").write_text(
        f'name: "answers"\nbackend: "python"\nmax_batch_size: {batch_size}\ndynamic_batching {{}}\n'
        f'input [{{ name: "input" data_type: {datatype} dims: {list(row.shape[1:])} }}]\n'
        'output [{ name: "probabilities" data_type: TYPE_FP32 dims: [-1] }]\n'
        "instance_group [{ count: 1 kind: KIND_CPU }]\n",
        encoding="utf-8",
    )
    server = next(_ENVIRONMENTS.glob("triton/lib/python*/site-packages/pytriton/tritonserver"))
    command = [str(server / "bin" / "tritonserver"), f"--model-repository={model.parent}"]
    command += [f"--backend-directory={server / 'backends'}", "--allow-grpc=false", "--allow-metrics=false"]
    return [*command, "--http-address=127.0.0.1", f"--http-port={port}"]


def _triton_environ() -> dict[str, str]:
    libraries = next(_ENVIRONMENTS.glob("triton/lib/python*/site-packages/nvidia_pytriton.libs"), Path())
    return {"LD_LIBRARY_PATH": str(libraries), "PATH": f"{_ENVIRONMENTS / 'triton' / 'bin'}:{os.environ['PATH']}"}
