"""Every error that a request can meet, besides those of `tfpipe.core.errors`.

    RequestError
    ├── InvalidRequestError    malformed body, field, header or parameter
    ├── MediaTypeError         a content type or encoding that the model or path does not take
    ├── TooLargeError          body, image or batch above its limit
    ├── BodyTimeoutError       the body came too slowly
    ├── ClientGoneError        the client closed the connection before its body was complete
    ├── UnauthorizedError      no API key where one is needed, or one that is not known
    ├── ForbiddenError         the key may not do this, or nobody may
    ├── LimitError             the key asks more often, or more at once, than it may
    ├── UnknownModelError      another model, version or alias than the one served
    ├── UnknownPathError       no such path
    ├── MethodError            the path does not take this method
    ├── RowsFailedError        every row of a batch failed
    ├── NotReadyError          loading or draining
    │   └── BreakerOpenError   a version that fails again and again, and is left alone
    ├── ConflictError          a change that what is there does not allow
    ├── UnknownRequestError    feedback on a request that is not known, or not any more
    ├── QueueFullError         more waits than may
    ├── NotEnoughMemoryError   a version that does not fit into the memory that is left
    ├── ModelDownError         the process of a model ended before, and is being started again
    ├── ModelCrashedError      the process of a model ended in the middle of a batch
    ├── RunTimeoutError        a run of a model took longer than RUN_TIMEOUT_MS
    ├── DeadlineError          no answer within the deadline
    └── UndecodableTextError   bytes that are no UTF-8, or a string that is no Unicode

They know no status codes: `serving.routes.answers` maps each class to one.
"""

from typing import Any

from tfpipe.core.errors import TfpipeError


class RequestError(TfpipeError):
    """A request that is refused or failed.

    Attributes:
        details: Facts of the message for programs, e.g. {"field": "file", "received": 2}; JSON values.
    """

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details = details


class InvalidRequestError(RequestError):
    """A malformed body, field, header or parameter."""


class MediaTypeError(RequestError):
    """A content type or encoding that the model or the path does not take."""


class TooLargeError(RequestError):
    """A body, image or batch above its limit."""


class BodyTimeoutError(RequestError):
    """The body came too slowly."""


class ClientGoneError(RequestError):
    """The client closed the connection before its body was complete."""


class UnauthorizedError(RequestError):
    """No API key where one is needed, or one that is not known; `details["challenge"]` says how to ask (RFC 6750)."""


class ForbiddenError(RequestError):
    """The key may not do this, or nobody may; `details["scope"]` is the scope that is needed."""


class LimitError(RequestError):
    """The key asks more often, or more at once, than it may; `details["retry_after_s"]` says when to ask again."""


class UnknownModelError(RequestError):
    """The request names another model, version or alias than the one served."""


class UnknownPathError(RequestError):
    """No such path."""


class MethodError(RequestError):
    """The path does not take this method; `details["allowed"]` names those that it takes."""


class RowsFailedError(RequestError):
    """Every row of a batch failed; each has its own error in its place."""


class NotReadyError(RequestError):
    """The service is loading its model or draining."""


class BreakerOpenError(NotReadyError):
    """The version fails again and again; it is left alone for a while."""


class ConflictError(RequestError):
    """A change that what is there does not allow: somebody else made one, or a version has traffic."""


class UnknownRequestError(RequestError):
    """Feedback on a request that is not known, or not any more."""


class QueueFullError(RequestError):
    """More waits than may.

    Attributes:
        retry_after_s: Seconds after which there should be room.
    """

    def __init__(self, message: str, *, retry_after_s: float, **details: Any) -> None:
        super().__init__(message, **details)
        self.retry_after_s = retry_after_s


class NotEnoughMemoryError(RequestError):
    """A version that does not fit into the memory that is left."""


class ModelDownError(RequestError):
    """The process of a model ended, and is not there again yet; the batch was not begun."""


class ModelCrashedError(RequestError):
    """The process of a model ended in the middle of a batch."""


class RunTimeoutError(RequestError):
    """A run of a model took longer than RUN_TIMEOUT_MS."""


class DeadlineError(RequestError):
    """No answer within the deadline."""


class UndecodableTextError(RequestError):
    """Bytes that are no UTF-8 text, or a string that is no Unicode text."""
