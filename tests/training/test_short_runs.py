"""Runs that try, overfit or search: over less than the whole of the data, and leaving little behind."""

import json

import pytest
import yaml

from tests.stores import is_untouched
from tests.training.small_runs import small_config, small_values, write_class_folders
from tfpipe.core.errors import ConfigError, DataError
from tfpipe.lr_find import main as lr_find
from tfpipe.train import main as train_command
from tfpipe.train import train
from tfpipe.training.workspace import newest_unfinished

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow, pytest.mark.timeout(500)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_class_folders(tmp_path_factory.mktemp("data"), num_samples=44)


def given(tmp_path, data, **training):
    path = tmp_path / "given.yaml"
    path.write_text(yaml.safe_dump(small_values(tmp_path, data, **training)))
    return str(path)


def state_of(run):
    return json.loads((max((run / "checkpoints").iterdir()) / "state.json").read_text())["state"]


# A run that tries everything ------------------------------------------------------------------------------------------


def test_a_fast_dev_run_takes_one_batch_through_everything_and_leaves_the_real_run_free(tmp_path, data, capsys):
    overrides = [f"data.test_path={data}", "training.warmup_epochs=2"]
    config = small_config(tmp_path, data, overrides, epochs=9)

    assert train_command(["--config", str(tmp_path / "config.yaml"), "--fast-dev-run", *overrides]) == 0
    assert "nothing was tracked or registered" in capsys.readouterr().err
    result = train(config, fast_dev_run=True)

    assert result.output_dir == tmp_path / "fast-dev-run"
    assert {path.name for path in result.output_dir.iterdir()} >= {
        "model.keras", "model.json", "calibration", "validation.json", "report.html", "result.json",
        "checkpoints"}  # fmt: skip
    assert {"loss", "val_loss", "test_loss"} <= result.metrics.keys()
    state = state_of(result.output_dir)
    assert (state["step"], state["samples_seen"], len(state["history"])) == (1, 6.0, 1)
    assert len(json.loads((result.output_dir / "validation.json").read_text())["samples"]) == 6
    # Neither tracked nor registered, and nothing where the real run goes.
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "fast-dev-run", "mlflow.db"}
    assert is_untouched(tmp_path)
    (result.output_dir / "result.json").unlink()
    with pytest.raises(ConfigError, match="found none"):
        newest_unfinished(f"{tmp_path}/" + "${now:%Y}")


def test_a_fast_dev_run_shows_what_is_wrong_before_the_real_one(tmp_path, data):
    config = small_config(tmp_path, data, ["training.class_weights={drak: 2}"])

    with pytest.raises(ConfigError, match=r"received 'drak'\. Did you mean 'dark'\?"):
        train(config, fast_dev_run=True)


def test_images_under_a_task_of_texts_are_refused_with_the_task_that_they_go_with(tmp_path, data):
    with pytest.raises(DataError, match=r"expected text files .*\(.png\)\. Images go with task=image_classification"):
        train(small_config(tmp_path, data, ["task=text_classification"]))


def test_a_fast_dev_run_is_nothing_to_resume(tmp_path, data, capsys):
    with pytest.raises(SystemExit):
        train_command(["--config", given(tmp_path, data), "--fast-dev-run", "--resume"])

    assert "not allowed with argument" in capsys.readouterr().err


# Few batches ----------------------------------------------------------------------------------------------------------


def test_overfitting_trains_and_validates_on_the_same_samples_until_the_loss_is_gone(tmp_path, data):
    result = train(small_config(tmp_path, data, overfit_batches=1, epochs=30, optimizer="adam", schedule="constant"))

    state = state_of(result.output_dir)
    assert state["step"] == 30
    samples = json.loads((result.output_dir / "validation.json").read_text())["samples"]
    trained_on = json.loads((result.output_dir / "calibration" / "index.json").read_text())
    assert {sample["id"] for sample in samples} == {sample["id"] for sample in trained_on}
    assert len(samples) == 6
    assert result.metrics["val_loss"] < 0.1


def test_limited_validation_is_of_all_classes_and_the_index_tells_of_what(tmp_path, data):
    result = train(small_config(tmp_path, data, limit_validation_batches=1, limit_train_batches=2, epochs=1))

    samples = json.loads((result.output_dir / "validation.json").read_text())["samples"]
    assert len(samples) == 6
    # Class folders are read in order: the first six would be of one class.
    assert {sample["label"] for sample in samples} == {0, 1}
    assert state_of(result.output_dir)["samples_seen"] == 12


# The learning rate ----------------------------------------------------------------------------------------------------


def test_the_finder_suggests_a_rate_and_leaves_nothing_else(tmp_path, data, capsys):
    config = given(tmp_path, data, optimizer="sgd", reference_batch_size=12)
    before = {path.name for path in tmp_path.iterdir()}
    options = ["--config", config, "--steps", "60", "--lowest", "1e-5", "--highest", "1e6"]

    code = lr_find([*options, "--output", str(tmp_path / "alone")])

    assert code == 0
    alone = json.loads((tmp_path / "alone" / "lr_find.json").read_text())
    assert alone["stopped"]
    assert len(alone["losses"]) < 60
    assert 1e-4 < alone["suggestion"] < 10
    assert f"training.learning_rate={alone['suggestion']:.2g}" in capsys.readouterr().out
    assert (tmp_path / "alone" / "lr_find.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == before | {"alone"}
    assert {path.name for path in (tmp_path / "alone").iterdir()} == {"lr_find.png", "lr_find.json"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lowest", "1", "--highest", "0.1"], "expected 0 < lowest < highest, received 1 and 0.1"),
        (["--steps", "3"], "--steps: expected at least 10, received 3"),
        (["training.epoch=3"], "Did you mean 'training.epochs'"),
    ],
)
def test_the_finder_refuses_what_it_cannot_search(tmp_path, data, capsys, options, message):
    assert lr_find(["--config", given(tmp_path, data), *options]) == 2
    assert message in capsys.readouterr().err
