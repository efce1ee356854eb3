"""Services that are asked over HTTP: what they have counted, and whether they route by a document."""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from tfpipe.core.errors import ConfigError, TfpipeError
from tfpipe.core.routing import Routing
from tfpipe.core.routing_json import from_dict, to_dict

ADMIN_KEY = "TFPIPE_ADMIN_KEY"
"""The variable of the environment that holds the key."""

_TIMEOUT_S = 10.0
_NOT_ALLOWED = (401, 403)
T = TypeVar("T")


class ReplicaError(TfpipeError):
    """A service cannot be reached, or refuses."""


class Replicas:
    """The services of one set.

    Args:
        urls: Addresses like http://127.0.0.1:8000.
        admin_key: Sent with what changes something; "" where the services ask for none.
        timeout_s: For each answer.

    Raises:
        ConfigError: An address that is none.
    """

    def __init__(self, urls: Sequence[str], *, admin_key: str = "", timeout_s: float = _TIMEOUT_S) -> None:
        for url in urls:
            parts = urllib.parse.urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ConfigError(f"--replicas: expected addresses like http://HOST:PORT, received {url!r}.")
        self.urls = tuple(url.rstrip("/") for url in urls)
        self._admin_key, self._timeout_s = admin_key, timeout_s

    def metrics(self) -> dict[str, str | ReplicaError]:
        """The exposition of each, by address, or why there is none."""
        return self._of_each(lambda url: self._ask(url, "GET", "/metrics").decode("utf-8", "replace"))

    def push(self, routing: Routing, *, without: Sequence[str] = ()) -> dict[str, str | ReplicaError]:
        """Give a written document to each; by address "", or why it did not confirm."""

        def put(url: str) -> str:
            answer = self._ask(url, "PUT", _path(routing.model, "routing"), to_dict(routing))
            held = _routing(answer, url)
            if held.revision < routing.revision:
                raise ReplicaError(f"{url}: expected revision {routing.revision}, received {held.revision}.")
            return ""

        return self._of_each(put, without=without)

    def roll_back(self, model: str, *, version: str | None, who: str, why: str) -> tuple[str, Routing]:
        """Let the first that answers write a rollback and follow it.

        Returns:
            Its address and the document.

        Raises:
            ReplicaError: None did; says why for each.
        """
        problems = []
        body = {"version": version, "who": who, "why": why}
        for url in self.urls:
            try:
                return url, _routing(self._ask(url, "POST", _path(model, "rollback"), body), url)
            except ReplicaError as error:
                problems.append(str(error))
        raise ReplicaError(" ".join(problems))

    def _of_each(self, ask: Callable[[str], str], *, without: Sequence[str] = ()) -> dict[str, str | ReplicaError]:
        def caught(url: str) -> str | ReplicaError:
            try:
                return ask(url)
            except ReplicaError as error:
                return error

        urls = [url for url in self.urls if url not in without]
        # At once: one that hangs must not keep the others waiting.
        with ThreadPoolExecutor(max(1, len(urls))) as pool:
            return dict(zip(urls, pool.map(caught, urls), strict=True))

    def _ask(self, url: str, method: str, path: str, body: Any = None) -> bytes:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if self._admin_key and method != "GET":
            headers["Authorization"] = f"Bearer {self._admin_key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            hint = f" The key is taken from {ADMIN_KEY}." if error.code in _NOT_ALLOWED else ""
            raise ReplicaError(f"{url}: {method} {path}: {error.code}: {_message(error.read())}{hint}") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ReplicaError(f"{url}: expected an answer to {method} {path}, received none: {reason}.") from error


def _path(model: str, rest: str) -> str:
    return f"/admin/models/{urllib.parse.quote(model, safe='')}/{rest}"


def _routing(answer: bytes, url: str) -> Routing:
    try:
        values = json.loads(answer)["routing"]
    except (ValueError, TypeError, KeyError) as error:
        raise ReplicaError(f"{url}: expected a routing document, received {answer[:200]!r}.") from error
    return from_dict(values, where=url)


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, TypeError, KeyError):
        return body[:200].decode("utf-8", "replace").strip() or "no reason given"
