import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings

from tests.strategies import configs
from tfpipe.config import documented_keys, flatten, load_config, parse_config, to_yaml
from tfpipe.core.errors import ConfigError

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


@settings(deadline=None)
@given(config=configs())
def test_the_resolved_yaml_gives_the_same_configuration(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(to_yaml(config))

    assert load_config(path) == config


@pytest.mark.parametrize(
    "name", ["a\x85b", "\u2028", "\u2029 ", "\ufeff", "1e-3", "-.5E+7", "1.e3", "null", " x", "ö 猫"]
)
def test_any_text_comes_back_from_the_resolved_yaml(tmp_path, name):
    config = parse_config(
        {"data": {"path": name}, "tracking": {"tags": {name: name}}, "output_dir": "run"}, where="test"
    )
    (tmp_path / "config.yaml").write_text(to_yaml(config), encoding="utf-8")

    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_loads(path):
    assert load_config(path).task in path.stem


def test_without_a_file_the_digits_classifier_is_configured():
    assert load_config().data.path == "digits"


def test_without_a_file_a_task_begins_from_its_own_configuration():
    texts = load_config(None, ["task=text_classification", "data.path=mine.csv"])

    assert (texts.data.path, texts.model.name, texts.tracking.registered_model) == ("mine.csv", "text_cnn", "messages")
    assert load_config(None, ["task=token_classification"]).task == "token_classification"
    with pytest.raises(ConfigError, match="task: "):
        load_config(None, ["task=text"])


def test_every_problem_is_told_at_once_with_what_was_expected():
    overrides = [
        "training.epoch=3", "training.batch_size=many", "preprocessing.interpolation=bicubic",
        "preprocessing.image_size=[1,2,3]", "training.precision=fp16", "epochs=4", "nonsense=1",
    ]  # fmt: skip

    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides)

    message = str(caught.value)
    for line in (
        "training.epoch: unknown key. Did you mean 'training.epochs'?",
        "epochs: unknown key. Did you mean 'training.epochs'?",
        "nonsense: unknown key. `--help` lists every key.",
        "training.batch_size: expected a valid integer, received 'many'.",
        "preprocessing.image_size: expected 2 values, received [1, 2, 3].",
        "training.precision: expected 'float32', 'mixed_bfloat16', 'mixed_float16' or 'auto', received 'fp16'.",
        "preprocessing.interpolation and preprocessing.antialias: expected that bicubic goes with antialias=true",
    ):
        assert line in message


def test_a_problem_is_told_of_the_file_or_the_command_line_whichever_it_is_from(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("data: {path: digits}\noutput_dir: run\ntraining: {epochs: 2, batch_sise: 3}\n")

    with pytest.raises(ConfigError) as mistyped:
        load_config(None, ["training.epoch=3"])
    with pytest.raises(ConfigError) as both:
        load_config(path, ["training.warmup_epochs=9", "seed=1"])

    assert str(mistyped.value).startswith("command line: 1 problem(s)\n  training.epoch: unknown key.")
    heads = [line for line in str(both.value).splitlines() if not line.startswith(" ")]
    assert sorted(heads) == sorted([f"{path}: 1 problem(s)", "command line: 2 problem(s)"])
    assert "training.warmup_epochs" in str(both.value).partition("command line: ")[2]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["preprocessing.interpolation=nearest", "preprocessing.antialias=true"], "nearest goes with antialias=false"),
        (["preprocessing.normalization=fixed"], "mean and std are given with normalization=fixed"),
        (["preprocessing.mean=[0.5]", "preprocessing.std=[0.2]"], "mean and std are given with normalization=fixed"),
        (
            ["preprocessing.normalization=fixed", "preprocessing.mean=[0.5, 0.5]", "preprocessing.std=[0.2, 0]"],
            "1 or 3 numbers each, std above 0",
        ),
        (["preprocessing.image_size=64"], "image_size: expected a list in brackets, received 64\\."),
        (["preprocessing.image_size=[0, 4]"], "both at least 1"),
        (["preprocessing.image_size=[4, 5]", "preprocessing.augmentation.quarter_turns=true"], "square image_size"),
        (["training.batch_size=2", "training.accumulation_steps=3"], "accumulation_steps is at most batch_size"),
        (["training.epochs=1", "training.warmup_epochs=2"], "warmup_epochs is at most epochs"),
        (["training.optimizer=adam", "training.weight_decay=0.1"], "weight_decay goes with optimizer=adamw or sgd"),
        (["training.loss=a:b", "training.label_smoothing=0.1"], "label_smoothing goes with the built-in loss"),
        (["training.overfit_batches=1", "training.limit_train_batches=1"], "overfit_batches goes without limits"),
        (["training.class_weights={a: 0}"], "at least one weight is above 0"),
        (["training.rematerialization=segments", "training.sync_batch_norm=true"], "goes without sync_batch_norm"),
        (["model.unfreeze_epochs=[1]"], "unfreeze_epochs goes with freeze_backbone=true"),
        (["model.freeze_backbone=true", "model.unfreeze_epochs=[2, 1]"], "increasing epochs, from 1"),
        (["training.early_stopping_epochs=2", "data.validation_fraction=0"], "a val_\\* monitor goes with validation"),
        (["tracking.min_metrics={test_accuracy: 0.5}"], "test_\\* criteria go with data.test_path"),
    ],
)
def test_impossible_combinations_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, overrides)


def test_a_combination_is_not_judged_by_values_that_were_refused_themselves():
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["preprocessing.interpolation=bicubic", "preprocessing.antialias=maybe"])

    assert "goes with" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.learning_rate=1e-4", ("training.learning_rate", 1e-4)),
        ("tracking.min_metrics={}", ("tracking.min_metrics", {})),
        ("tracking.registered_model=null", ("tracking.registered_model", None)),
        ("preprocessing.image_size=[8, 9]", ("preprocessing.image_size", [8, 9])),
        ("training.epochs=7", ("training.epochs", 7)),
        ("training.max_time=01:30:05", ("training.max_time", 5405.0)),
        ("training.max_time=90", ("training.max_time", 90.0)),
        ("training.class_weights={3: 2}", ("training.class_weights", {"3": 2.0})),
        ("training.class_weights=balanced", ("training.class_weights", {"balanced": 1.0})),
    ],
)
def test_an_override_replaces_the_value_of_the_file(override, expected):
    key, value = expected

    assert flatten(load_config(None, [override, "training.warmup_epochs=0"]))[key] == value


@pytest.mark.parametrize("override", ["training.epochs", "=3", "training.epochs=[", "training.epochs=3: 4"])
def test_an_override_that_is_not_key_value_is_refused(override):
    with pytest.raises(ConfigError, match=r"expected (key=value|a YAML value)"):
        load_config(None, [override])


def test_the_environment_is_interpolated(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")

    assert load_config().tracking.uri == "http://127.0.0.1:1"


def test_a_variable_that_is_not_set_is_named():
    with pytest.raises(ConfigError, match="NO_SUCH_VARIABLE"):
        load_config(None, ["output_dir=${oc.env:NO_SUCH_VARIABLE}"])


def test_a_missing_file_is_named_with_the_nearest(tmp_path):
    (tmp_path / "flowers.yaml").touch()

    with pytest.raises(ConfigError, match=r"found none at .*flower.yaml'. Did you mean .*flowers.yaml'"):
        load_config(tmp_path / "flower.yaml")


@pytest.mark.parametrize("content", ["a: [", "- 1\n- 2", "\x00", "just text"])
def test_a_file_that_is_no_configuration_is_refused(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_text(content)

    with pytest.raises(ConfigError):
        load_config(path)


def test_what_is_no_mapping_is_refused():
    with pytest.raises(ConfigError, match="data: expected"):
        parse_config({"data": "digits"}, where="here")


def test_help_documents_every_key():
    done = subprocess.run(
        [sys.executable, "-m", "tfpipe.train", "--help"], capture_output=True, text=True, check=True, timeout=60
    )

    for key in flatten(load_config()):
        assert f"  {key}: " in done.stdout
    assert documented_keys() in done.stdout
