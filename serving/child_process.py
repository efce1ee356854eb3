"""One life of the process in which a model runs: started, asked, ended."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from serving.channel import Channel, Message, TensorMemory
from tfpipe.core.errors import BundleError, ConfigError, InferenceError
from tfpipe.core.signature import Array

logger = logging.getLogger(__name__)

_ERRORS = {kind.__name__: kind for kind in (BundleError, ConfigError, InferenceError, MemoryError)}
# NumPy would start a thread a core, for nothing: the session's threads are ONNX Runtime's own.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_CODE_DIR = Path(__file__).resolve().parent.parent
# Native code may write without end.
_MAX_LINE_BYTES = 1 << 16
_MAX_TEXT_CHARS = 2000


@dataclass(frozen=True)
class ModelFile:
    """A model's file and how to open it; see `tfpipe.ort.open_session`.

    Attributes:
        path: The ONNX file.
        provider: What runs it.
        arithmetic: What that computes float32 operators in.
        threads: Threads inside an operator; None: one a core.
        disabled_optimizers: Rewrites that ONNX Runtime leaves out.
        engines_dir: Where TensorRT keeps its engines; None: nowhere.
    """

    path: Path
    provider: str = "auto"
    arithmetic: str = "float32"
    threads: int | None = None
    disabled_optimizers: tuple[str, ...] = ()
    engines_dir: Path | None = None


class ProcessEndedError(Exception):
    """The process is gone, or says what makes no sense.

    Attributes:
        had_begun: Whether it may have begun what it was asked.
    """

    def __init__(self, *, had_begun: bool) -> None:
        super().__init__()
        self.had_begun = had_begun


class ChildProcess:
    """A process that has opened a model, or is about to. Threads may share it.

    It ends with the thread that started it.

    Args:
        name: The model's, for the log and the list of processes.
        file: What it opens.
        log_level: Least level that it logs; its lines become records of this process.

    Raises:
        OSError: The system gives no process.
    """

    def __init__(self, name: str, file: ModelFile, *, log_level: str) -> None:
        # Between a run and `release`: a descriptor that is closed may soon be another file's.
        self._lock = threading.Lock()
        self._is_released = False
        self._inputs, self._outputs = TensorMemory.create(), TensorMemory.create()
        ours, theirs = socket.socketpair()
        self._channel = Channel(ours)
        with theirs:
            try:
                self._popen = _start(name, (theirs.fileno(), self._inputs.file, self._outputs.file))
            except OSError:
                self.release()
                raise
        threading.Thread(target=_forward, args=(self._popen.stdout, name, self.pid), daemon=True).start()
        values = asdict(file)
        values |= {"path": str(file.path), "engines_dir": None if file.engines_dir is None else str(file.engines_dir)}
        self._opening = {**values, "log_level": log_level}

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    @property
    def memory_bytes(self) -> int | None:
        """Its resident memory; None where the system does not tell, or it is gone."""
        return resident_bytes(self.pid)

    def open(self, timeout_s: float) -> Message:
        """Open the session.

        Returns:
            "provider", "arithmetic", "on_cpu", "input_names", "output_names" of `tfpipe.ort.OnnxModel`.

        Raises:
            BundleError: As `tfpipe.ort.open_session`; also ConfigError and MemoryError.
            ProcessEndedError: The process ended.
            TimeoutError: It took longer.
        """
        opened: Message = self._ask(self._opening, timeout_s)["opened"]
        return opened

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None, timeout_s: float) -> dict[str, Array]:
        """Run the model once; see `tfpipe.ort.OnnxModel.run`.

        Raises:
            InferenceError: As there; also MemoryError.
            ProcessEndedError: The process ended.
            TimeoutError: It took longer.
        """
        names = None if outputs is None else list(outputs)
        with self._lock:
            if self._is_released:
                raise ProcessEndedError(had_begun=False)
            answer = self._ask({"inputs": self._inputs.write(inputs), "outputs": names}, timeout_s)
            try:
                answers = {name: array.copy() for name, array in self._outputs.read(answer["answers"]).items()}
            except (KeyError, TypeError, ValueError) as error:
                raise ProcessEndedError(had_begun=True) from error
            self._inputs.trim()
            self._outputs.trim()
        return answers

    def kill(self) -> None:
        """End it at once, whatever it does; nothing where it has ended."""
        self._popen.kill()

    def wait(self) -> str:
        """Wait until it has ended.

        Returns:
            How it ended, e.g. "signal SIGSEGV" or "exit code 1".
        """
        code = self._popen.wait()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def release(self) -> None:
        """Give memory and connection back, once it has ended."""
        with self._lock:
            self._is_released = True
            self._channel.close()
            self._inputs.close()
            self._outputs.close()

    def _ask(self, message: Message, timeout_s: float) -> Message:
        try:
            self._channel.send(message)
            answer = self._channel.receive(timeout_s)
        except ConnectionError as error:
            raise ProcessEndedError(had_begun=False) from error
        except (EOFError, ValueError) as error:
            raise ProcessEndedError(had_begun=True) from error
        if "error" not in answer:
            return answer
        if answer["error"] in _ERRORS:
            raise _ERRORS[answer["error"]](answer["message"])
        raise InferenceError("model: expected an answer, but its process failed; its log says how.")


def resident_bytes(pid: int) -> int | None:
    """Resident memory of a process; None where the system does not tell, or it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
    except (OSError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _start(name: str, inherited: tuple[int, int, int]) -> subprocess.Popen[bytes]:
    # It inherits what is blocked here. A terminal signals every process, and would end one that starts: by itself it
    # ignores these signals only once its modules are imported.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "serving.child_main", *map(str, inherited), str(os.getpid()), name],
            env=_environ(),
            pass_fds=inherited,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _environ() -> dict[str, str]:
    # Its first place is this code's, so that both sides are of one version whatever the folder.
    path = os.pathsep.join(filter(None, (str(_CODE_DIR), os.environ.get("PYTHONPATH"))))
    return {**_ONE_THREAD, **os.environ, "PYTHONPATH": path}


def _forward(lines: IO[bytes], name: str, pid: int) -> None:
    """Make a record of every line that the process writes."""
    who = {"served": name, "pid": pid}
    with lines:
        for raw in iter(lambda: lines.readline(_MAX_LINE_BYTES), b""):
            level, text, fields = _record(raw.decode(errors="replace").rstrip())
            if text:
                logger.log(level, "%s", text, extra={"fields": {**fields, **who}})


def _record(line: str) -> tuple[int, str, dict[str, Any]]:
    try:
        fields = json.loads(line)
        level, text = logging.getLevelNamesMapping()[fields.pop("level").upper()], fields.pop("message")
    except (ValueError, AttributeError, KeyError, TypeError):
        return logging.WARNING, line[:_MAX_TEXT_CHARS], {}
    return level, text, {key: value for key, value in fields.items() if key not in ("time", "logger")}
