"""What goes on around each answer of a version: its breaker learns of it, and its shadow is asked the same."""

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, TypeVar

from serving.errors import ModelCrashedError, ModelDownError, RunTimeoutError
from tfpipe.core.errors import InferenceError

_ITS_DOING = (InferenceError, ModelCrashedError, ModelDownError, RunTimeoutError)

Method = TypeVar("Method", bound=Callable[..., Awaitable[Any]])


def guarded(method: Method) -> Method:
    """A method of a deployment that answers, with its breaker told of the outcome and its shadow of the question."""

    @wraps(method)
    async def answer(deployment: Any, *given: Any, **named: Any) -> Any:
        try:
            answered = await method(deployment, *given, **named)
        # A client that hangs up, a full queue or a bad input say nothing of the version.
        except _ITS_DOING:
            deployment.breaker.record(failed=True)
            raise
        failed = False
        for row in getattr(answered, "rows", ()):
            failed = failed or isinstance(row, _ITS_DOING)
        deployment.breaker.record(failed=failed)
        if deployment.shadow is not None:
            deployment.shadow.offer(deployment, given[0], answered)
        return answered

    return answer  # type: ignore[return-value]
