import pytest

from tfpipe.convert.settings import read_settings
from tfpipe.core.errors import ConfigError

CONFIG = """
data: {path: digits}
conversion: {opset: 17, max_metric_drop: 0.05}
tracking: {uri: "sqlite:///elsewhere.db", registered_model: owls}
training: {epochs: 3}
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG)
    return path


def test_nothing_said_leaves_everything_to_the_trained_model():
    settings = read_settings(None, ())

    assert (settings.overrides, settings.tracking_uri, settings.registered_model) == ((), None, None)


def test_of_a_configuration_the_conversion_section_and_the_store_count(config):
    settings = read_settings(config, ())

    assert settings.overrides == ("conversion.opset=17", "conversion.max_metric_drop=0.05")
    assert (settings.tracking_uri, settings.registered_model) == ("sqlite:///elsewhere.db", "owls")


def test_the_command_line_wins_over_the_file(config):
    given = ["conversion.max_metric_drop=0.01", "tracking.registered_model=cats", "data.path=/data"]

    settings = read_settings(config, given)

    # Later ones win where they are applied.
    assert settings.overrides[-2:] == ("conversion.max_metric_drop=0.01", "data.path=/data")
    assert settings.registered_model == "cats"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs=3", r"training\.epochs: conversion takes conversion\.opset, .*data\.path"),
        ("conversion.opst=18", r"conversion\.opst: unknown key\. Did you mean 'conversion\.opset'\?"),
        ("conversion.opset=16", r"conversion\.opset: .*17"),
        ("conversion.calibration_method=best", r"conversion\.calibration_method: .*minmax"),
        ("conversion.latency_runs=many", r"conversion\.latency_runs"),
        ("max_metric_drop", r"expected key=value, received 'max_metric_drop'"),
        ("=3", r"expected key=value, received '=3'"),
    ],
)
def test_what_cannot_be_used_is_refused_with_what_was_expected(override, message):
    with pytest.raises(ConfigError, match=message):
        read_settings(None, [override])


def test_a_configuration_that_is_wrong_anywhere_is_refused(config):
    config.write_text(CONFIG + "preprocessing: {image_sise: [8, 8]}")

    with pytest.raises(ConfigError, match="image_sise"):
        read_settings(config, ())


def test_a_missing_configuration_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"--config: expected a YAML file, found none at .*gone\.yaml"):
        read_settings(tmp_path / "gone.yaml", ())
