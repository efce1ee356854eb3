"""The ledger, in a real MLflow store and in a folder."""

import threading
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from tests.stores import new_store
from tfpipe.core.errors import RegistryError, RoutingConflictError, TrackingError
from tfpipe.core.routing import initial
from tfpipe.core.routing_changes import Origin, promote, rollback, split
from tfpipe.ledger import EXPERIMENT, TAG, FolderLedger, MlflowLedger, at
from tfpipe.store import connect

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def by(who="ada", minutes=0):
    return Origin(who, NOON + timedelta(minutes=minutes), "because")


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return new_store(tmp_path_factory.mktemp("ledger"))


@pytest.fixture
def model(uri, request):
    """A registered model of this test alone, with four versions."""
    client = connect(uri)
    name = f"model {request.node.name}"
    client.create_registered_model(name)
    run_id = client.create_run("0").info.run_id
    for _ in range(4):
        client.create_model_version(name, "file:///nowhere", run_id)
    return name


@pytest.fixture(params=["mlflow", "folder"])
def ledger(request, uri, tmp_path):
    return MlflowLedger(uri, retry_s=1.0) if request.param == "mlflow" else FolderLedger(tmp_path)


def test_a_ledger_begins_empty(ledger, model):
    assert (ledger.head(model), ledger.newest(model), ledger.history(model)) == ("", None, [])


def test_what_was_written_is_what_holds_and_its_history_grows(ledger, model):
    first = ledger.append(promote(initial(model, "1"), "2", by(minutes=0)))
    head = ledger.head(model)
    second = ledger.append(split(first, {"2": 0.9, "3": 0.1}, by("bob", minutes=10), fallback="2"))
    third = ledger.append(rollback(second, by(minutes=20)))

    assert head != ledger.head(model)
    assert ledger.newest(model) == third
    assert ledger.history(model) == [third, second, first]
    assert (second.parent, third.parent) == (first.id, second.id)
    assert at(ledger.history(model), NOON + timedelta(minutes=15)) == second
    assert at(ledger.history(model), NOON + timedelta(minutes=20)) == third
    assert at(ledger.history(model), NOON - timedelta(minutes=1)) is None


def test_a_writer_whose_parent_has_moved_fails_and_says_who_was_first(ledger, model):
    first = ledger.append(promote(initial(model, "1"), "2", by()))
    ledger.append(promote(first, "3", by("bob")))

    for late in (promote(first, "4", by()), promote(initial(model, "1"), "4", by())):
        with pytest.raises(RoutingConflictError, match=r"but bob made it revision 2: promote 3\. Look at it"):
            ledger.append(late)

    assert len(ledger.history(model)) == 2


def test_of_writers_at_the_same_time_one_gets_through(ledger, model):
    first = ledger.append(promote(initial(model, "1"), "2", by()))
    outcomes = []
    start = threading.Barrier(6)

    def write(index):
        start.wait()
        try:
            outcomes.append(ledger.append(promote(first, "3", by(f"writer {index}"))))
        except RoutingConflictError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=partial(write, index)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert Counter(type(outcome) for outcome in outcomes)[RoutingConflictError] == 5
    (winner,) = [outcome for outcome in outcomes if not isinstance(outcome, Exception)]
    assert ledger.history(model) == [winner, first]


def test_models_do_not_share_a_history(tmp_path):
    ledger = FolderLedger(tmp_path)
    names = ["a", "../a", "a/b", "."]
    for name in names:
        ledger.append(promote(initial(name, "1"), "2", by()))

    assert [ledger.newest(name).model for name in names] == names
    assert [file.name for file in tmp_path.iterdir()] == ["routing"]


def test_a_change_written_twice_as_its_answer_was_lost_is_there_once(uri, model):
    ledger = MlflowLedger(uri)
    change = promote(initial(model, "1"), "2", by())

    assert ledger.append(change) == ledger.append(change)
    assert len(ledger.history(model)) == 1


def test_a_writer_that_died_before_the_tag_is_helped(uri, model):
    ledger, client = MlflowLedger(uri), connect(uri)
    first = ledger.append(promote(initial(model, "1"), "2", by()))
    second = ledger.append(promote(first, "3", by("bob")))
    client.set_registered_model_tag(model, TAG, first.id)

    assert ledger.newest(model) == second
    with pytest.raises(RoutingConflictError):
        ledger.append(promote(first, "4", by()))
    third = ledger.append(promote(second, "4", by()))
    assert client.get_registered_model(model).tags[TAG] == third.id


def test_mlflow_shows_a_run_a_change_and_the_champion(uri, model):
    ledger, client = MlflowLedger(uri), connect(uri)
    first = ledger.append(promote(initial(model, "1"), "2", by()))
    with pytest.raises(RoutingConflictError):
        ledger.append(promote(initial(model, "1"), "3", by("bob")))

    run = client.get_run(first.id)
    assert run.info.run_name == f"{model} 1: promote 2"
    assert {name.removeprefix(f"{TAG}."): text for name, text in run.data.tags.items() if name.startswith(TAG)} == {
        "model": model, "revision": "1", "parent": "", "who": "ada", "when": "2026-01-01T12:00:00.000+00:00",
        "what": "promote 2", "why": "because",
    }  # fmt: skip
    assert client.get_experiment(run.info.experiment_id).name == EXPERIMENT
    assert str(client.get_model_version_by_alias(model, "champion").version) == "2"


def test_a_long_document_comes_back(uri, model):
    ledger = MlflowLedger(uri)
    routing = initial(model, "1", aliases={f"alias-{index}": "1" for index in range(300)})

    written = ledger.append(promote(routing, "2", Origin("ada", NOON, "é" * 1000)))

    assert ledger.newest(model) == replace(written)


def test_a_store_that_is_away_or_a_model_that_is_not_there_is_one_sentence(uri, model):
    with pytest.raises(TrackingError, match=r"expected an MLflow store that answers within 0\.1 s"):
        MlflowLedger("http://127.0.0.1:9", retry_s=0.1).newest(model)
    with pytest.raises(RegistryError, match="nobody"):
        MlflowLedger(uri).newest("nobody")


def test_a_damaged_file_is_named(tmp_path):
    ledger = FolderLedger(tmp_path)
    ledger.append(promote(initial("m", "1"), "2", by()))
    (file,) = tmp_path.rglob("*.json")
    file.write_text("{")

    with pytest.raises(RegistryError, match=f"{file.name}: expected a routing document"):
        ledger.newest("m")
