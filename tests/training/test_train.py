"""Whole runs, in this process."""

import json

import keras
import numpy as np
import pytest

from tests.training.small_runs import small_config, write_class_folders
from tfpipe.config import load_config
from tfpipe.core.errors import ConfigError, DataError, GateError, StoppedError, TrainingError
from tfpipe.models.assembly import load_model
from tfpipe.registry import Registry
from tfpipe.train import train

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_class_folders(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    """A complete run with its result."""
    root = tmp_path_factory.mktemp("finished")
    config = small_config(root, data, epochs=12)
    return config, train(config)


def test_a_run_leaves_everything_that_conversion_and_people_need(finished):
    config, result = finished

    names = {path.name for path in result.output_dir.iterdir()}
    assert {"config.yaml", "checkpoints", "model.keras", "model.json", "calibration", "validation.json", "report.html",
            "result.json", "status.json"} <= names  # fmt: skip
    assert load_config(result.output_dir / "config.yaml") == config
    document = json.loads((result.output_dir / "result.json").read_text())
    assert document["metrics"] == result.metrics
    assert (document["registered_model"], document["model_version"], document["workers"]) == ("small", "1", 1)
    assert document["samples_per_second"] > 0
    assert json.loads((result.output_dir / "status.json").read_text()) == {"exit_code": 0, "reason": "done"}
    assert len(json.loads((result.output_dir / "calibration" / "index.json").read_text())) == 18
    assert len(json.loads((result.output_dir / "validation.json").read_text())["samples"]) == 6


def test_the_registered_version_is_the_model_of_the_run(finished, tmp_path):
    config, result = finished
    registry = Registry(config.tracking.uri)

    version = registry.resolve("models:/small/1")
    folder = registry.download_model(version, tmp_path / "downloaded")

    assert version.run_id == result.run_id
    assert (folder / "model.keras").read_bytes() == (result.output_dir / "model.keras").read_bytes()


def test_the_saved_model_takes_raw_pixels_and_knows_its_labels(finished):
    _, result = finished
    parts = load_model(result.output_dir / "model.keras")
    images = np.stack([np.full((5, 7, 3), 20, np.uint8), np.full((5, 7, 3), 230, np.uint8)])

    probabilities = np.asarray(parts.model(images, training=False))

    assert parts.labels == ("dark", "light")
    assert probabilities.argmax(axis=1).tolist() == [0, 1]


def test_a_complete_run_is_not_trained_over_unless_told_to(finished):
    config, _ = finished

    for resume in (False, True):
        with pytest.raises(ConfigError, match=r"holds a complete run\. Choose another folder, or give --overwrite"):
            train(config, resume=resume)


def test_a_second_signal_ends_a_run_at_once_and_says_how_to_go_on(tmp_path, data, monkeypatch):
    overrides = ["training.callbacks=['tests.training.user_code:Insists']"]
    config = small_config(tmp_path, data, overrides, epochs=1)
    folder = tmp_path / "run"
    monkeypatch.setenv("INSIST", "1")

    with pytest.raises(StoppedError, match=f"Go on with: .* --config {folder}/config.yaml --resume") as stopped:
        train(config)
    status = json.loads((folder / "status.json").read_text())
    monkeypatch.delenv("INSIST")

    assert status == {"exit_code": 75, "reason": str(stopped.value)}
    assert train(config, resume=True).output_dir == folder


def test_an_unfinished_run_resumes_under_its_own_configuration_only(tmp_path, data):
    config = small_config(tmp_path, data)
    finished_output = train(config).output_dir
    (finished_output / "result.json").unlink()

    with pytest.raises(ConfigError, match="Give --resume to go on"):
        train(config)
    changed = small_config(tmp_path, data, ["training.learning_rate=0.5", "preprocessing.image_size=[4,4]"])
    with pytest.raises(
        ConfigError, match=r"(?s)keys differ.*preprocessing.image_size.*training.learning_rate: 0.01 -> 0.5"
    ):
        train(changed, resume=True)

    longer = train(small_config(tmp_path, data, ["training.epochs=3"]), resume=True)

    state = json.loads((max((finished_output / "checkpoints").iterdir()) / "state.json").read_text())["state"]
    assert [epoch["epoch"] for epoch in state["history"]] == [0.0, 1.0, 2.0]
    # The run was registered already: it stays one version.
    assert longer.model_version == "1"


def test_a_run_that_misses_its_criteria_is_kept_but_not_registered(tmp_path, data):
    config = small_config(tmp_path, data, ["tracking.min_metrics={val_accuracy: 1.01}", "training.epochs=1"])

    with pytest.raises(GateError, match=r"val_accuracy: expected at least 1.01, received .* not registered"):
        train(config)

    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["model_version"] is None
    assert (tmp_path / "run" / "model.keras").exists()
    assert json.loads((tmp_path / "run" / "status.json").read_text())["exit_code"] == 3


def test_corrupt_samples_are_skipped_with_a_warning_and_counted(tmp_path, caplog):
    data = write_class_folders(tmp_path / "data")
    (data / "dark" / "zero.png").write_bytes(b"")
    (data / "light" / "text.jpg").write_text("no image")
    config = small_config(
        tmp_path, data, ["data.max_corrupt_fraction=0.2", "data.validation_path=" + str(data), "training.epochs=1"]
    )

    train(config)

    assert "skipped corrupt sample dark/zero.png" in caplog.text
    state = json.loads((next((tmp_path / "run" / "checkpoints").iterdir()) / "state.json").read_text())["state"]
    assert state["history"][0]["corrupt_samples"] == 2
    assert state["samples_seen"] == 24


def test_too_many_corrupt_samples_stop_the_run(tmp_path):
    data = write_class_folders(tmp_path / "data")
    for index in range(6):
        (data / "dark" / f"bad{index}.png").write_bytes(b"no image")
    config = small_config(tmp_path, data, ["data.max_corrupt_fraction=0.05"])

    with pytest.raises(
        TrainingError, match=r"max_corrupt_fraction: expected at most 5.0% unreadable samples, received"
    ):
        train(config)

    assert json.loads((tmp_path / "run" / "status.json").read_text())["exit_code"] == 1


def test_a_loss_that_is_not_finite_stops_the_run_with_what_to_do(tmp_path, data):
    config = small_config(
        tmp_path, data, ["training.learning_rate=1e30", "training.optimizer=sgd", "training.epochs=5"]
    )

    with pytest.raises(
        TrainingError, match=r"expected a finite loss, received (nan|inf). Lower training.learning_rate"
    ):
        train(config)


def test_models_and_data_may_be_functions_of_the_user(tmp_path):
    config = small_config(tmp_path, "tests.training.user_code:data", ["model.name=tests.training.user_code:model"])

    result = train(config)

    assert load_model(result.output_dir / "model.keras").labels == ("low", "high")


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("model.name=resnet5", ConfigError, "unknown model 'resnet5'. Did you mean 'resnet50'"),
        ("data.path=/nowhere/at/all", DataError, "nowhere"),
        ("model.weights=missing.keras", ConfigError, "found no file at 'missing.keras'"),
        ("training.monitor=val_f1", ConfigError, "training.monitor: expected one of .*val_accuracy"),
        ("training.monitor=test_loss", ConfigError, "training.monitor: expected a metric of every epoch"),
        (
            "tracking.min_metrics={acuracy: 1}",
            ConfigError,
            "tracking.min_metrics: expected one of .*, received 'acuracy'",
        ),
        (
            "model.name=no.such.module:f",
            ConfigError,
            "model.name: expected package.module:function that can be imported",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(tmp_path, data, override, error, message):
    with pytest.raises(error, match=message):
        train(small_config(tmp_path, data, [override]))


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains_and_saves_a_model_that_answers_alike(tmp_path, data, precision):
    allowed = ["training.allow_slow_precision=true", "training.epochs=12"]
    result = train(small_config(tmp_path, data, [f"training.precision={precision}", *allowed]))

    parts = load_model(result.output_dir / "model.keras")
    probabilities = np.asarray(parts.model(np.full((1, 9, 9, 3), 250, np.uint8), training=False))
    assert probabilities.dtype == np.float32
    assert probabilities.argmax() == 1


def test_a_run_leaves_keras_with_the_precision_that_it_had(tmp_path, data):
    before = keras.config.dtype_policy().name

    train(small_config(tmp_path, data, ["training.precision=mixed_bfloat16", "training.epochs=1"]))

    assert keras.config.dtype_policy().name == before == "float32"
