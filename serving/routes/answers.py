"""Answers of our own protocol, and the one table from error class to status code."""

import logging
import math
import time
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import orjson

from serving import errors
from serving.logs import iso
from serving.request import Request
from serving.runs import AnyEngine
from serving.service import Service
from tfpipe.core.errors import DecodeError, InferenceError, TrackingError

logger = logging.getLogger(__name__)

# First match wins, so a class stands before those that it derives from.
STATUSES: tuple[tuple[type[Exception], int, str], ...] = (
    (errors.InvalidRequestError, 400, "invalid_request"),
    (errors.RowsFailedError, 400, "all_rows_failed"),
    (DecodeError, 400, "undecodable_image"),
    (errors.UndecodableTextError, 400, "undecodable_text"),
    (errors.UnauthorizedError, 401, "unauthorized"),
    (errors.ForbiddenError, 403, "forbidden"),
    (errors.UnknownModelError, 404, "unknown_model"),
    (errors.UnknownPathError, 404, "unknown_path"),
    (errors.UnknownRequestError, 404, "unknown_request"),
    (errors.MethodError, 405, "method_not_allowed"),
    (errors.BodyTimeoutError, 408, "body_timeout"),
    (errors.ConflictError, 409, "conflict"),
    (errors.TooLargeError, 413, "too_large"),
    (errors.MediaTypeError, 415, "unsupported_media_type"),
    (errors.LimitError, 429, "rate_limited"),
    # Nobody reads it; the number is what other servers log for a client that is gone.
    (errors.ClientGoneError, 499, "client_gone"),
    (errors.QueueFullError, 429, "queue_full"),
    (errors.BreakerOpenError, 503, "breaker_open"),
    (errors.NotReadyError, 503, "not_ready"),
    (errors.NotEnoughMemoryError, 503, "not_enough_memory"),
    (errors.ModelDownError, 503, "model_down"),
    (errors.ModelCrashedError, 503, "model_crashed"),
    (TrackingError, 503, "registry_away"),
    (MemoryError, 503, "out_of_memory"),
    (errors.DeadlineError, 504, "deadline_exceeded"),
    (errors.RunTimeoutError, 504, "run_timeout"),
    (InferenceError, 500, "inference_failed"),
)
_INTERNAL = (500, "internal")
# What is met where there is more to do than can be done.
_TOO_MUCH = (errors.QueueFullError, errors.DeadlineError)
_known_statuses: dict[type, tuple[int, str]] = {}
_RETRY_AFTER_S = b"1"
# Headers that repeat themselves, by what they say.
_MOST_KEPT = 256


@dataclass(slots=True)
class Answer:
    """One HTTP response, complete.

    Attributes:
        status: Status code.
        body: JSON, unless `media` says otherwise.
        headers: Besides Content-Type, Content-Length and X-Request-ID, which every answer has.
        media: Content-Type.
    """

    status: int
    body: bytes
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    media: bytes = b"application/json"

    @property
    def ends_connection(self) -> bool:
        """Whether nothing more is to be asked on its connection."""
        return (b"connection", b"close") in self.headers


def status_of(error: Exception) -> tuple[int, str]:
    """Status code and error code of an error; 500 for one that nobody foresaw."""
    kind = type(error)
    if kind not in _known_statuses:
        found = ((status, code) for known, status, code in STATUSES if issubclass(kind, known))
        _known_statuses[kind] = next(found, _INTERNAL)
    return _known_statuses[kind]


def error_body(error: Exception, request_id: str) -> dict[str, Any]:
    """`{"code", "message", "details", "request_id"}` of an error."""
    status = status_of(error)
    message = str(error)
    if status == _INTERNAL:
        message = f"The service failed. Its log has the details under request_id {request_id!r}."
    elif isinstance(error, MemoryError):
        message = "The service is out of memory for this input. Send a smaller one, or try again later."
    details = error.details if isinstance(error, errors.RequestError) else {}
    return {"code": status[1], "message": message, "details": details, "request_id": request_id}


def record_error(error: Exception, request: Request, service: Service, **fields: Any) -> tuple[int, str]:
    """Count and log an error, with its traceback where nobody foresaw it; gives its status and code."""
    status, code = count_error(error, request, service)
    _log_error(error, request, time.monotonic() - request.started_s, fields)
    return status, code


def count_error(error: Exception, request: Request, service: Service) -> tuple[int, str]:
    """Count an error; gives its status and code."""
    status, code = status_of(error)
    if isinstance(error, _TOO_MUCH):
        service.courtesy.refused()
    service.metrics.record_error(**service.labels_of(request.deployment), kind=code)
    return status, code


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that was refused, and is not logged yet.

    Attributes:
        error: Why.
        request: It.
        at_s: `time.time()`.
        latency_s: What it took.
    """

    error: errors.RequestError
    request: Request
    at_s: float
    latency_s: float


def log_refused(refused: Iterable[Refused]) -> None:
    """Log many refusals, a line each, in a fraction of the time that `record_error` takes for as many."""
    many: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for one in refused:
        how, fields = _event(one.error, one.request, one.latency_s)
        many.setdefault(how, []).append({"time": iso(one.at_s), **fields})
    for (level, message), lines in many.items():
        logger.log(level, message, extra={"many": lines})


def _log_error(error: Exception, request: Request, latency_s: float, fields: Mapping[str, Any]) -> None:
    (level, message), said = _event(error, request, latency_s)
    foreseen = status_of(error) != _INTERNAL
    logger.log(level, message, extra={"fields": {**said, **fields}}, exc_info=None if foreseen else error)


def _event(error: Exception, request: Request, latency_s: float) -> tuple[tuple[int, str], dict[str, Any]]:
    """Level and message, and the fields beside them."""
    status, code = status_of(error)
    level = logging.ERROR if status >= 500 and not isinstance(error, errors.NotReadyError) else logging.WARNING
    fields = {
        "request_id": request.id,
        "method": request.method,
        "path": request.path,
        "status": status,
        "code": code,
        "error": str(error),
        "latency_ms": round(latency_s * 1000, 3),
    }
    return (level, "request refused" if status < 500 else "request failed"), fields


def refuse(error: Exception, request: Request, service: Service) -> Answer:
    """Count and log an error, and answer with it."""
    status, _ = record_error(error, request, service)
    body = orjson.dumps({"error": error_body(error, request.id)})
    return Answer(status, body, _headers(error, request.headers))


def refuse_in_a_sentence(error: Exception, request: Request, service: Service) -> Answer:
    """Like `refuse`, in the form that clients of foreign protocols know: `{"error": "one sentence"}`."""
    record_error(error, request, service)
    return in_a_sentence(error, request.headers, request.id)


def in_a_sentence(error: Exception, given: Mapping[bytes, bytes], request_id: str = "") -> Answer:
    """An error as `refuse_in_a_sentence` tells it; neither counted nor logged.

    Args:
        error: It.
        given: Headers of the request.
        request_id: Told with errors that nobody foresaw.
    """
    status, code = status_of(error)
    body = orjson.dumps({"error": error_body(error, request_id)["message"]})
    return Answer(status, body, [(b"x-error-code", code.encode()), *_headers(error, given)])


def headers_of(engine: AnyEngine, stage_s: Mapping[str, float], total_s: float) -> list[tuple[bytes, bytes]]:
    """What answered, and how long each stage took. Source: W3C, "Server Timing"."""
    timing = _timing(tuple(stage_s)) % (*[seconds * 1000 for seconds in stage_s.values()], total_s * 1000)
    return [*_names(engine.name, engine.version, engine.precision), (b"server-timing", timing.encode())]


@lru_cache(_MOST_KEPT)
def _timing(stages: tuple[str, ...]) -> str:
    return ", ".join(f"{stage};dur=%.3f" for stage in (*stages, "total"))


@lru_cache(_MOST_KEPT)
def _names(model: str, version: str | None, precision: str) -> tuple[tuple[bytes, bytes], ...]:
    # Names may hold any letters, headers only ASCII.
    name = (b"x-model-name", urllib.parse.quote(model, safe=" ").encode())
    precise = (b"x-model-precision", precision.encode())
    return (name, precise) if version is None else (name, precise, (b"x-model-version", version.encode()))


def _headers(error: Exception, given: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    headers = []
    if isinstance(error, errors.NotReadyError | errors.ModelDownError | errors.ModelCrashedError):
        headers.append((b"retry-after", _RETRY_AFTER_S))
    if isinstance(error, errors.QueueFullError):
        headers.append(_retry_after(error.retry_after_s))
    if isinstance(error, errors.LimitError):
        headers.append(_retry_after(error.details["retry_after_s"]))
    if isinstance(error, errors.UnauthorizedError | errors.ForbiddenError) and "challenge" in error.details:
        headers.append((b"www-authenticate", error.details["challenge"].encode()))
    if isinstance(error, errors.MethodError):
        headers.append((b"allow", ", ".join(error.details["allowed"]).encode()))
    if b"expect" in given:
        # The client waits for leave to send its body; without it, what follows on this connection is ambiguous.
        headers.append((b"connection", b"close"))
    return headers


def _retry_after(seconds: float) -> tuple[bytes, bytes]:
    # Whole seconds, RFC 9110; 0 would be read as at once.
    return b"retry-after", str(max(math.ceil(seconds), 1)).encode()
