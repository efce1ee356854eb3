"""Recording runs: on a SQLite store, and on a server that is taken away and brought back."""

import logging
import math
import shutil
import subprocess
import sys
import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import _validate_metric_name

from tests.mlflow_server import MlflowServer
from tests.stores import new_store
from tests.strategies import configs
from tfpipe.config import flatten, load_config, parse_config
from tfpipe.core.errors import TrackingError
from tfpipe.outbox import PENDING_FILE, Outbox
from tfpipe.registry import Registry
from tfpipe.store import connect, retrying
from tfpipe.tracking import MlflowTracker, NoTracker, log_epoch, send_pending, value_text

LARGEST = sys.float_info.max


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return new_store(tmp_path_factory.mktemp("tracking"))


@pytest.fixture(scope="module")
def running_server(tmp_path_factory):
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(running_server):
    yield running_server
    if not running_server.is_running:
        running_server.start()


def make_config(uri, output_dir, *, epochs=3, **tracking):
    values = {
        "data": {"path": "digits"},
        "training": {"epochs": epochs},
        "tracking": {"uri": uri, "retry_s": 0.5, **tracking},
        "output_dir": str(output_dir),
    }
    return parse_config(values, where="test")


@pytest.fixture
def config(uri, tmp_path):
    return make_config(uri, tmp_path)


def history(uri, run_id, name):
    return {metric.step: metric.value for metric in connect(uri).get_metric_history(run_id, name)}


def same(left, right):
    return left == right or (math.isnan(left) and math.isnan(right))


def is_metric_name(name):
    try:
        _validate_metric_name(name)
    except MlflowException:
        return False
    return True


# Feature: deep-learning-pipeline, Property 5: Hyper-parameters complete
@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_every_value_of_the_configuration_can_be_read_back_once_the_run_has_started(uri, data):
    config = data.draw(configs(uri))

    tracker = MlflowTracker.start(config)

    parameters = connect(uri).get_run(tracker.run_id).data.params
    assert {key: yaml.safe_load(text) for key, text in parameters.items()} == flatten(config)
    tracker.finish("FINISHED")


_NAMES = st.text("abzAZ09_.- :/é", min_size=1, max_size=12).filter(is_metric_name)


# Feature: deep-learning-pipeline, Property 6: Metrics complete
@settings(max_examples=100, deadline=None, derandomize=True)
@given(num_epochs=st.integers(1, 4), custom=st.lists(_NAMES, max_size=3, unique=True), data=st.data())
def test_every_metric_of_every_epoch_can_be_read_back(uri, num_epochs, custom, data):
    names = ["loss", "val_loss", *custom]
    values = st.fixed_dictionaries(dict.fromkeys(names, st.floats()))
    epochs = {epoch: data.draw(values) for epoch in range(1, num_epochs + 1)}
    tracker = MlflowTracker.start(parse_config({"data": {"path": "digits"}, "tracking": {"uri": uri}}, where="test"))

    for epoch, metrics in epochs.items():
        log_epoch(tracker, epoch, metrics)
    tracker.finish("FINISHED")

    for name in names:
        recorded = history(uri, tracker.run_id, name)
        assert recorded.keys() == epochs.keys()
        # Infinity becomes the largest float, as the module says.
        expected = {epoch: min(max(metrics[name], -LARGEST), LARGEST) for epoch, metrics in epochs.items()}
        expected = {epoch: math.nan if math.isnan(epochs[epoch][name]) else expected[epoch] for epoch in epochs}
        assert all(same(recorded[epoch], expected[epoch]) for epoch in epochs), name


def test_a_value_too_long_for_a_parameter_lies_in_an_artefact(uri, tmp_path):
    config = make_config(uri, tmp_path, tags={"note": "x" * 7000})

    tracker = MlflowTracker.start(config, extra_params={"workers": 4})

    tracker.finish("FINISHED")
    client = connect(uri)
    parameters = client.get_run(tracker.run_id).data.params
    assert parameters["tracking.tags"] == "see params.yaml"
    assert parameters["workers"] == "4"
    assert load_config(client.download_artifacts(tracker.run_id, "config.yaml")) == config
    with open(client.download_artifacts(tracker.run_id, "params.yaml"), encoding="utf-8") as file:
        assert yaml.safe_load(yaml.safe_load(file)["tracking.tags"]) == config.tracking.tags


@pytest.mark.parametrize(
    ("value", "text"),
    [("adamw", "adamw"), ("1", "'1'"), (None, "null"), (True, "true"), (1e-5, "1.0e-05"), ([32, 32], "[32, 32]")],
)
def test_values_are_written_as_yaml(value, text):
    assert value_text(value) == text


def test_a_resumed_run_goes_on_in_the_same_run(uri, tmp_path):
    first = MlflowTracker.start(make_config(uri, tmp_path, epochs=3), extra_tags={"git": "abc"})
    log_epoch(first, 1, {"loss": 0.5})
    first.finish("KILLED")

    second = MlflowTracker.start(make_config(uri, tmp_path, epochs=5), run_id=first.run_id)

    running = connect(uri).get_run(first.run_id)
    log_epoch(second, 2, {"loss": 0.25})
    second.finish("FINISHED")
    assert second.run_id == first.run_id
    assert running.info.status == "RUNNING"
    assert running.data.params["training.epochs"] == "3"
    assert running.data.tags["tfpipe.resumed.training.epochs"] == "5"
    assert running.data.tags["git"] == "abc"
    assert history(uri, first.run_id, "loss") == {1: 0.5, 2: 0.25}
    assert connect(uri).get_run(first.run_id).info.status == "FINISHED"


def test_a_run_resumed_in_another_store_is_a_new_run_there(config, uri):
    tracker = MlflowTracker.start(config, run_id="0" * 32)

    tracker.finish("FINISHED")
    assert tracker.run_id != "0" * 32
    assert connect(uri).get_run(tracker.run_id).data.tags["tfpipe.resumed_run"] == "0" * 32


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_a_run_ends_with_its_status(config, uri, status):
    tracker = MlflowTracker.start(config)

    tracker.finish(status)
    tracker.finish("FAILED")

    assert connect(uri).get_run(tracker.run_id).info.status == status


def test_files_texts_and_figures_become_artefacts(config, uri, tmp_path):
    file = tmp_path / "report.html"
    file.write_text("<p>report</p>")
    tracker = MlflowTracker.start(config)

    tracker.log_file(file)
    tracker.log_file(file, "copies")
    tracker.log_text("note", "notes/note.txt")
    tracker.log_figure(Figure(), "loss.png")

    tracker.finish("FINISHED")
    client = connect(uri)
    folders = {"": "report.html", "copies": "copies/report.html", "notes": "notes/note.txt"}
    for folder, artifact in {**folders, "figures": "figures/loss.png"}.items():
        assert artifact in [found.path for found in client.list_artifacts(tracker.run_id, folder)]


@pytest.mark.parametrize("name", ["top-1 %", "a//b", "..", ".", "/a", "", "x" * 251])
def test_a_metric_that_mlflow_cannot_store_is_refused_by_name(config, name):
    tracker = MlflowTracker.start(config)

    with pytest.raises(TrackingError, match="expected a name of at most 250 letters"):
        log_epoch(tracker, 1, {"loss": 1.0, name: 1.0})

    tracker.finish("FAILED")


def test_an_epoch_without_loss_is_refused():
    with pytest.raises(TrackingError, match="epoch 2: expected metrics with 'loss', received accuracy"):
        log_epoch(NoTracker(), 2, {"accuracy": 1.0})


def test_the_use_of_the_machine_is_recorded(config, uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    tracker = MlflowTracker.start(config)

    deadline_s = time.monotonic() + 30
    while not (recorded := history(uri, tracker.run_id, "system/system_memory_usage_percentage")):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)

    tracker.finish("FINISHED")
    assert 0 < recorded[0] < 100


@pytest.mark.parametrize("place", ["file/mlflow.db", "text.db"])
def test_a_store_that_cannot_be_written_stops_before_training(tmp_path, place):
    (tmp_path / "file").write_text("a file where a folder is wanted")
    (tmp_path / "text.db").write_text("no database " * 100)

    with pytest.raises(TrackingError, match=r"expected a SQLite file to write to, received: .* Nothing was trained\."):
        MlflowTracker.start(make_config(f"sqlite:///{tmp_path / place}", tmp_path))


def test_what_is_no_address_stops_before_training(tmp_path):
    with pytest.raises(TrackingError, match=r"expected sqlite:///FILE.* Nothing was trained\."):
        MlflowTracker.start(make_config("htp://host", tmp_path))


_START = """
import sys
from tfpipe.config import parse_config
from tfpipe.tracking import MlflowTracker
values = {"data": {"path": "digits"}, "tracking": {"uri": sys.argv[1], "experiment": "new"}, "output_dir": sys.argv[2]}
tracker = MlflowTracker.start(parse_config(values, where="test"))
tracker.finish("FINISHED")
print(tracker.run_id)
"""


def test_trainings_that_make_the_store_at_once_all_succeed_and_are_quiet(tmp_path):
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    command = [sys.executable, "-c", _START, uri, str(tmp_path / "run")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]

    outputs = [process.communicate(timeout=120) for process in processes]

    assert [error for _, error in outputs] == ["", ""]
    client = connect(uri)
    experiments = {client.get_run(run_id.strip()).info.experiment_id for run_id, _ in outputs}
    assert len(experiments) == 1


def test_retrying_ends_with_the_first_answer():
    failures = iter([MlflowException("away"), MlflowException("still away")])

    def answer():
        for failure in failures:
            raise failure
        return "answer"

    assert retrying(answer, uri="http://host", retry_s=10) == "answer"


@pytest.mark.slow
def test_a_server_that_goes_away_and_comes_back_misses_nothing(server, tmp_path, caplog):
    file = tmp_path / "file.txt"
    file.write_text("kept")
    tracker = MlflowTracker.start(make_config(server.uri, tmp_path))
    log_epoch(tracker, 1, {"loss": 1.0, "val_loss": math.nan})
    server.stop()

    with caplog.at_level(logging.WARNING):
        for epoch in (2, 3):
            log_epoch(tracker, epoch, {"loss": 1.0 / epoch, "val_loss": math.nan})
        tracker.log_text("note", "note.txt")
        tracker.log_file(file)
        server.start()
        log_epoch(tracker, 4, {"loss": 0.25, "val_loss": 0.5})
    tracker.finish("FINISHED")

    assert [record.message.split(" (")[0] for record in caplog.records if record.name.startswith("tfpipe")] == [
        f"tracking store {server.uri} failed",
        f"tracking store {server.uri} answers again; what was kept is sent.",
    ]
    assert history(server.uri, tracker.run_id, "loss") == {1: 1.0, 2: 0.5, 3: 1.0 / 3, 4: 0.25}
    client = connect(server.uri)
    artifacts = {found.path for found in client.list_artifacts(tracker.run_id)}
    assert {"note.txt", "file.txt", "config.yaml"} <= artifacts
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
    assert tracker.ui_hint().startswith(f"{server.uri}/#/experiments/")


@pytest.mark.slow
def test_what_a_server_missed_until_the_end_is_kept_and_sent_later(server, tmp_path):
    config = make_config(server.uri, tmp_path)
    tracker = MlflowTracker.start(config)
    server.stop()
    log_epoch(tracker, 1, {"loss": math.nan})
    tracker.log_text("note", "note.txt")
    started_s = time.monotonic()

    with pytest.raises(TrackingError, match=r"result is kept; .*tracking_pending\.json\. Once the server is back"):
        tracker.finish("FINISHED")
    with pytest.raises(TrackingError, match="Connection refused"):
        send_pending(tmp_path, retry_s=0.1)
    with pytest.raises(TrackingError, match=r"Nothing was trained\."):
        MlflowTracker.start(config)
    assert time.monotonic() - started_s < 20

    server.start()
    assert [send_pending(tmp_path), send_pending(tmp_path)] == [2, 0]
    assert not (tmp_path / PENDING_FILE).exists()
    assert math.isnan(history(server.uri, tracker.run_id, "loss")[1])
    assert connect(server.uri).get_run(tracker.run_id).info.status == "FINISHED"


def test_a_resumed_run_sends_first_what_was_kept(config, uri, tmp_path):
    tracker = MlflowTracker.start(config)
    tracker.finish("FAILED")
    kept = Outbox(uri, tracker.run_id)
    kept.add_metrics({"loss": 1.0}, step=1)
    kept.status = "KILLED"
    kept.save(tmp_path)

    resumed = MlflowTracker.start(config, run_id=tracker.run_id)

    recorded, status = history(uri, tracker.run_id, "loss"), connect(uri).get_run(tracker.run_id).info.status
    resumed.finish("FINISHED")
    assert recorded == {1: 1.0}
    assert status == "RUNNING"
    assert not (tmp_path / PENDING_FILE).exists()


def test_a_damaged_file_of_unsent_records_is_refused_by_name(tmp_path):
    (tmp_path / PENDING_FILE).write_text('{"uri": ')

    with pytest.raises(TrackingError, match=r"tracking_pending\.json: expected what a run has left to send"):
        send_pending(tmp_path)


def test_a_store_that_is_deleted_under_a_run_does_not_stop_it(tmp_path, capfd):
    tracker = MlflowTracker.start(make_config(f"sqlite:///{tmp_path}/store/mlflow.db", tmp_path / "run"))
    shutil.rmtree(tmp_path / "store")

    log_epoch(tracker, 1, {"loss": 1.0})
    with pytest.raises(TrackingError, match=r"readonly database.* The training result is kept"):
        tracker.finish("FINISHED")

    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_a_server_holds_models_and_bundles_like_a_file(server, tmp_path):
    tracker = MlflowTracker.start(make_config(server.uri, tmp_path))
    tracker.finish("FINISHED")
    trained = tmp_path / "trained"
    trained.mkdir()
    for name in ("config.yaml", "model.keras", "model.json"):
        (trained / name).write_text(name)
    registry = Registry(server.uri)

    version = registry.register(
        "served", run_id=tracker.run_id, folder=trained, metadata={"created": "now", "metrics": {}}
    )

    assert registry.resolve("models:/served") == version
    assert (registry.download_model(version, tmp_path / "model") / "model.keras").read_text() == "model.keras"
