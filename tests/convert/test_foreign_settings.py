"""What is said of a model that was trained elsewhere; no TensorFlow."""

import pytest
import yaml

from tfpipe.convert.foreign_settings import is_foreign, read_foreign_config
from tfpipe.core.errors import ConfigError


@pytest.fixture
def write(tmp_path):
    def write(**values):
        path = tmp_path / "model.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


def test_without_a_file_everything_is_found_inside_the_model():
    config = read_foreign_config(None, [])

    assert (config.task, config.labels, config.preprocessing.normalization) == ("auto", None, "auto")


def test_the_command_line_wins_over_the_file(write):
    path = write(labels=[0, 1], conversion={"opset": 17})

    config = read_foreign_config(path, ["conversion.opset=18", "preprocessing.normalization=raw"])

    assert (config.labels, config.conversion.opset, config.preprocessing.normalization) == (("0", "1"), 18, "raw")


def test_labels_may_stand_in_a_text_file_beside_the_yaml_file(write, tmp_path):
    (tmp_path / "names.txt").write_text("\ufeffcat\n\n dog \n", encoding="utf-8")

    assert read_foreign_config(write(labels="names.txt"), []).labels == ("cat", "dog")


@pytest.mark.parametrize(
    ("values", "sentences"),
    [
        ({"labls": ["a"], "task": "images"}, ["labls: unknown key. Did you mean 'labels'?", "task: expected "]),
        ({"labels": ["a", "a"]}, ["labels: expected different names"]),
        ({"labels": "gone.txt"}, ["labels: expected a list of names or a text file with one a line, found none"]),
        ({"preprocessing": {"mean": [0.5]}}, ["preprocessing.mean and .std are given with normalization=fixed"]),
        (
            {"preprocessing": {"normalization": "fixed", "mean": [0.5, 0.5], "std": [1.0]}},
            ["expected 1 or 3 numbers each"],
        ),
        ({"training": {"epochs": 3}}, ["training: unknown key."]),
    ],
)
def test_what_cannot_be_used_is_told_at_once(write, values, sentences):
    with pytest.raises(ConfigError) as caught:
        read_foreign_config(write(**values), [])

    for sentence in sentences:
        assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("files", "model", "expected"),
    [
        (["a.keras"], "a.keras", True),
        (["model.keras"], "model.keras", True),
        (["model.keras", "config.yaml"], "model.keras", False),
        (["model.keras", "config.yaml"], "", False),
        (["saved_model.pb"], "", True),
        ([], "gone.keras", False),
        ([], "", False),
    ],
)
def test_a_model_is_foreign_where_training_left_nothing_beside_it(tmp_path, files, model, expected):
    for name in files:
        (tmp_path / name).touch()

    assert is_foreign(tmp_path / model) == expected


@pytest.mark.parametrize("model", [None, "models:/small/1", "models:/small@champion"])
def test_registered_models_are_not_foreign(model):
    assert not is_foreign(model)
