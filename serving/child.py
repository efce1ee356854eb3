"""A model whose session lives in a process of its own: what kills or freezes it costs one batch."""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from serving.backoff import Backoff
from serving.child_process import ChildProcess, ModelFile, ProcessEndedError
from serving.errors import ModelCrashedError, ModelDownError, RunTimeoutError
from tfpipe.core.errors import BundleError
from tfpipe.core.signature import Array

logger = logging.getLogger(__name__)

# TensorRT builds an engine in minutes, of a large model on a small GPU.
OPEN_TIMEOUT_S = 1800.0


class ChildModel:
    """What `tfpipe.ort.OnnxModel` is, in a child process that is started again where it ends.

    Threads may share it: one runs, the others wait. It must be closed.

    Attributes:
        name: For the log and messages.
        provider: See `tfpipe.ort.OnnxModel`.
        arithmetic: Likewise.
        on_cpu: Likewise.
        input_names: Likewise.
        output_names: Likewise.
        run_timeout_s: A run that takes longer is ended; may be changed between runs.
        restarts: How often the process was started again.
    """

    def __init__(
        self,
        name: str,
        file: ModelFile,
        *,
        run_timeout_s: float,
        open_timeout_s: float = OPEN_TIMEOUT_S,
        log_level: str = "info",
    ) -> None:
        """Start the process and open the session.

        Args:
            name: The model's, e.g. "digits/3".
            file: What to open.
            run_timeout_s: See the attribute.
            open_timeout_s: How long opening may take.
            log_level: Least level that the process logs.

        Raises:
            BundleError: As `tfpipe.ort.open_session`; also ConfigError and MemoryError.
            ModelCrashedError: The process ended while it opened the session.
            RunTimeoutError: Opening took too long.
        """
        self.name, self.run_timeout_s, self.restarts = name, run_timeout_s, 0
        self._file, self._open_timeout_s, self._log_level = file, open_timeout_s, log_level
        self._run_lock = threading.Lock()
        # Guards what follows, and tells of its changes.
        self._changed = threading.Condition()
        self._process: ChildProcess | None = None
        self._is_open = self._is_waiting = self._is_closed = self._is_away = False
        self._failure: Exception | None = None
        self.provider = self.arithmetic = ""
        self.on_cpu: tuple[str, ...] = ()
        self.input_names: list[str] = []
        self.output_names: list[str] = []
        # The system ends the process with the thread that starts it, so that thread stays.
        threading.Thread(target=self._keep, name=f"keeps {name}", daemon=True).start()
        with self._changed:
            self._changed.wait_for(lambda: self._is_open or self._failure)
            if self._failure is not None:
                raise self._failure

    @property
    def pid(self) -> int | None:
        """Id of the process; None while there is none."""
        process = self._process
        return process.pid if process is not None else None

    @property
    def is_open(self) -> bool:
        """Whether there is a process that answers."""
        return self._is_open

    @property
    def is_away(self) -> bool:
        """Whether the process ended again and again, and no other answers yet."""
        return self._is_away

    @property
    def memory_bytes(self) -> int | None:
        """Resident memory of the process; None while there is none, or the system does not tell."""
        process = self._process
        return process.memory_bytes if process is not None else None

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run once, in the process; see `tfpipe.ort.OnnxModel.run`.

        Waits where the process is just being started, as long as a run may take.

        Raises:
            InferenceError: ONNX Runtime failed.
            MemoryError: There was not enough of it.
            ModelCrashedError: The process ended in the middle of it.
            RunTimeoutError: It took longer than `run_timeout_s`; the process was ended.
            ModelDownError: The process ended before, and is not to be started again yet.
        """
        with self._run_lock:
            try:
                return self._run_in(self._await_process(), inputs, outputs)
            except ProcessEndedError as error:
                if error.had_begun:
                    raise self._crashed() from error
            # It ended while nobody asked it anything, so the batch is as good as it was.
            try:
                return self._run_in(self._await_process(), inputs, outputs)
            except ProcessEndedError as error:
                raise self._crashed() from error

    def close(self) -> None:
        """End the process; a run that is active meets ModelCrashedError, a later one ModelDownError."""
        with self._changed:
            self._is_closed, self._is_open = True, False
            if self._process is not None:
                self._process.kill()
            self._changed.notify_all()

    def _run_in(
        self, process: ChildProcess, inputs: Mapping[str, Array], outputs: Sequence[str] | None
    ) -> dict[str, Array]:
        try:
            return process.run(inputs, outputs, self.run_timeout_s)
        except ProcessEndedError:
            self._leave(process)
            raise
        except TimeoutError as error:
            self._leave(process)
            raise RunTimeoutError(
                f"model {self.name!r}: expected an answer within {self.run_timeout_s:g} s, but its run took longer and "
                "was ended."
            ) from error

    def _crashed(self) -> ModelCrashedError:
        return ModelCrashedError(
            f"model {self.name!r}: expected an answer, but its process ended while it ran this batch."
        )

    def _await_process(self) -> ChildProcess:
        with self._changed:
            self._changed.wait_for(lambda: self._is_open or self._is_waiting or self._is_closed, self.run_timeout_s)
            if self._process is None or not self._is_open:
                raise ModelDownError(
                    f"model {self.name!r}: expected it to run, but its process ended and is not there again yet."
                )
            return self._process

    def _leave(self, process: ChildProcess) -> None:
        process.kill()
        with self._changed:
            if self._process is process:
                self._is_open = False

    def _keep(self) -> None:
        """Start the process, again and again where it ends; in a thread of its own."""
        backoff = Backoff()
        while True:
            how = self._live()
            if self._is_closed or self._failure is not None:
                return
            delay_s = backoff.delay_s(time.monotonic())
            logger.error(
                "the process of a model ended",
                extra={"fields": {"served": self.name, "how": how, "again_in_s": delay_s}},
            )
            with self._changed:
                self._is_waiting = delay_s > 0
                self._is_away |= self._is_waiting
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._is_closed, delay_s)
                self._is_waiting = False
            self.restarts += 1

    def _live(self) -> str:
        """One life of the process, from its start to its end; gives what ended it."""
        try:
            process = ChildProcess(self.name, self._file, log_level=self._log_level)
        except OSError as error:
            self._fail_if_first(BundleError(f"model {self.name!r}: expected a process to run it in; {error}."))
            return repr(error)
        try:
            self._open(process)
        # The outermost edge of this thread, on which the constructor waits.
        except Exception as error:
            process.kill()
            self._fail_if_first(error)
            how = str(error)
            process.wait()
        else:
            how = process.wait()
        with self._changed:
            self._is_open, self._process = False, None
        process.release()
        return how

    def _open(self, process: ChildProcess) -> None:
        with self._changed:
            self._process = process
            if self._is_closed:
                process.kill()
        try:
            opened = process.open(self._open_timeout_s)
        except ProcessEndedError as error:
            raise ModelCrashedError(f"model {self.name!r}: its process ended while it opened the model.") from error
        except TimeoutError as error:
            raise RunTimeoutError(
                f"model {self.name!r}: expected it to open within {self._open_timeout_s:g} s, but it took longer."
            ) from error
        with self._changed:
            self.provider, self.arithmetic = opened["provider"], opened["arithmetic"]
            self.on_cpu = tuple(opened["on_cpu"])
            self.input_names, self.output_names = opened["input_names"], opened["output_names"]
            # What "auto" found once stays: an answer must not depend on what was installed or free at a restart.
            self._file = replace(self._file, provider=self.provider)
            self._is_open, self._is_away = not self._is_closed, False
            self._changed.notify_all()

    def _fail_if_first(self, error: Exception) -> None:
        with self._changed:
            if not self.provider:
                self._failure = error
                self._changed.notify_all()
