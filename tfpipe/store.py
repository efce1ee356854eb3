"""Where runs and models are kept: the address of an MLflow store, the connection to it, and patience while it is away.

Works with mlflow-skinny, and with sqlalchemy and alembic where the store is a database. Other modules take MLflow's
names from here: what is set below must be set before MLflow is imported.
"""

import contextlib
import logging
import math
import os
import re
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

# Only where the user has not set them. Not around each call: threads may be reading the environment by then.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# MLflow alone would try a server that is away eight times, for minutes. `retrying` does it instead, for as long as the
# caller allows, and one attempt never hangs.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

import requests
from mlflow import MlflowClient as MlflowClient
from mlflow.entities import Metric as Metric
from mlflow.entities import Param as Param
from mlflow.entities import RunTag as RunTag
from mlflow.environment_variables import MLFLOW_TRACKING_URI
from mlflow.exceptions import InvalidUrlException
from mlflow.exceptions import MlflowException as MlflowException
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from tfpipe.core import atomic
from tfpipe.core.errors import RegistryError, TrackingError

DEFAULT_URI = "sqlite:///mlflow.db"

T = TypeVar("T")
# What MLflow lets through: its own exceptions, and those of HTTP, database and file system below it.
VENDOR_ERRORS = (MlflowException, requests.RequestException, SQLAlchemyError, OSError)

_STORE_URI = re.compile(
    r"https?://[\w.:@%-]+(/.*)?|https?://\[[\da-fA-F:.]+\](:\d+)?(/.*)?"
    r"|(sqlite|postgresql|mysql|mssql)(\+\w+)?://.+|databricks(-uc)?(://.+)?"
)
_AWAY_CODES = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED")
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.2, 5.0
# The one part worth reading of the chains of exceptions that HTTP libraries give.
_REASON = re.compile(
    r"\[Errno -?\d+\] [^'\")\]]+|too many \d+ error responses|Read timed out|Connection aborted"
    r"|\(\w+\.\w*Error\) [^\[]+"
)

# Schema creation and migration are announced line by line.
logging.getLogger("alembic").setLevel(logging.WARNING)
# What fails is raised too: the traceback that it logs says it twice.
logging.getLogger("mlflow.store.db.utils").addFilter(
    lambda record: record.levelno in (logging.WARNING, logging.CRITICAL)
)
# The monitor of system metrics repeats what the tracker says.
logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)


def store_uri(uri: str | None) -> str:
    """The store meant: given, else MLFLOW_TRACKING_URI, else sqlite:///mlflow.db; SQLite paths made absolute."""
    chosen = uri or MLFLOW_TRACKING_URI.get() or DEFAULT_URI  # type: ignore[no-untyped-call]
    path = sqlite_path(chosen)
    # MLflow keeps connections by URI: a relative one would go on meaning the folder it was first used in.
    return chosen if path is None else f"sqlite:///{path}"


def sqlite_path(uri: str) -> Path | None:
    """The absolute path of a SQLite store's file; None for other stores."""
    path = uri.removeprefix("sqlite:///")
    return None if path in (uri, "", ":memory:") else Path(path).absolute()


def check_store(uri: str) -> None:
    """Refuse what is no store, and a SQLite file that is missing: MLflow would silently make an empty one.

    Raises:
        RegistryError: See above.
    """
    check_uri(uri)
    path = sqlite_path(uri)
    if path is None:
        return
    if not path.is_file():
        raise RegistryError(
            f"expected a registry at {uri}, found none; train first, or name another store with MLFLOW_TRACKING_URI."
        )
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
    except sqlite3.Error as error:
        raise RegistryError(f"expected an MLflow store at {uri}, received another file ({error}).") from error
    if "registered_models" not in tables:
        raise RegistryError(f"expected an MLflow store at {uri}, received a database without its tables.")


def check_uri(uri: str) -> None:
    """Refuse an address that no MLflow store has.

    Raises:
        RegistryError: See above.
    """
    if not _STORE_URI.fullmatch(uri):
        raise RegistryError(
            "tracking store: expected sqlite:///FILE, http://HOST:PORT, https://HOST or a database's URI, "
            f"received {uri!r}."
        )


def create_store(uri: str) -> None:
    """Make a SQLite store where there is none; other stores are made by who runs them.

    Raises:
        RegistryError: The address is none.
        TrackingError: The file cannot be written, or is something else.
    """
    check_uri(uri)
    path = sqlite_path(uri)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path, timeout=20)) as database:
            database.execute("BEGIN IMMEDIATE")
    except (OSError, sqlite3.Error) as error:
        raise TrackingError(f"tracking store {uri}: expected a SQLite file to write to, received: {error}.") from error
    # Two trainings that make the same store at once would each run MLflow's migrations.
    with atomic.locked(path.parent):
        connect(uri)


def connect(uri: str) -> MlflowClient:
    """A client of a store, for tracking and registry alike, whatever MLflow's global state says."""
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def retrying(function: Callable[[], T], *, uri: str, retry_s: float) -> T:
    """Call until the server answers, with growing pauses.

    Args:
        function: May be called several times.
        uri: The store, for the message.
        retry_s: Seconds after which to give up.

    Raises:
        TrackingError: The server was away for that long.
    """
    deadline = math.inf
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return function()
        except VENDOR_ERRORS as error:
            if not is_away(error):
                raise
            deadline = min(deadline, time.monotonic() + retry_s)
            if time.monotonic() + pause_s > deadline:
                raise TrackingError(
                    f"{uri}: expected an MLflow store that answers within {retry_s:g} s, received: {reason(error)}. "
                    "Check the address, or start the server."
                ) from error
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LAST_PAUSE_S)


def is_away(error: BaseException) -> bool:
    """Whether an error of `VENDOR_ERRORS` says that the server is away, rather than that it refuses."""
    if isinstance(error, MlflowException):
        invalid = isinstance(error, InvalidUrlException)
        return error.error_code in _AWAY_CODES and not invalid
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    return isinstance(error, requests.RequestException | OperationalError)


def reason(error: BaseException) -> str:
    """One line of an error of `VENDOR_ERRORS`."""
    text = " ".join(str(error).split())
    found = _REASON.findall(text)
    return found[-1].rstrip() if found else text[:300]
