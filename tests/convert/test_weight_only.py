"""Weights of 4 and 8 bits, made by the real second environment where scripts/weight_only_env.sh has made it."""

import json
import shutil
import sys

import numpy as np
import pytest

from tests.convert.text_networks import graph_of_family, graph_of_network, labelled_rows, onnx_answers, trained_network
from tests.training.small_text_runs import text_run_config, write_texts
from tfpipe.conversion_settings import ConversionConfig
from tfpipe.convert.candidate import Candidate
from tfpipe.convert.measure import is_batch_invariant
from tfpipe.convert.pipeline import convert
from tfpipe.convert.weight_only import FORMS, Form, open_environment, to_weight_only, weight_only_variants
from tfpipe.convert.weights import list_weights, weight_bytes
from tfpipe.core.errors import ConfigError, ConversionError
from tfpipe.scoring import BundleScorer
from tfpipe.train import train

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

MISSING = "no environment for weight-only quantisation here; scripts/weight_only_env.sh makes it"


@pytest.fixture(scope="module")
def environment():
    try:
        return open_environment(ConversionConfig(weight_only="int4"))
    except ConfigError:
        pytest.skip(MISSING)


@pytest.fixture(scope="module")
def learnt():
    """A small BERT that has learnt something, with rows that it has not seen and their labels."""
    return graph_of_network(trained_network("bert")), *labelled_rows(300, seed=2)


@pytest.mark.parametrize(("form", "agreement", "dtypes"), [("int4", 0.93, {"int4", "int8"}), ("int8", 0.99, {"int8"})])
def test_a_transformer_that_has_learnt_something_still_knows_it(environment, learnt, form, agreement, dtypes):
    graph, rows, labels = learnt
    reference = onnx_answers(graph, rows)

    quantized, count = to_weight_only(environment, graph, FORMS[form])

    received = onnx_answers(quantized, rows)
    assert (received.argmax(axis=1) == reference.argmax(axis=1)).mean() >= agreement
    assert (received.argmax(axis=1) == labels).mean() >= (reference.argmax(axis=1) == labels).mean() - 0.02
    # Query, key, value and output of attention, two of the feed-forward part, and the pooler's.
    assert count == sum(node.op_type == "MatMulNBits" for node in quantized.graph.node) >= 6
    assert set(list_weights(quantized, FORMS[form].name, {})["converted"].values()) == dtypes
    assert weight_bytes(quantized) < 0.4 * weight_bytes(graph)
    # Each row alone, and all together.
    alone = np.concatenate([onnx_answers(quantized, row[None]) for row in rows[:8]])
    assert is_batch_invariant(float(np.abs(alone - received[:8]).max()))


def test_a_column_shorter_than_a_block_is_not_filled_up_with_zeros(environment, learnt):
    # Columns of 32 and 64; blocks would be of 128.
    quantized, _ = to_weight_only(environment, learnt[0], FORMS["int8"])

    blocks = {a.i for node in quantized.graph.node for a in node.attribute if a.name == "block_size"}
    assert blocks == {32}
    # A byte a weight, and 4 of a scale for 32.
    assert weight_bytes(quantized) < 0.36 * weight_bytes(learnt[0])


def test_every_stored_weight_is_listed_as_converted_or_kept_with_its_reason(environment, learnt):
    quantized, _ = to_weight_only(environment, learnt[0], FORMS["int4"])

    listed = list_weights(quantized, "int4", {})

    floats = {t.name for t in quantized.graph.initializer if t.data_type == 1 and not t.name.endswith("scale")}
    assert {name for name in floats if not name.endswith("scales")} == set(listed["kept"])
    assert all(reason.startswith("float32: ") for reason in listed["kept"].values())


def test_a_bundle_gets_the_variant_which_is_compared_scored_and_judged(environment, tmp_path):
    model = {"name": "bert", "width": 32, "feed_forward_width": 64}
    result = train(text_run_config(tmp_path, write_texts(tmp_path / "data", "single"), "single", model=model))

    bundle = convert(
        result.output_dir, precision="fp16", output=tmp_path / "bundle",
        overrides=["conversion.weight_only=int4", "conversion.http_hop=false"],
    ).bundle  # fmt: skip

    variant = bundle.manifest.variants["int4"]
    assert (bundle.manifest.default_variant, variant.file) == ("fp16", "model.int4.onnx")
    assert variant.recipe["quantised_with"]["onnxruntime"] == environment.versions["onnxruntime"]
    assert variant.recipe["block_size"] == 32
    assert set(variant.metrics) >= {"accuracy", "top1_agreement"}
    assert "int4" in [execution.variant for execution in bundle.manifest.executions]
    certificate = json.loads((bundle.folder / "certificate.json").read_text())
    assert {"int4", "int4.batched"} <= {hop["name"] for hop in certificate["hops"]}
    assert "| int4 |" in (bundle.folder / "report.md").read_text()
    # What the service opens.
    scorer = BundleScorer(bundle.folder, precision="int4")
    answers = next(iter(scorer.probabilities([scorer.inference.prepare("a laughing river")])))
    assert answers[0].sum() == pytest.approx(1, abs=1e-5)


def test_a_model_without_products_of_stored_weights_is_refused(environment):
    fp32 = Candidate("fp32", "fp32", graph_of_family("text_cnn"), {})

    with pytest.raises(ConversionError, match=r"expected a model with products of stored weights \(MatMul\)"):
        weight_only_variants(environment, fp32, ConversionConfig(weight_only="int8"))


def test_a_quantiser_that_fails_is_told_with_its_last_word(environment, learnt):
    with pytest.raises(ConversionError, match=r"expected a graph with 3-bit weights, but .* says: "):
        to_weight_only(environment, learnt[0], Form("int3", 3, 32))


def test_without_the_environment_the_command_that_makes_it_is_told(tmp_path):
    config = ConversionConfig(weight_only="int4", weight_only_python=str(tmp_path / "python"))

    with pytest.raises(ConfigError) as caught:
        open_environment(config)

    assert "expected a second environment's Python at " in str(caught.value)
    assert "with: scripts/weight_only_env.sh" in str(caught.value)


def test_an_environment_that_lacks_the_libraries_is_told_with_what_it_says(tmp_path):
    """A Python of its own, without a package."""
    python = tmp_path / "bare" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable)
    (tmp_path / "bare" / "pyvenv.cfg").write_text(f"home = {python.resolve().parent}\n")

    with pytest.raises(ConfigError, match=r"says: ModuleNotFoundError: No module named .*weight_only_env\.sh"):
        open_environment(ConversionConfig(weight_only="int8", weight_only_python=str(python)))


def test_nothing_is_needed_where_nothing_is_asked_for():
    config = ConversionConfig(weight_only_python="/nowhere")

    assert weight_only_variants(open_environment(config), Candidate("fp32", "fp32", None, {}), config) == []
