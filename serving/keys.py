"""API keys: who may predict, and who may administer.

The file holds no key, only its SHA-256. That is enough for keys as `tfpipe keys create` makes them: 256 random bits
cannot be guessed from their hash, however fast the hash. A key that somebody thought up could, so short ones are never
accepted, whatever the file says.
"""

import hashlib
import hmac
import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from serving.errors import ForbiddenError, UnauthorizedError
from tfpipe.core.errors import ConfigError

logger = logging.getLogger(__name__)

Scope = Literal["predict", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
# 43 characters of base64 are 256 bits; what is shorter than 32 may have been thought up.
_MIN_KEY_CHARS, _MAX_KEY_CHARS = 32, 256
_KEY_BYTES = 32
_PREFIX = "tfp_"
# How soon a changed file counts. A look costs some microseconds.
_LOOK_EVERY_S = 1.0
_CHALLENGE = 'Bearer realm="tfpipe"'
_FORM = "a list of entries with name, sha256 and scopes (and rate_limit, concurrency)"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"

Clock = Callable[[], float]


class ApiKey(BaseModel):
    """One entry of the file.

    Attributes:
        name: What log and limits call it.
        sha256: Of the key, hexadecimal.
        scopes: What it may do.
        rate_limit: Requests a second; None: RATE_LIMIT's.
        concurrency: Requests in flight at once; None: any number.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=f"^{_NAME}$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    scopes: frozenset[Scope] = Field(min_length=1)
    rate_limit: float | None = Field(None, gt=0, allow_inf_nan=False)
    concurrency: int | None = Field(None, ge=1)


_FILE = TypeAdapter(list[ApiKey])


@dataclass(frozen=True)
class Caller:
    """Who asks, as limits and log know it.

    Attributes:
        name: Of its key; "" where the service asks for none.
        rate_limit: Requests a second of its key; None where the key has none of its own.
        concurrency: Requests in flight at once; None for any number.
    """

    name: str = ""
    rate_limit: float | None = None
    concurrency: int | None = None


ANYBODY = Caller()


class Keys:
    """The keys of a service; on the event loop."""

    def __init__(self, path: Path | None, *, clock: Clock = time.monotonic) -> None:
        """Read the file.

        Args:
            path: YAML, or JSON: a list of entries. None: anybody may predict, and nobody administer.
            clock: Seconds that only go forward.

        Raises:
            ConfigError: It cannot be read, or says what it must not.
        """
        self._path, self._clock = path, clock
        self._keys: tuple[tuple[bytes, ApiKey, Caller], ...] = ()
        self._looked_s = clock()
        self._seen = _state_of(path) if path else None
        if path is not None:
            self._keep(read_keys(path))

    def authorize(self, headers: Mapping[bytes, bytes], scope: Scope) -> Caller:
        """Who asks, if it may.

        Args:
            headers: By lower-case name; gRPC's metadata do as well.
            scope: What it asks for.

        Raises:
            UnauthorizedError: No key, or one that is not known.
            ForbiddenError: The key has not this scope, or no key of this service could have.
        """
        if self._path is None:
            if scope == "predict":
                return ANYBODY
            raise ForbiddenError(
                f"{scope}: expected a service with API keys, but this one has none, so nobody may. "
                "Make one with `tfpipe keys create NAME --scope admin`, and name the file in "
                "TFPIPE_SERVING_API_KEYS_FILE.",
                scope=scope,
            )
        self._look()
        entry, caller = self._find(_presented(headers))
        if scope not in entry.scopes:
            raise ForbiddenError(
                f"API key {entry.name!r}: expected the scope {scope!r}, it has {sorted(entry.scopes)}.",
                scope=scope,
                challenge=f'{_CHALLENGE}, error="insufficient_scope", scope="{scope}"',
            )
        return caller

    def _find(self, presented: bytes) -> tuple[ApiKey, Caller]:
        digest = hashlib.sha256(presented).hexdigest().encode()
        found: tuple[ApiKey, Caller] | None = None
        # All of them, each in constant time: how long it takes tells nothing of which one came near.
        for known, entry, caller in self._keys:
            if hmac.compare_digest(known, digest):
                found = entry, caller
        if found is None or not _MIN_KEY_CHARS <= len(presented) <= _MAX_KEY_CHARS:
            raise UnauthorizedError(
                "API key: expected one that this service knows, received another.",
                challenge=f'{_CHALLENGE}, error="invalid_token"',
            )
        return found

    def _look(self) -> None:
        """Read the file again if it changed; a broken one leaves the keys as they were, and is told once."""
        now_s = self._clock()
        if self._path is None or now_s - self._looked_s < _LOOK_EVERY_S:
            return
        self._looked_s, before = now_s, self._seen
        self._seen = _state_of(self._path)
        if self._seen == before:
            return
        try:
            self._keep(read_keys(self._path))
            logger.info("API keys read again", extra={"fields": {"keys": [entry.name for _, entry, _ in self._keys]}})
        except ConfigError as error:
            logger.error("API keys left as they were", extra={"fields": {"error": str(error)}})

    def _keep(self, entries: list[ApiKey]) -> None:
        self._keys = tuple(
            (entry.sha256.encode(), entry, Caller(entry.name, entry.rate_limit, entry.concurrency)) for entry in entries
        )


def read_keys(path: Path) -> list[ApiKey]:
    """The entries of a file of keys, YAML or JSON.

    Raises:
        ConfigError: It cannot be read, or says what it must not.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"{path}: expected a file of API keys; {error.strerror}.") from error
    except (ValueError, yaml.YAMLError):
        # `from None`: the parser's error quotes the file, where somebody may have written a key.
        raise ConfigError(f"{path}: expected {_FORM}.") from None
    return check_entries([] if content is None else content, where=str(path))


def check_entries(content: Any, *, where: str) -> list[ApiKey]:
    """The entries of a file's content.

    Raises:
        ConfigError: Every problem at once, quoting nothing but names: somebody may have written a key where its hash
            belongs.
    """
    try:
        entries = _FILE.validate_python(content)
    except ValidationError as error:
        raise ConfigError(f"{where}: {' '.join(_problems(error))}") from None
    for what in ("name", "sha256"):
        values = [getattr(entry, what) for entry in entries]
        if len(set(values)) < len(values):
            twice = next(entry.name for entry in entries if values.count(getattr(entry, what)) > 1)
            raise ConfigError(f"{where}: expected each {what} once, received that of {twice!r} twice.")
    return entries


def new_key() -> tuple[str, str]:
    """A key that nobody can guess, and its SHA-256 in hexadecimal."""
    key = _PREFIX + secrets.token_urlsafe(_KEY_BYTES)
    return key, hashlib.sha256(key.encode()).hexdigest()


def _problems(error: ValidationError) -> list[str]:
    found = []
    for entry in error.errors(include_input=False, include_url=False):
        where = [str(part) for part in entry["loc"]]
        place = ", ".join([f"entry {int(where[0]) + 1}", *where[1:]]) if where else "content"
        expected = entry["msg"].removeprefix("Input should be ") if where else _FORM
        found.append(f"{place}: expected {expected}.")
    return found


def _presented(headers: Mapping[bytes, bytes]) -> bytes:
    key = headers.get(b"x-api-key", b"")
    scheme, _, credentials = headers.get(b"authorization", b"").partition(b" ")
    # A proxy may use Authorization for itself, so X-API-Key comes first.
    if not key and scheme.lower() == b"bearer":
        key = credentials
    if not key.strip():
        raise UnauthorizedError(
            "API key: expected the header `Authorization: Bearer KEY` or `X-API-Key: KEY`, received neither.",
            challenge=_CHALLENGE,
        )
    return key.strip()


def _state_of(path: Path) -> tuple[int, int, int] | None:
    """Changes whenever the file does; None while it cannot be reached."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
