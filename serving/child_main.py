"""What the child process of a model runs: one session, one message a batch; `serving.child_process` starts it."""

import ctypes
import faulthandler
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from serving.channel import Channel, Message, TensorMemory
from serving.logs import configure_logging
from tfpipe.core.errors import BundleError, ConfigError, InferenceError
from tfpipe.ort import OnnxModel, open_session

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1  # Source: linux/prctl.h


def main(argv: Sequence[str]) -> int:
    """Open the model that the first message names, then answer until the parent is gone.

    Args:
        argv: Descriptors of the socket, of the memory for inputs and of that for outputs; the parent's process id;
            the model's name, for people who list processes.

    Returns:
        Exit code.
    """
    connection, given, answered, parent = map(int, argv[:4])
    _end_with(parent)
    # A terminal and some supervisors signal every process; the parent alone decides, as it has requests to finish.
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    faulthandler.enable()
    channel = Channel(socket.socket(fileno=connection))
    inputs, outputs = TensorMemory(given), TensorMemory(answered)
    try:
        asked = channel.receive()
        configure_logging(asked.pop("log_level"))
        model = _open(asked, channel)
        while model is not None:
            channel.send(_run(model, channel.receive(), inputs, outputs))
    except (EOFError, OSError):
        return 0
    return 1


def _open(asked: Message, channel: Channel) -> OnnxModel | None:
    try:
        engines_dir = asked.pop("engines_dir")
        model = open_session(
            Path(asked.pop("path")), **asked, engines_dir=Path(engines_dir) if engines_dir is not None else None
        )
    # The outermost edge of this process: what nobody foresaw is in the log.
    except Exception as error:
        channel.send(_refusal(error))
        return None
    names = ("provider", "arithmetic", "on_cpu", "input_names", "output_names")
    channel.send({"opened": {name: getattr(model, name) for name in names}})
    return model


def _run(model: OnnxModel, asked: Message, inputs: TensorMemory, outputs: TensorMemory) -> Message:
    try:
        answers = model.run(inputs.read(asked["inputs"]), asked["outputs"])
        return {"answers": outputs.write(answers)}
    # Likewise.
    except Exception as error:
        return _refusal(error)


def _refusal(error: Exception) -> Message:
    kind = type(error)
    if kind not in (BundleError, ConfigError, InferenceError, MemoryError):
        logger.error("the model's process failed", exc_info=error)
        return {"error": "", "message": repr(error)}
    return {"error": kind.__name__, "message": str(error)}


def _end_with(parent: int) -> None:
    # The end of the connection says the same, but not to native code that hangs, nor to a process that is stopped.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
