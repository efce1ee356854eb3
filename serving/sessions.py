"""The sessions of one model version: how many, on how many threads, in this process or in processes of their own."""

import logging
import queue
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from serving.child import OPEN_TIMEOUT_S, ChildModel
from serving.child_process import ModelFile
from serving.memory import require_memory
from tfpipe.core.bundle import Bundle, Variant
from tfpipe.core.errors import ConfigError
from tfpipe.core.signature import Array
from tfpipe.inference.opening import open_model
from tfpipe.ort import Model

logger = logging.getLogger(__name__)

Isolation = Literal["process", "inline"]

# ONNX Runtime computes shapes on the CPU beside a GPU, on purpose: they are a few integers that the host needs.
_OF_SHAPES = frozenset({
    "Add", "Cast", "Concat", "ConstantOfShape", "Div", "Equal", "Expand", "Floor", "Gather", "Max", "Min", "Mul",
    "Range", "ReduceProd", "Reshape", "Shape", "Size", "Slice", "Squeeze", "Sub", "Unsqueeze", "Where",
})  # fmt: skip


class OpenModel(Protocol):
    """What `tfpipe.inference.opening.open_model` is: from a bundle's variant to a model that runs."""

    def __call__(
        self,
        bundle: Bundle,
        variant: Variant,
        *,
        provider: str,
        arithmetic: str,
        threads: int | None,
        engines_dir: Path | None,
    ) -> Model:
        """Open it."""


@dataclass(frozen=True)
class Plan:
    """How the sessions of a version are opened.

    Attributes:
        isolation: "process": each in a child process; "inline": in this one.
        number: Sessions, each of which runs a batch at a time.
        provider: What the settings ask for; "auto": whatever runs the model.
        log_level: Least level that child processes log.
    """

    isolation: Isolation = "inline"
    number: int = 1
    provider: str = "auto"
    log_level: str = "info"


class Sessions:
    """What `tfpipe.ort.OnnxModel` is, for as many callers at a time as there are sessions.

    Where a caller finds none free, a run hangs that was given up: another session is opened in the place of its own.

    Attributes:
        number: Sessions.
        isolation: Where they are.
        provider: See `tfpipe.ort.OnnxModel`.
        arithmetic: Likewise.
        on_cpu: Likewise.
        input_names: Likewise.
        output_names: Likewise.

    Args:
        open_one: Opens a session.
        number: Of them; at least 1.
        isolation: Where `open_one` opens them.
    """

    def __init__(self, open_one: Callable[[], Model], number: int, isolation: Isolation = "inline") -> None:
        self.number, self.isolation = number, isolation
        self._open_one = open_one
        self._all: list[Model] = []
        # In turns, so that replaying and warming up meet all of them.
        self._free: queue.SimpleQueue[Model] = queue.SimpleQueue()
        try:
            for _ in range(number):
                self._free.put(self._another())
        except BaseException:
            self.close()
            raise
        first = self._all[0]
        self.provider, self.arithmetic, self.on_cpu = first.provider, first.arithmetic, first.on_cpu
        self.input_names, self.output_names = first.input_names, first.output_names

    @property
    def children(self) -> list[ChildModel]:
        """Those sessions that are in processes of their own."""
        return [one for one in self._all if isinstance(one, ChildModel)]

    @property
    def is_up(self) -> bool:
        """Whether a session can run now: False while all their processes ended and are started again."""
        return self.isolation == "inline" or any(child.is_open for child in self.children)

    @property
    def is_away(self) -> bool:
        """Whether their processes ended again and again, and none answers: what is asked is refused, not waited for."""
        return self.isolation == "process" and all(child.is_away for child in self.children)

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run once; see `tfpipe.ort.OnnxModel.run` and `serving.child.ChildModel.run`."""
        try:
            session = self._free.get_nowait()
        except queue.Empty:
            logger.error("a session is opened in the place of one that hangs")
            session = self._another()
        try:
            return session.run(inputs, outputs)
        finally:
            # That of a run that ended after it was given up is one too many.
            if self._free.qsize() < self.number:
                self._free.put(session)
            else:
                self._all.remove(session)

    def limit_runs(self, timeout_s: float) -> None:
        """End runs in child processes that take longer; while a model is loaded they may, as they compile."""
        for child in self.children:
            child.run_timeout_s = timeout_s

    def close(self) -> None:
        """End the processes."""
        for child in self.children:
            child.close()

    def _another(self) -> Model:
        session = self._open_one()
        self._all.append(session)
        return session


def require_provider(name: str, provider: str, on_cpu: Sequence[str]) -> None:
    """Refuse a model of which a provider that was asked for by name leaves a part to the CPU's.

    Args:
        name: Of the version.
        provider: What the settings ask for.
        on_cpu: Operators that it leaves.

    Raises:
        ConfigError: Names them.
    """
    lacking = [one for one in on_cpu if provider == "openvino" or one not in _OF_SHAPES]
    if provider not in ("auto", "cpu") and lacking:
        raise ConfigError(
            f"provider: expected {provider!r} to run all of model {name!r}, but it leaves {', '.join(lacking)} to the "
            "CPU provider. Choose auto to allow that, or cpu."
        )


def opener(name: str, plan: Plan) -> OpenModel:
    """What opens the sessions of a version.

    Args:
        name: Of the version, for the log.
        plan: How.
    """

    def open_sessions(
        bundle: Bundle,
        variant: Variant,
        *,
        provider: str,
        arithmetic: str,
        threads: int | None,
        engines_dir: Path | None,
    ) -> Sessions:
        file = ModelFile(
            bundle.path(variant.file), provider, arithmetic, threads,
            tuple(variant.recipe.get("disabled_optimizers", ())), engines_dir,
        )  # fmt: skip
        # The file itself may be small: weights of more than 2 GB lie beside it.
        require_memory(name, variant.size_bytes, provider=provider, sessions=plan.number, isolation=plan.isolation)

        def open_one() -> Model:
            if plan.isolation == "process":
                return ChildModel(name, file, run_timeout_s=OPEN_TIMEOUT_S, log_level=plan.log_level)
            return open_model(
                bundle, variant, provider=provider, arithmetic=arithmetic, threads=threads, engines_dir=engines_dir
            )

        sessions = Sessions(open_one, plan.number, plan.isolation)
        try:
            require_provider(name, plan.provider, sessions.on_cpu)
        except ConfigError:
            sessions.close()
            raise
        return sessions

    return open_sessions
