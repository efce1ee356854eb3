"""The ledger of routing documents: it only grows, and says who changed what, when and why.

In an MLflow store, a change is a run of the experiment `tfpipe-routing`:

    params document.000, .001, ...  the whole document, in pieces that any MLflow server takes
    tags tfpipe.routing.model, revision, parent, who, when, what, why    for people
    param next                      the run of the change that follows it

and the tag `tfpipe.routing` of the registered model names the newest. MLflow has no compare-and-set, but a param is
written once: of two writers that follow the same change, `next` lets one through. Only the first change of a model has
none before it; there the tag is read again after it was set. A writer that dies between the two leaves a tag that lags
by one; who comes next, moves it on, and a reader goes on from the tag by `next`.

In a folder, a change is a file, `routing/MODEL/00000001.json`, ...; a lock lets one writer in at a time.
"""

import urllib.parse
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tfpipe.core import atomic
from tfpipe.core.errors import RegistryError, RoutingConflictError
from tfpipe.core.routing import CHAMPION, Routing
from tfpipe.core.routing_changes import utc
from tfpipe.core.routing_json import from_json, to_json

EXPERIMENT = "tfpipe-routing"
TAG = "tfpipe.routing"

_NEXT = "next"
_PIECE = "document."
# MLflow servers before 2.9 refuse longer params.
_MAX_PARAM_LENGTH = 500
T = TypeVar("T")


class Ledger(Protocol):
    """Keeps the documents of models. Every method may raise TrackingError: the store is away."""

    def head(self, model: str) -> str:
        """Something that is another after each change, and quick to ask; "" where there was none."""
        ...

    def newest(self, model: str) -> Routing | None:
        """The document that holds; None where none was written."""
        ...

    def append(self, routing: Routing) -> Routing:
        """Write a document that follows the newest.

        Returns:
            The document with its `id`, or the one of it that is written already.

        Raises:
            RoutingConflictError: Its parent is not the newest: somebody else has made a change.
            RegistryError: There is no such model.
        """
        ...

    def history(self, model: str) -> list[Routing]:
        """Every document, the newest first."""
        ...


def at(history: list[Routing], moment: datetime) -> Routing | None:
    """The document that held at a time; None before the first."""
    return next((one for one in history if one.when <= utc(moment)), None)


class FolderLedger:
    """A ledger in a folder of this machine; see the module.

    Args:
        folder: Made when the first document is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "routing"

    def head(self, model: str) -> str:
        """See `Ledger`."""
        files = self._files(model)
        return files[-1].stem if files else ""

    def newest(self, model: str) -> Routing | None:
        """See `Ledger`."""
        files = self._files(model)
        return _read(files[-1]) if files else None

    def append(self, routing: Routing) -> Routing:
        """See `Ledger`."""
        folder = self._of(routing.model)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic.locked(folder):
            newest = self.newest(routing.model)
            _check_follows(routing, newest)
            written = replace(routing, id=f"{routing.revision:08d}")
            atomic.write_file(folder / f"{written.id}.json", to_json(written) + "\n")
        return written

    def history(self, model: str) -> list[Routing]:
        """See `Ledger`."""
        return [_read(file) for file in reversed(self._files(model))]

    def _of(self, model: str) -> Path:
        # A name may hold what a path may not; "." and ".." are quoted by nothing.
        return self._folder / f"model={urllib.parse.quote(model, safe='')}"

    def _files(self, model: str) -> list[Path]:
        return sorted(self._of(model).glob("[0-9]*.json"))


class MlflowLedger:
    """A ledger in an MLflow store; see the module.

    Args:
        uri: Tracking store; None: MLFLOW_TRACKING_URI, then sqlite:///mlflow.db.
        retry_s: Seconds for which a server that is away is tried again, per call.
    """

    def __init__(self, uri: str | None = None, *, retry_s: float = 60.0) -> None:
        # MLflow takes seconds to import: a folder's ledger is kept without it.
        from tfpipe import store

        self._store = store
        self.uri = store.store_uri(uri)
        self._retry_s = retry_s

    def head(self, model: str) -> str:
        """See `Ledger`."""
        return self._call(lambda client: _tag(client, model))

    def newest(self, model: str) -> Routing | None:
        """See `Ledger`."""
        return self._call(lambda client: _newest(client, model))

    def append(self, routing: Routing) -> Routing:
        """See `Ledger`; gives the alias champion of the registered model to the document's."""
        return self._call(lambda client: self._append(client, routing))

    def history(self, model: str) -> list[Routing]:
        """See `Ledger`."""

        def walk(client: Any) -> list[Routing]:
            found: list[Routing] = []
            one = _newest(client, model)
            while one is not None:
                found.append(one)
                one = _document(client.get_run(one.parent)) if one.parent else None
            return found

        return self._call(walk)

    def _append(self, client: Any, routing: Routing) -> Routing:
        newest = _newest(client, routing.model)
        if newest is not None and _is_same(newest, routing):
            # The answer to the writing of it was lost on the way.
            return newest
        _check_follows(routing, newest)
        written = self._write(client, routing)
        if routing.parent:
            try:
                client.log_param(routing.parent, _NEXT, written.id)
            except self._store.MlflowException as error:
                if error.error_code != "INVALID_PARAMETER_VALUE":
                    raise
                self._abandon(client, written)
                winner = _newest(client, routing.model)
                if winner is not None:
                    # In case it died before it could.
                    client.set_registered_model_tag(routing.model, TAG, winner.id)
                raise _conflict(routing, winner) from error
        elif _tag(client, routing.model):
            self._abandon(client, written)
            raise _conflict(routing, _newest(client, routing.model))
        client.set_registered_model_tag(routing.model, TAG, written.id)
        held = _newest(client, routing.model)
        if held is None or not _leads_to(client, held, written):
            self._abandon(client, written)
            raise _conflict(routing, held)
        _give_champion(client, written)
        return written

    def _write(self, client: Any, routing: Routing) -> Routing:
        tags = {
            name: str(getattr(routing, name)) for name in ("model", "revision", "parent", "who", "when", "what", "why")
        }
        run = client.create_run(
            self._experiment(client),
            run_name=f"{routing.model} {routing.revision}: {routing.what}"[:200],
            tags={f"{TAG}.{name}": text for name, text in tags.items()},
        )
        written = replace(routing, id=run.info.run_id)
        text = to_json(written)
        pieces = [text[start : start + _MAX_PARAM_LENGTH] for start in range(0, len(text), _MAX_PARAM_LENGTH)]
        params = [self._store.Param(f"{_PIECE}{index:03d}", piece) for index, piece in enumerate(pieces)]
        client.log_batch(written.id, params=params)
        client.set_terminated(written.id)
        return written

    def _experiment(self, client: Any) -> str:
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            try:
                return str(client.create_experiment(EXPERIMENT))
            except self._store.MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = client.get_experiment_by_name(EXPERIMENT)
        return str(found.experiment_id)

    def _abandon(self, client: Any, written: Routing) -> None:
        """Show in MLflow's pages that this change did not come to hold."""
        client.set_terminated(written.id, status="FAILED")

    def _call(self, function: Callable[[Any], T]) -> T:
        store = self._store
        store.check_store(self.uri)
        try:
            answer: T = store.retrying(lambda: function(store.connect(self.uri)), uri=self.uri, retry_s=self._retry_s)
            return answer
        except store.VENDOR_ERRORS as error:
            raise RegistryError(f"routing at {self.uri}: {store.reason(error)}") from error


def _tag(client: Any, model: str) -> str:
    return str(client.get_registered_model(model).tags.get(TAG, ""))


def _newest(client: Any, model: str) -> Routing | None:
    run_id = _tag(client, model)
    if not run_id:
        return None
    run = client.get_run(run_id)
    while _NEXT in run.data.params:
        run = client.get_run(run.data.params[_NEXT])
    return _document(run)


def _document(run: Any) -> Routing:
    pieces = sorted((name, piece) for name, piece in run.data.params.items() if name.startswith(_PIECE))
    text = "".join(piece for _, piece in pieces)
    return from_json(text, where=f"run {run.info.run_id} of experiment {EXPERIMENT!r}")


def _leads_to(client: Any, held: Routing, written: Routing) -> bool:
    """Whether a document is another, or follows it: somebody may have gone on already."""
    while held.id != written.id and held.revision > written.revision:
        held = _document(client.get_run(held.parent))
    return held.id == written.id


def _give_champion(client: Any, routing: Routing) -> None:
    current = client.get_registered_model(routing.model).aliases.get(CHAMPION)
    if routing.champion is not None and str(current) != routing.champion:
        client.set_registered_model_alias(routing.model, CHAMPION, routing.champion)


def _is_same(one: Routing, other: Routing) -> bool:
    return replace(one, id="") == replace(other, id="")


def _check_follows(routing: Routing, newest: Routing | None) -> None:
    parent, revision = (newest.id, newest.revision) if newest is not None else ("", 0)
    if routing.parent != parent or routing.revision != revision + 1:
        raise _conflict(routing, newest)


def _conflict(routing: Routing, newest: Routing | None) -> RoutingConflictError:
    found = "there is none" if newest is None else f"{newest.who} made it revision {newest.revision}: {newest.what}"
    return RoutingConflictError(
        f"routing of {routing.model!r}: expected revision {routing.revision - 1} to be the newest, but {found}. "
        "Look at it, and try again."
    )


def _read(file: Path) -> Routing:
    return from_json(file.read_bytes(), where=str(file))
