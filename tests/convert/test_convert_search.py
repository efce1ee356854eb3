"""`--search` on a really trained model, through the public function."""

import keras
import pytest

from tfpipe.convert.pipeline import convert
from tfpipe.convert.search import Budget
from tfpipe.core.bundle import open_bundle
from tfpipe.core.errors import ConfigError, GateError
from tfpipe.inference.opening import open_model

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

QUICK = ("conversion.latency_runs=1", "conversion.http_hop=false")


@pytest.fixture(scope="module")
def found(trained, tmp_path_factory):
    """The bundle of a search of six trials."""
    output = tmp_path_factory.mktemp("searched") / "bundle"
    convert(trained[1].output_dir, output=output, overrides=QUICK, search=Budget(max_trials=6, max_s=120))
    return open_bundle(output)


def test_the_fastest_way_that_passed_is_served_by_default(found):
    manifest = found.manifest
    best = found.executions()[0]

    assert manifest.default_variant == best.variant
    invariant = [one for one in manifest.executions if one.passed and one.batch_invariant]
    assert best in invariant
    assert best.latency_ms["1"]["p50"] <= 1.02 * min(one.latency_ms["1"]["p50"] for one in invariant)


def test_every_variant_of_the_bundle_has_a_measured_way_to_be_run(found):
    manifest = found.manifest

    assert {"fp32", "fp16", "int8"} <= manifest.variants.keys() <= {one.variant for one in manifest.executions}
    for execution in manifest.executions:
        assert execution.metrics["accuracy"] > 0.5
        assert execution.latency_ms["8"]["p99"] > 0
    for name, variant in manifest.variants.items():
        assert (found.folder / variant.file).is_file()
        assert variant.precision == name.partition("_")[0]
        assert open_model(found, variant).output_names == ["probabilities"]


def test_the_report_has_every_trial_and_why_it_lost(found):
    page = (found.folder / "report.md").read_text(encoding="utf-8")

    table = page.partition("## What was tried")[2].partition("\n## ")[0]
    assert table.count("\n| ") == 1 + 6
    assert table.count("**chosen**") == 1
    assert "The search ended after 6 trials, the most that --max-trials allows." in table


def test_with_a_precision_only_that_may_be_chosen(trained, tmp_path):
    result = convert(
        trained[1].output_dir, precision="fp16", output=tmp_path / "bundle", overrides=QUICK,
        search=Budget(max_trials=3, max_s=60),
    )  # fmt: skip

    manifest = result.bundle.manifest
    assert manifest.default_variant == manifest.executions[0].variant == "fp16"
    assert manifest.variants.keys() == {"fp32", "fp16"}


def test_where_nothing_that_was_asked_for_passes_there_is_no_bundle(trained, tmp_path):
    with pytest.raises(GateError, match=r"latency: expected a 95th percentile of at most 1e-06 ms"):
        convert(
            trained[1].output_dir, precision="int8", output=tmp_path / "bundle",
            overrides=[*QUICK, "conversion.max_p95_ms=1e-6"], search=Budget(max_trials=2, max_s=60),
        )  # fmt: skip

    page = (tmp_path / "bundle-report.md").read_text(encoding="utf-8")
    assert "| fp32, cpu |" in page
    assert "**chosen**" not in page


def test_a_model_of_named_tensors_has_no_score_to_search_by(tmp_path):
    left, right = keras.Input((3,), name="left"), keras.Input((3,), name="right")
    keras.Model([left, right], keras.layers.Dense(2)(left + right)).save(tmp_path / "sum.keras")

    with pytest.raises(ConfigError, match="--search: expected a model with a score to search by, received one of nam"):
        convert(tmp_path / "sum.keras", output=tmp_path / "bundle", search=Budget())
