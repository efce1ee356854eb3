"""Servers on a free port of this machine, for as long as a `with` block lasts."""

import contextlib
import json
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from serving.admission import Admission
from serving.app import create_app
from serving.http_protocol import bounded_http
from serving.settings import PREFIX, ServingSettings

PATIENCE_S = 30.0
# Beside other tests, imports alone may take their time.
_START_S = 120.0
# For addresses without TLS: reading the authorities that httpx trusts takes 50 ms of processor time a client.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@dataclass
class Server:
    """A server in a thread of this process.

    Attributes:
        client: Talks to it.
        app: The application.
        port: On 127.0.0.1.
    """

    client: httpx.Client
    app: Admission
    port: int


@contextlib.contextmanager
def serving(
    app: Admission, *, until: str = "ready", timeout_keep_alive: int = 5, tls: tuple[Path, Path] | None = None
) -> Iterator[Server]:
    """Run an application on a real socket until the block ends; enter it once /health says `until`.

    Args:
        app: It.
        until: A status.
        timeout_keep_alive: Seconds that a connection may rest.
        tls: Certificate and key, whom the client trusts blindly.
    """
    certificate, key = tls or (None, None)
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        http=bounded_http(10.0, app.fast_path),
        ws="none",
        log_config=None,
        timeout_keep_alive=timeout_keep_alive,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        scheme = "https" if tls else "http"
        with httpx.Client(base_url=f"{scheme}://127.0.0.1:{port}", timeout=PATIENCE_S, verify=False) as client:
            wait_for(lambda: client.get("/health").json()["status"] == until)
            yield Server(client, app, port)
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)


def app_of(bundle: Path, **settings: Any) -> Admission:
    """The application of a bundle's folder."""
    return create_app(ServingSettings(model=str(bundle), **settings))


class Process:
    """`python -m serving` in a process of its own.

    Attributes:
        url: Where it listens; "" if it ended before it did.
        lines: What it wrote on standard error so far.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        wait_for(lambda: self.url or process.poll() is not None, _START_S)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def url(self) -> str:
        return next((event["url"] for event in self.events() if event["message"] == "listening"), "")

    def events(self) -> list[dict[str, Any]]:
        """The log lines that are JSON."""
        return [json.loads(line) for line in list(self.lines) if line.startswith("{")]

    def get(self, path: str) -> httpx.Response:
        """Ask it on a connection of its own."""
        return httpx.get(f"{self.url}{path}", verify=NO_TLS)

    def post(self, path: str, **request: Any) -> httpx.Response:
        """Tell it something on a connection of its own; `request` is what httpx takes."""
        return httpx.post(f"{self.url}{path}", verify=NO_TLS, **request)

    def is_ready(self) -> bool:
        """Whether it says that it can answer; httpx.HTTPError where it is gone."""
        return self.get("/health").status_code == httpx.codes.OK

    def signal(self, signum: int) -> None:
        self._process.send_signal(signum)

    def wait(self) -> int:
        """Exit code."""
        code = self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(PATIENCE_S)

    def _read(self) -> None:
        for line in self._process.stderr or ():
            self.lines.append(line)


@contextlib.contextmanager
def process(*arguments: str, **settings: str) -> Iterator[Process]:
    """Start `python -m serving` on a free port; it is killed if it still runs when the block ends."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TFPIPE_")}
    environ = {**inherited, f"{PREFIX}PORT": "0", **{f"{PREFIX}{name.upper()}": v for name, v in settings.items()}}
    popen = subprocess.Popen(
        [sys.executable, "-m", "serving", *arguments],
        env=environ,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield Process(popen)
    finally:
        # Where it did not start in time, too.
        if popen.poll() is None:
            popen.kill()
            popen.wait(PATIENCE_S)


def wait_for(condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> None:
    """Poll until a condition holds; TimeoutError after `patience_s`."""
    begun_s = time.monotonic()
    while not condition():
        waited_s = time.monotonic() - begun_s
        if waited_s > patience_s:
            raise TimeoutError(f"expected {condition} to hold within {patience_s} s")
        # What takes long is looked at seldom: on two cores, who looks takes what is waited for its processor.
        time.sleep(min(max(waited_s / 10, 0.01), 0.2))
