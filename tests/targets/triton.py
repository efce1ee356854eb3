"""NVIDIA Triton's real server and client, from the environment that scripts/triton_env.sh makes."""

import base64
import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ENVIRONMENT = Path(__file__).parents[2] / ".venvs" / "triton"
_PYTHON = ENVIRONMENT / "bin" / "python"
_CLIENT = Path(__file__).with_name("triton_client.py")
_PATIENCE_S = 120.0


def is_installed() -> bool:
    return (ENVIRONMENT / ".tfpipe-setup").is_file()


def read_config(path: Path) -> dict[str, Any]:
    """A config.pbtxt, read by Triton's own message."""
    return json.loads(_run("config", str(path)))


@dataclass
class Triton:
    """A running server.

    Attributes:
        ports: Of "http" and "grpc", on 127.0.0.1.
        log: What it wrote so far.
    """

    ports: Mapping[str, int]
    log: Path

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Sequence[bytes] | np.ndarray],
        *,
        outputs: Sequence[str],
        protocol: str = "http",
    ) -> dict[str, Any]:
        """Ask a model by tritonclient; its outputs by name, or `error` and `status`."""
        request = {"protocol": protocol, "model": model, "outputs": list(outputs)}
        request["inputs"] = [_input(name, given) for name, given in inputs.items()]
        return json.loads(_run("infer", f"127.0.0.1:{self.ports[protocol]}", json.dumps(request)))

    def is_ready(self, model: str = "") -> bool:
        path = f"models/{model}/ready" if model else "health/ready"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['http']}/v2/{path}", timeout=1) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False


@contextlib.contextmanager
def serving(repository: Path, log: Path) -> Iterator[Triton]:
    """Serve a model repository, without what cannot be loaded, until the block ends."""
    site_packages = next(ENVIRONMENT.glob("lib/python*/site-packages"))
    server = site_packages / "pytriton" / "tritonserver"
    http, grpc, metrics = _free_ports(3)
    command = [str(server / "bin" / "tritonserver"), f"--model-repository={repository}", "--exit-on-error=false"]
    command += [f"--backend-directory={server / 'backends'}", "--strict-readiness=false"]
    for kind, port in (("http", http), ("grpc", grpc), ("metrics", metrics)):
        command += [f"--{kind}-address=127.0.0.1", f"--{kind}-port={port}"]
    environ = {**os.environ, "LD_LIBRARY_PATH": str(site_packages / "nvidia_pytriton.libs")}
    environ["PATH"] = f"{ENVIRONMENT / 'bin'}:{environ['PATH']}"
    with open(log, "wb") as file:
        # Elsewhere than in the project, whose tfpipe its Python must not find.
        process = subprocess.Popen(command, env=environ, stdout=file, stderr=file, cwd=repository)
    triton = Triton({"http": http, "grpc": grpc}, log)
    try:
        deadline_s = time.monotonic() + _PATIENCE_S
        while not triton.is_ready():
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(log.read_text())
            time.sleep(0.1)  # polls
        yield triton
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)


def _input(name: str, given: Sequence[bytes] | np.ndarray) -> dict[str, Any]:
    if isinstance(given, np.ndarray):
        datatype = {"float32": "FP32"}.get(given.dtype.name, given.dtype.name.upper())
        described = {"datatype": datatype, "dtype": given.dtype.name, "shape": given.shape}
        content = given.tobytes()
    else:
        described = {"datatype": "BYTES"}
        content = json.dumps([base64.b64encode(one).decode() for one in given]).encode()
    return {"name": name, "content": base64.b64encode(content).decode(), **described}


def _run(*arguments: str) -> str:
    command, *rest = arguments
    given = rest.pop() if len(rest) > 1 else ""
    done = subprocess.run([_PYTHON, _CLIENT, command, *rest], input=given, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
