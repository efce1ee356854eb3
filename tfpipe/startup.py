"""What every command does first and last: quiet libraries, logging, and errors as one sentence with an exit code."""

import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator

from tfpipe.core.errors import StoppedError, TfpipeError
from tfpipe.interruption import INTERRUPTED

logger = logging.getLogger(__name__)

# Python's own 700 look for garbage a thousand times among the half million objects of TensorFlow's modules while these
# are imported: 2 of 8 seconds of processor time.
_GC_THRESHOLD = 20_000


def run_command(command: Callable[[], int]) -> int:
    """Run a command at the outermost edge.

    Args:
        command: Does the work and gives the exit code.

    Returns:
        The exit code: the command's, or that of the TfpipeError it raised, whose message goes to standard error.
    """
    quiet_libraries()
    gc.set_threshold(_GC_THRESHOLD)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # Libraries' own news is not ours to tell.
    for name in ("mlflow", "alembic", "absl", "tf2onnx", "PIL", "matplotlib", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger().addFilter(_is_no_news)
    # It warns of functions that are compiled anew; a run that goes on with other workers does so on purpose.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    try:
        with _interrupted_by_signals():
            return command()
    except TfpipeError as error:
        prefix = "stopped" if isinstance(error, StoppedError) else "error"
        sys.stderr.write(f"{prefix}: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write(f"{INTERRUPTED}\n")
        return StoppedError.exit_code
    except BrokenPipeError:
        # The reader of our output is gone; nobody is left to tell.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # stays open until exit flushes it
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"error: {where}{error.strerror or error}.\n")
        logger.debug("traceback", exc_info=True)
        return TfpipeError.exit_code


def _is_no_news(record: logging.LogRecord) -> bool:
    # Asked of what is logged under no name alone: ONNX Runtime's quantiser tells each tensor there.
    return record.levelno >= logging.WARNING


@contextlib.contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Let a scheduler's SIGTERM end a command as Ctrl-C does, so that it cleans up behind itself."""
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def quiet_libraries() -> None:
    """Settings that TensorFlow reads when it is imported; values that the user set are kept."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
