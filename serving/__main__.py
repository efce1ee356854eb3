"""`python -m serving`: serve models over HTTP and gRPC until a signal comes."""

if __name__ == "__main__":
    from tfpipe.interruption import SERVICE_STOPPED, end_at_signals

    end_at_signals(SERVICE_STOPPED, exit_code=0)

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence

import uvicorn

from serving.app import create_app
from serving.http_protocol import bounded_http
from serving.logs import configure_logging
from serving.service import Service
from serving.settings import ServingSettings, documented_settings, read_settings, variable_of
from serving.source import check_models
from serving.tls import server_context, tls_files
from tfpipe.core.errors import ConfigError, TfpipeError

logger = logging.getLogger("serving")

# After the drain, so that who goes on asking hears 503, instead of finding the connection closed under a request.
_LINGER_S = 0.3
# For connections without a request in flight; those with one were waited for before.
_CLOSE_S = 1
# Of the garbage collector: allocations between two looks at the youngest, and those between looks at the older.
_GC_THRESHOLDS = (20_000, 20, 50)
# New connections: under load a turn of the event loop takes milliseconds, and at one a turn many wait for seconds.
_ACCEPTED_A_TURN = 8


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal comes.

    Args:
        argv: Command line without the program's name.

    Returns:
        Exit code: 0 after a signal, else that of the error, which is on standard error in one sentence.
    """
    arguments = vars(_parser().parse_args(argv))
    try:
        settings = read_settings({name: value for name, value in arguments.items() if value is not None})
        configure_logging(settings.log_level)
        return _serve(settings)
    except KeyboardInterrupt:
        return 0
    # The outermost edge.
    except Exception as error:
        return _tell(error)


def several(listener: socket.socket) -> list[socket.socket]:
    """A socket that listens, and copies of it: from each of them libuv accepts one connection a turn."""
    return [listener, *(listener.dup() for _ in range(_ACCEPTED_A_TURN - 1))]


def listen(host: str, port: int, setting: str = "port") -> socket.socket:
    """A socket that listens.

    Args:
        host: Its name or address.
        port: 0 for any free one.
        setting: The field of the settings that says the port.

    Raises:
        ConfigError: The address is taken, unknown, or not ours to use.
    """
    try:
        family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        # create_server adds the address to its text, a failed look-up has no number of the system's.
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise ConfigError(
            f"{host}:{port}: expected a free address to listen on; {reason}. "
            f"Choose another with {variable_of('host')} and {variable_of(setting)}."
        ) from error


def _parser() -> argparse.ArgumentParser:
    options = {name: f"--{name.replace('_', '-')}" for name in ServingSettings.model_fields}
    lines = [
        f"  {option}, {variable} ({kind}; {default})\n      {meaning}"
        for option, (variable, kind, default, meaning) in zip(options.values(), documented_settings(), strict=True)
    ]
    parser = argparse.ArgumentParser(
        prog="python -m serving",
        usage="python -m serving [--SETTING VALUE ...]",
        description="Serve models over HTTP and gRPC until a signal comes. Each setting is an environment variable, "
        "and an option that wins over it.",
        epilog="settings (type; default):\n" + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name, option in options.items():
        parser.add_argument(option, dest=name, help=argparse.SUPPRESS)
    return parser


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Ours drain first; uvicorn's would stop listening at once, and die of the signal in the end.
        yield


def _serve(settings: ServingSettings) -> int:
    failures: list[Exception] = []

    def fail(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    # What can be known to be wrong is said before the port opens.
    check_models(settings.model, settings.cache_dir)
    tls = tls_files(settings.tls_cert_file, settings.tls_key_file)
    if settings.grpc_port is not None:
        # It is opened once models are loaded, and gRPC would say in lines of its own that it cannot be.
        listen(settings.host, settings.grpc_port, "grpc_port").close()
    app = create_app(settings, on_load_error=fail, on_loaded=_leave_alone_what_is_loaded)
    config = uvicorn.Config(
        app,
        http=bounded_http(settings.body_timeout_ms / 1000, app.fast_path),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        # Nothing here asks who the client is.
        proxy_headers=False,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=_CLOSE_S,
        ssl_context_factory=None if tls is None else lambda *_: server_context(tls),
    )
    server = _Server(config)
    with (
        listen(settings.host, settings.port) as listener,
        asyncio.Runner(loop_factory=config.get_loop_factory()) as runner,
    ):
        runner.run(_run(server, app.service, listener, "http" if tls is None else "https"))
    code = _tell(failures[0]) if failures else 0
    if app.service.is_busy:
        # Native code cannot be interrupted: the interpreter would wait for it, or be aborted by it.
        sys.stderr.flush()
        os._exit(code)
    return code


def _tell(error: Exception) -> int:
    """Say what went wrong, in a sentence where it was foreseen, else with its traceback; gives the exit code."""
    if isinstance(error, TfpipeError | OSError):
        print(f"serving: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, TfpipeError) else 1
    logger.error("failed", exc_info=error)
    return 1


def _leave_alone_what_is_loaded() -> None:
    """Spare the garbage collector what stays anyway.

    Requests allocate so much that it would look through all modules and models many times a second; an answer that has
    to wait for that takes a tenth of a second longer.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


async def _run(server: uvicorn.Server, service: Service, listener: socket.socket, scheme: str) -> None:
    loop = asyncio.get_running_loop()
    stopping: list[asyncio.Task[None]] = []

    async def stop() -> None:
        was_ready = service.status == "ready"
        await service.drain()
        if was_ready:
            await asyncio.sleep(_LINGER_S)
        server.should_exit = True

    def on_signal() -> None:
        # A second signal is impatience.
        stopping.append(loop.create_task(service.cut() if stopping else stop()))

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, on_signal)
    host, port = listener.getsockname()[:2]
    url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
    logger.info("listening", extra={"fields": {"url": url}})
    await server.serve(sockets=several(listener))


if __name__ == "__main__":
    sys.exit(main())
