"""A worker and the launcher that started it: it meets the others there, and ends when the launcher is gone."""

import contextlib
import http.client
import ipaddress
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

from tfpipe.core.errors import ConfigError, TrainingError

logger = logging.getLogger(__name__)

# Keys of horovodrun's store are /scope/key; Horovod's own scopes have other names.
_SCOPE = "/tfpipe"
_POLL_S = 0.2
_REQUEST_TIMEOUT_S = 10.0
# Longer than Horovod takes to give up a worker that is gone (30 s), after which training ends by itself.
_LAST_SECONDS_S = 60.0


def check_host_name(name: str, server: tuple[str, int]) -> None:
    """Refuse a machine whose host name leads nowhere.

    Horovod 0.28 connects the workers a second time by the machine's own host name, whichever network interface it was
    given, and aborts the process where that fails. Debian and Ubuntu write that name beside 127.0.1.1.

    Args:
        name: As `hostname` prints it.
        server: Address and port of horovodrun's key-value store: of the network that the workers share.

    Raises:
        ConfigError: The name is unknown, or means the machine itself where other machines take part.
    """
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0]
    except socket.gaierror:
        found = None
    if found and (not ipaddress.ip_address(found).is_loopback or ipaddress.ip_address(server[0]).is_loopback):
        return
    own = "ADDRESS"
    with contextlib.suppress(OSError):
        own = own_address(server)
    received = f"{found}, which other machines cannot reach" if found else "no address"
    raise ConfigError(
        f"/etc/hosts of {name}: expected the host name {name!r} to mean an address of this machine that the other "
        f"workers reach, as Horovod connects them by it; received {received}. Write the line `{own} {name}` there"
        + (f" in place of the one with {found}." if found else ".")
    )


def own_address(server: tuple[str, int]) -> str:
    """This machine's address in the network of a server.

    Raises:
        OSError: There is no way to it.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Sends nothing; the kernel chooses the address that it would send from.
        probe.connect(server)
        address: str = probe.getsockname()[0]
        return address


def meet(server: tuple[str, int], *, rank: int, size: int, host: str, patience_s: float) -> None:
    """Wait until every worker has got this far.

    Horovod's own start gives the last worker 30 seconds after the first, and aborts the process without a word on who
    is missing; on a slow disk, importing TensorFlow alone can take longer.

    Args:
        server: Address and port of horovodrun's key-value store.
        rank: Of this worker.
        size: Number of workers.
        host: Name of this machine.
        patience_s: Seconds to wait for the others.

    Raises:
        TrainingError: The launcher cannot be reached, or workers did not come; it names them.
    """
    deadline = time.monotonic() + patience_s
    put(server, str(rank), host)
    if rank == 0:
        # The others ask for one key: with a thousand workers, asking for all would be a million requests.
        missing = [str(other) for other in range(size) if _wait(server, str(other), deadline) is None]
        answer: str | None = ", ".join(missing)
        put(server, "missing", answer or "")
    else:
        # The chief's verdict comes after its own patience.
        answer = _wait(server, "missing", deadline + 2 * _REQUEST_TIMEOUT_S)
        answer = "0" if answer is None else answer
    if answer:
        raise TrainingError(
            f"expected {size} workers, but worker(s) {answer} had not started after {patience_s:g} seconds. "
            "Their machine may hang on a disk, or be cut off; `-np` and the list of hosts say which it is."
        )


def end_with_launcher(joined: Callable[[], bool]) -> None:
    """From now on, end this process when nobody reads its output any longer.

    horovodrun ends a worker of another machine by ending the ssh that it was started with. That closes the worker's
    output, and nothing else: left alone, it would go on, or wait for the others for ever. Output that goes to a file
    or a terminal is never closed.

    Args:
        joined: Whether the worker has joined the others, and so may have something to save.
    """
    try:
        output = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # none, or no file
        return
    threading.Thread(target=_watch, args=(output, joined), daemon=True, name="launcher").start()


def _watch(output: int, joined: Callable[[], bool]) -> None:
    poll = select.poll()
    # Without events to wait for: errors and hang-ups are always reported.
    poll.register(output, 0)
    [(_, event)] = poll.poll()
    if event & select.POLLNVAL:
        # Closed on this side: by whoever started the process, or at its end.
        return
    _silence()
    if not joined():
        # In Horovod's start no signal would be heard.
        os._exit(TrainingError.exit_code)
    # As the launcher ends its own machine's workers: they save, and end.
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_LAST_SECONDS_S)
    os._exit(TrainingError.exit_code)


def _silence() -> None:
    """A write to closed output would raise in the middle of saving."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)


def put(server: tuple[str, int], key: str, value: str) -> None:
    """Keep a text in horovodrun's store for all workers.

    Raises:
        TrainingError: The store cannot be reached.
    """
    _request(server, "PUT", key, value.encode())


def get(server: tuple[str, int], key: str) -> str | None:
    """What was put there last; None where nothing was.

    Raises:
        TrainingError: The store cannot be reached.
    """
    return _request(server, "GET", key)


def _wait(server: tuple[str, int], key: str, deadline: float) -> str | None:
    """The value of a key as soon as there is one; None where there is none at the deadline."""
    while True:
        value = get(server, key)
        if value is not None or time.monotonic() > deadline:
            return value
        time.sleep(_POLL_S)


def _request(server: tuple[str, int], method: str, key: str, body: bytes | None = None) -> str | None:
    # Not urllib: a proxy from the environment has no way to the launcher.
    connection = http.client.HTTPConnection(*server, timeout=_REQUEST_TIMEOUT_S)
    try:
        connection.request(method, f"{_SCOPE}/{key}", body)
        response = connection.getresponse()
        content = response.read()
    except OSError as error:
        raise TrainingError(
            f"expected horovodrun's server at {server[0]}:{server[1]}, but it cannot be reached ({error}). Workers "
            "connect to any port of the launcher's machine and of each other's: open them between the machines, or "
            "name the network with --network-interfaces."
        ) from error
    finally:
        connection.close()
    return content.decode() if response.status == http.client.OK else None
