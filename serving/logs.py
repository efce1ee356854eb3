"""Logs as JSON, one line an event, on standard error."""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, `extra={"fields": {...}}`, traceback.

    A record of `extra={"many": [{...}, ...]}` is as many lines: of a thousand, a record each costs ten times as much.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The lines of one record."""
        line: dict[str, Any] = {
            "time": iso(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        many: Sequence[Mapping[str, Any]] = getattr(record, "many", None) or [getattr(record, "fields", {})]
        return "\n".join([_to_json({**line, **fields}) for fields in many])


def iso(at_s: float) -> str:
    """Seconds since 1970 as ISO 8601, in milliseconds."""
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds")


def _to_json(line: Mapping[str, Any]) -> str:
    try:
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except orjson.JSONEncodeError:
        # Halves of characters, as clients may send, and integers of any size.
        return json.dumps(line, default=str)


def configure_logging(level: str) -> None:
    """Send every record of `level` and above to standard error as JSON.

    Args:
        level: "debug", "info", "warning" or "error".
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.setLevel(level.upper())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    # These tell at info and debug what the service says itself, in its own words.
    for name in ("uvicorn", "asyncio", "python_multipart", "PIL", "alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR if name == "python_multipart" else logging.WARNING)
