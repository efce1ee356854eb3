import json
from functools import partial

import numpy as np
import pytest
import yaml

from tests.image_files import jpeg, png
from tests.training.small_runs import small_config
from tfpipe.convert.measure import open_validation
from tfpipe.convert.trained import fetch, open_trained, read_samples
from tfpipe.core.errors import CheckpointError, ConfigError, DataError
from tfpipe.decode import decode_image
from tfpipe.models.assembly import load_model
from tfpipe.registry import Registry
from tfpipe.train import train

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

DECODE = partial(decode_image, max_pixels=10_000)


@pytest.fixture
def registry(trained):
    return Registry(trained[0].tracking.uri)


def weights_of(folder):
    return load_model(folder / "model.keras").model.get_weights()


def assert_same_weights(folder, other):
    for one, two in zip(weights_of(folder), weights_of(other), strict=True):
        np.testing.assert_array_equal(one, two)


# Which model.


@pytest.mark.parametrize("uri", ["models:/small/1", "models:/small@champion"])
def test_a_registered_version_is_downloaded(registry, converted, trained, uri, tmp_path):
    folder, version = fetch(uri, registry, None, tmp_path / "model")

    assert version.version == "1"
    assert folder == tmp_path / "model"
    assert_same_weights(folder, trained[1].output_dir)


def test_where_nothing_is_said_the_newest_version_of_the_only_name_is_taken(registry, converted, tmp_path):
    _, version = fetch(None, registry, None, tmp_path / "model")

    assert (version.name, version.version) == ("small", registry.resolve("models:/small").version)


@pytest.mark.parametrize("place", ["", "model.keras"])
def test_an_output_folder_and_its_model_are_the_same_model(registry, trained, tmp_path, place):
    output = trained[1].output_dir

    assert fetch(output / place, registry, None, tmp_path / "model") == (output, None)
    assert fetch(str(output / place), registry, None, tmp_path / "model") == (output, None)


@pytest.mark.parametrize("made", [False, True])
def test_a_path_without_a_model_is_refused(registry, tmp_path, made):
    path = tmp_path / "nothing"
    if made:
        path.mkdir()

    with pytest.raises(ConfigError, match=r"--model: expected models:/NAME/VERSION, .* found none at '.*nothing'\."):
        fetch(path, registry, None, tmp_path / "model")


# A checkpoint.


def checkpoints_of(folder):
    return sorted(path for path in (folder / "checkpoints").iterdir() if path.name.startswith("step-"))


def test_a_checkpoint_of_a_complete_run_has_its_own_weights_and_the_rest_of_the_run(registry, trained, tmp_path):
    output = trained[1].output_dir
    first, last = checkpoints_of(output)[0], checkpoints_of(output)[-1]

    folder, version = fetch(first, registry, None, tmp_path / "one")
    other, _ = fetch(last, registry, None, tmp_path / "two")

    assert version is None
    assert any((a != b).any() for a, b in zip(weights_of(folder), weights_of(other), strict=True))
    opened = open_trained(folder, version, [])
    assert opened.name == f"run-{first.name}"
    assert opened.parts.labels == ("dark", "grey", "light")
    assert len(opened.samples) == 66
    assert len(opened.validation) == 24
    assert opened.card["metrics"].keys() >= {"loss", "val_accuracy"}


def test_a_checkpoint_of_an_interrupted_run_is_as_that_of_a_complete_one(registry, run_copy, tmp_path):
    # What a run has before it ends: its configuration and its checkpoints.
    checkpoint = checkpoints_of(run_copy)[-1]
    whole, _ = fetch(checkpoint, registry, None, tmp_path / "whole")
    for name in ("result.json", "model.keras", "validation.json"):
        (run_copy / name).unlink()

    rebuilt, _ = fetch(checkpoint, registry, None, tmp_path / "rebuilt")

    assert_same_weights(rebuilt, whole)
    one, two = (open_trained(folder, None, []) for folder in (whole, rebuilt))
    assert two.validation == one.validation
    assert [sample.content for sample in two.samples] == [sample.content for sample in one.samples]
    # The normalisation is no weight: it was adapted to the same data again.
    layers = [opened.parts.preprocessing.normalization.get_config() for opened in (one, two)]
    assert layers[0]["mean"] == layers[1]["mean"]
    assert layers[0]["variance"] == layers[1]["variance"]


def test_a_damaged_checkpoint_is_refused(registry, run_copy, tmp_path):
    checkpoint = checkpoints_of(run_copy)[-1]
    arrays = checkpoint / "variables.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-1])

    with pytest.raises(CheckpointError, match=checkpoint.name):
        fetch(checkpoint, registry, None, tmp_path / "model")


def test_a_checkpoint_of_another_model_is_refused(registry, run_copy, tmp_path):
    (run_copy / "result.json").unlink()
    values = yaml.safe_load((run_copy / "config.yaml").read_text())
    values["model"]["name"] = "mlp"
    (run_copy / "config.yaml").write_text(yaml.safe_dump(values))

    with pytest.raises(CheckpointError, match=r"another model"):
        fetch(checkpoints_of(run_copy)[-1], registry, None, tmp_path / "model")


def test_a_checkpoint_without_its_run_is_refused(registry, run_copy, tmp_path):
    (run_copy / "config.yaml").unlink()

    with pytest.raises(ConfigError, match=r"expected the run's config\.yaml in .*, found none"):
        fetch(checkpoints_of(run_copy)[-1], registry, None, tmp_path / "model")


# What lies in the folder.


@pytest.mark.parametrize("name", ["config.yaml", "model.json"])
def test_a_folder_that_lacks_what_training_writes_is_refused(run_copy, name):
    (run_copy / name).unlink()

    with pytest.raises(
        ConfigError, match=rf"expected a trained-model folder, but it lacks {name}\. Give the output_dir"
    ):
        open_trained(run_copy, None, [])


def test_a_model_that_keras_cannot_read_is_refused(run_copy):
    (run_copy / "model.keras").write_bytes(b"no archive")

    with pytest.raises(ConfigError, match=r"model\.keras: expected a model\.keras, received a file that Keras cannot"):
        open_trained(run_copy, None, [])


def test_a_card_that_is_no_json_is_refused(run_copy):
    (run_copy / "model.json").write_text("{")

    with pytest.raises(DataError, match=r"model\.json: expected JSON that training wrote"):
        open_trained(run_copy, None, [])


def test_a_validation_index_of_other_classes_is_refused(run_copy):
    index = json.loads((run_copy / "validation.json").read_text())
    (run_copy / "validation.json").write_text(json.dumps(index | {"labels": ["a", "b", "c"]}))

    with pytest.raises(
        DataError, match=r"validation\.json: expected the classes of the model, \['dark', 'grey', 'light'"
    ):
        open_trained(run_copy, None, [])


def test_overrides_win_over_the_configuration_of_the_run(run_copy):
    assert open_trained(run_copy, None, ["conversion.opset=17"]).config.conversion.opset == 17


def _calibration(folder, contents):
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "index.json").write_text(json.dumps([{"file": name, "label": 0, "id": name} for name in contents]))
    return folder


def test_training_samples_are_read_in_order_as_files_and_pixels(tmp_path):
    contents = {"0001.png": png(1), "0000.jpg": jpeg(0)}

    samples = read_samples(_calibration(tmp_path / "c", contents), DECODE)

    assert [(sample.name, sample.content) for sample in samples] == list(contents.items())
    assert [sample.sample.shape for sample in samples] == [(24, 32, 3)] * 2


def test_a_training_sample_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(
        DataError, match=r"0000\.jpg: expected a training sample for calibration; image: expected a whole"
    ):
        read_samples(_calibration(tmp_path / "c", {"0000.jpg": jpeg()[:-200]}), DECODE)


def test_a_folder_without_training_samples_is_refused(tmp_path):
    with pytest.raises(DataError, match="expected training samples for calibration, found none"):
        read_samples(_calibration(tmp_path / "c", {}), DECODE)


# What training was validated on.


@pytest.mark.parametrize("limit", ["limit_validation_batches", "overfit_batches"])
@pytest.mark.parametrize("apart", [False, True])
def test_a_run_over_less_than_all_data_is_judged_on_what_it_was_validated_on(tmp_path, shades, limit, apart):
    place = [f"data.validation_path={shades}"] if apart else []
    result = train(small_config(tmp_path, shades, place, epochs=1, batch_size=16, **{limit: 1}))

    validation = open_validation(open_trained(result.output_dir, None, ()))

    assert len(validation) == 16
