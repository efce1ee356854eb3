"""Which variant runs, on which provider, in which arithmetic; the next one where that does not answer as it should."""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

from serving.engine import Engine
from serving.settings import PREFIX
from serving.tensor_engine import TensorEngine
from tfpipe.core.bundle import Bundle, Execution
from tfpipe.core.errors import BundleError, GateError, TfpipeError
from tfpipe.ort_providers import installed_providers
from tfpipe.tuned import Choice

AnyEngine = TypeVar("AnyEngine", Engine, TensorEngine)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A way to run a bundle.

    Attributes:
        execution: The variant, provider and arithmetic.
        why: It is tried, for /health.
    """

    execution: Execution
    why: str


def candidates(
    bundle: Bundle,
    *,
    precision: str,
    provider: str,
    choice: Choice | None = None,
    untuned: str = "",
    installed: Collection[str] | None = None,
) -> list[Candidate]:
    """Ways to run a bundle, the one to be tried first in front; at least one.

    Args:
        bundle: Checked.
        precision: A variant's name, of which none but that is taken; or "auto".
        provider: Likewise.
        choice: What `tfpipe tune` measured on this machine.
        untuned: Why there is none, for /health.
        installed: Providers; None: those of this ONNX Runtime.

    Raises:
        BundleError: The bundle does not hold the precision.
    """
    offered = installed_providers() if installed is None else installed
    try:
        bundle.variant(precision)
    except BundleError as error:
        raise BundleError(f"{PREFIX}PRECISION: {error}") from None
    tuned = [Candidate(execution, "tuned on this machine") for execution in (choice.passed if choice else ())]
    in_order = "in the order of conversion" + (f": {untuned}" if untuned else "")
    recorded = [Candidate(execution, in_order) for execution in bundle.executions() if execution.provider in offered]
    found = [
        one
        for one in [*tuned, *_on_gpu(bundle, offered, tuned), *recorded]
        if precision in ("auto", one.execution.variant) and provider in ("auto", one.execution.provider)
    ]
    if not found:
        name = bundle.manifest.default_variant if precision == "auto" else precision
        plain = "cuda" if "cuda" in offered else "cpu"
        found = [Candidate(Execution(name, plain if provider == "auto" else provider), "as the settings say")]
    return _once(found)


def open_first(listed: Sequence[Candidate], open_engine: Callable[[Candidate], AnyEngine]) -> AnyEngine:
    """The first engine that opens and gives training's golden answers.

    Args:
        listed: At least one.
        open_engine: Opens the sessions of one.

    Raises:
        TfpipeError: None does; the error of a single one is raised as it is.
    """
    passed_over: list[str] = []
    failures: list[TfpipeError | MemoryError] = []
    for candidate in listed:
        title = candidate.execution.title
        try:
            engine = _proved(open_engine(candidate))
        except (TfpipeError, MemoryError) as error:
            failures.append(error)
            passed_over.append(f"{title}: {error}")
            if len(listed) > 1:
                logger.warning("passed over", extra={"fields": {"way": title, "reason": str(error)}})
        else:
            engine.why, engine.passed_over = candidate.why, tuple(passed_over)
            return engine
    if len(failures) == 1:
        raise failures[0]
    kind = GateError if any(isinstance(error, GateError) for error in failures) else BundleError
    raise kind(f"expected a way to run the model, found none. {' '.join(passed_over)}") from failures[0]


def _proved(engine: AnyEngine) -> AnyEngine:
    try:
        engine.replay_golden()
    except BaseException:
        engine.close()
        raise
    return engine


def _on_gpu(bundle: Bundle, offered: Collection[str], tuned: Sequence[Candidate]) -> list[Candidate]:
    """A GPU is there to be used, although conversion had none and nothing was tuned."""
    recorded = bundle.executions()
    if tuned or "cuda" not in offered or any(one.provider == "cuda" for one in recorded):
        return []
    names = dict.fromkeys(one.variant for one in recorded)
    return [Candidate(Execution(name, "cuda"), "a GPU is there") for name in names]


def _once(found: Sequence[Candidate]) -> list[Candidate]:
    first: dict[str, Candidate] = {}
    for one in found:
        first.setdefault(one.execution.title, one)
    return list(first.values())
