"""Logs as JSON, one line an event, on standard error."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

import orjson


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, `extra={"fields": {...}}`, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of one record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
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
