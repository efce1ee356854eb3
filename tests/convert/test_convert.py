"""A really trained model through the public function, and what that refuses."""

import hashlib
import json
import re
import shutil

import keras
import numpy as np
import onnx
import pytest
from mlflow import MlflowClient

from tests.training.small_runs import write_class_folders
from tfpipe.convert.pipeline import convert
from tfpipe.convert.rewrites.opset import opset_of
from tfpipe.core.bundle import open_bundle, read_golden
from tfpipe.core.certificate import Certificate
from tfpipe.core.errors import ConfigError, ConversionError, DataError, GateError, RegistryError
from tfpipe.core.parity import BOUNDS, assert_parity
from tfpipe.core.statistics import Statistics
from tfpipe.decode import decode_image
from tfpipe.export import KerasReference, preprocessing_from_json
from tfpipe.models.assembly import load_model
from tfpipe.ort import open_session
from tfpipe.registry import Registry
from tfpipe.verify.saved_model import load_saved_model

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

QUICK = ("conversion.latency_runs=1", "conversion.http_hop=false")


@pytest.fixture(scope="module")
def folder(converted):
    return converted.bundle.folder


@pytest.fixture(scope="module")
def reference(trained):
    return KerasReference(load_model(trained[1].output_dir / "model.keras"))


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


# What a bundle holds.


def test_the_bundle_is_complete_and_sealed(converted, folder):
    manifest = open_bundle(folder).manifest

    assert left_in(folder) == [
        "bundle.json", "bundle.json.sha256", "certificate.json", "generated", "golden", "model.fp16.onnx",
        "model.fp32.onnx", "model.int8.onnx", "preprocess.onnx", "preprocessing.json", "report.html", "report.md",
        "saved_model", "statistics.json",
    ]  # fmt: skip
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files - {"bundle.json", "bundle.json.sha256"} == manifest.files.keys()
    assert converted.bundle.sha256 == hashlib.sha256((folder / "bundle.json").read_bytes()).hexdigest()


def test_statistics_are_those_of_training_samples_and_of_answers_to_validation_samples(converted, folder):
    found = Statistics.from_json((folder / "statistics.json").read_text(), where="here")

    manifest = converted.bundle.manifest
    features = {feature.name: feature for feature in found.features}
    assert found.inputs_from == f"{sum(features['width'].counts)} training samples"
    assert (features["width"].mean, features["height"].mean) == (13, 18)
    # Noise about three greys; see `shades`.
    assert features["brightness"].mean == pytest.approx(127, abs=40)
    assert features["red_mean"].mean == pytest.approx(features["brightness"].mean, abs=2)
    label = features["label"]
    assert found.predictions_from == f"{sum(label.counts)} validation samples"
    assert label.categories[:-1] == manifest.labels
    assert all(label.counts[:-1])
    assert 1 / 3 < features["confidence"].mean <= 1


def test_the_manifest_says_where_the_model_comes_from(trained, converted):
    config, result = trained
    manifest = converted.bundle.manifest

    assert (manifest.model_name, manifest.model_version) == ("small", "1")
    assert (manifest.task, manifest.labels) == ("image_classification", ("dark", "grey", "light"))
    assert manifest.training["run_id"] == result.run_id
    assert manifest.training["config"]["model"] == config.model.model_dump(mode="json")
    assert manifest.training["metrics"]["val_accuracy"] == result.metrics["val_accuracy"]
    assert len(manifest.training["data_fingerprint"]) == 64
    assert manifest.measured_on["library_versions"]["onnxruntime"]
    assert manifest.default_variant == "int8"


def test_every_variant_is_measured(converted, folder):
    variants = converted.bundle.manifest.variants

    assert variants.keys() == {"fp32", "fp16", "int8"}
    for name, variant in variants.items():
        assert variant.file == f"model.{name}.onnx"
        assert variant.size_bytes == (folder / variant.file).stat().st_size
        assert 0.9 < variant.metrics["accuracy"] <= 1
        assert variant.latency_ms.keys() == {"1", "8"}
        assert variant.batch_invariant
        assert variant.weights["converted"]
    assert variants["fp16"].size_bytes <= 0.51 * variants["fp32"].size_bytes
    assert variants["int8"].size_bytes <= 0.50 * variants["fp32"].size_bytes
    assert variants["int8"].recipe["activations"] == "uint8"
    # 66 training samples: fewer than the 200 that would be used.
    assert variants["int8"].recipe["calibration_samples"] == 66


def test_fp32_accuracy_is_what_training_measured(trained, converted):
    measured = converted.bundle.manifest.variants["fp32"].metrics["accuracy"]

    assert measured == pytest.approx(trained[1].metrics["val_accuracy"])


def test_each_file_says_what_it_is(folder):
    for name in ("fp32", "fp16", "int8"):
        properties = {entry.key: entry.value for entry in onnx.load(folder / f"model.{name}.onnx").metadata_props}
        assert (properties["precision"], properties["graph"]) == (name, "model")
        assert (properties["model_name"], properties["model_version"]) == ("small", "1")
        assert json.loads(properties["labels"]) == ["dark", "grey", "light"]


def test_golden_samples_are_training_files_with_keras_answers(converted, folder, trained, reference):
    golden = read_golden(converted.bundle)

    assert len(golden) == 8
    for sample in golden:
        content = (folder / sample.file).read_bytes()
        kept = trained[1].output_dir / "calibration" / sample.file.removeprefix("golden/")
        assert content == kept.read_bytes()
        np.testing.assert_allclose(sample.probabilities, reference.probabilities(decode_image(content)), atol=1e-6)


def test_every_variant_answers_raw_files_as_keras_does(folder, shades, reference):
    preprocess = open_session(folder / "preprocess.onnx", provider="cpu")
    files = sorted(shades.rglob("*.png"))[::7]
    pixels = [decode_image(path.read_bytes()) for path in files]
    rows = np.stack([preprocess.run({"image": image})["input"] for image in pixels])
    expected = np.stack([reference.probabilities(image) for image in pixels])

    for name in ("fp32", "fp16", "int8"):
        received = open_session(folder / f"model.{name}.onnx", provider="cpu").run({"input": rows})["probabilities"]
        if name in BOUNDS:
            assert_parity(received, expected, BOUNDS[name], where=name)
        assert (received.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.9


def test_the_saved_model_has_the_signatures_of_tensorflow_serving(folder, shades, reference):
    signatures = load_saved_model(folder / "saved_model" / "1").signatures
    files = sorted(shades.rglob("*.png"))[:3]
    contents = [path.read_bytes() for path in files]
    pixels = np.stack([decode_image(content) for content in contents])
    expected = np.stack([reference.probabilities(image) for image in pixels])
    rows = np.stack([reference.rows(image) for image in pixels])
    given = {
        "serving_default": {"image_bytes": np.array(contents, object)},
        "pixels": {"pixels": pixels},
        "tensor": {"input": rows},
    }

    assert signatures.keys() == given.keys()
    for name, inputs in given.items():
        answer = {key: value.numpy() for key, value in _call(signatures[name], inputs).items()}
        assert answer.keys() == {"probabilities", "label", "score"}
        assert_parity(answer["probabilities"], expected, BOUNDS["fp32"], where=name)
        labels = [("dark", "grey", "light")[index].encode() for index in expected.argmax(axis=1)]
        assert answer["label"].tolist() == labels
        np.testing.assert_allclose(answer["score"], expected.max(axis=1), atol=1e-4)


def _call(signature, inputs):
    import tensorflow as tf

    return signature(**{name: tf.constant(value) for name, value in inputs.items()})


def test_the_preprocessing_can_be_read_back(folder, trained, reference):
    preprocessing, config = preprocessing_from_json((folder / "preprocessing.json").read_text(encoding="utf-8"))
    image = np.random.default_rng(0).integers(0, 256, (30, 17, 3), dtype=np.uint8)

    assert config == trained[0].preprocessing
    np.testing.assert_allclose(preprocessing.rows(image[None])[0], reference.rows(image), atol=1e-5)


def test_the_report_has_the_figures_of_the_manifest(converted, folder):
    page = (folder / "report.md").read_text(encoding="utf-8")

    assert page.startswith("# Conversion of small version 1\n\n**int8 passed**")
    for variant in converted.bundle.manifest.variants.values():
        assert f"{variant.size_bytes / 1e6:.3f} MB" in page
        assert f"{variant.metrics['accuracy']:.2%}" in page
    for hop in (
        "pixels -> preprocess.onnx",
        "Keras's rows -> model.fp16.onnx",
        "image_bytes -> SavedModel serving_default",
    ):
        assert f"| {hop} |" in page
    assert "`python -m serving --model models:/small/1`" in page


def test_every_variant_is_scored_and_timed_once(converted, folder):
    page = (folder / "report.md").read_text(encoding="utf-8")

    tried = page.partition("## What was tried")[2].partition("\n## ")[0]
    # Processors without VNNI have a longer title.
    for name, title in (("fp32", "fp32"), ("int8", r"int8 \(minmax[^|]*\)")):
        latency = next(one for one in converted.bundle.manifest.executions if one.variant == name).latency_ms
        score = converted.bundle.manifest.variants[name].metrics["accuracy"]
        times = r" \| ".join(f"{time:.3f}" for time in (latency["1"]["p50"], latency["1"]["p95"], latency["8"]["p50"]))
        assert re.search(rf"\| {title}, cpu \| {score:.2%} \| {times} \|", tried)


# Where it goes.


def test_the_figures_of_a_bundle_are_metrics_of_its_run(trained, converted):
    config, result = trained
    metrics = MlflowClient(config.tracking.uri).get_run(result.run_id).data.metrics

    variants = converted.bundle.manifest.variants
    assert metrics["conversion/int8/accuracy"] == variants["int8"].metrics["accuracy"]
    assert metrics["conversion/fp32/size_bytes"] == variants["fp32"].size_bytes
    assert metrics["certificate/http/agreement"] == 1.0
    assert metrics["certificate/fp16/max_abs_diff"] < 0.02


def test_the_first_bundle_of_a_name_is_attached_and_becomes_champion(trained, converted, tmp_path):
    registry = Registry(trained[0].tracking.uri)
    version = registry.resolve("models:/small@champion")

    assert converted.is_champion
    assert (version.version, version.bundle_sha256) == ("1", converted.bundle.sha256)
    assert open_bundle(registry.download_bundle(version, tmp_path)).sha256 == converted.bundle.sha256


def test_a_bundle_of_a_later_version_waits_to_be_promoted(store, later_version, tmp_path):
    # The newest version of the only registered name is what is converted where nothing is said.
    later = convert(precision="fp16", output=tmp_path / "later", overrides=[f"tracking.uri={store}", *QUICK])

    registry, number = Registry(store), later_version.version
    assert (later.version.version, later.is_champion) == (number, False)
    assert later.bundle.manifest.default_variant == "fp16"
    assert later.bundle.manifest.variants.keys() == {"fp32", "fp16"}
    assert left_in(tmp_path / "later" / "saved_model") == [number]
    assert registry.resolve("models:/small@champion").version == "1"
    assert registry.resolve(f"models:/small/{number}").bundle_sha256 == later.bundle.sha256


def test_a_path_is_converted_without_a_registry(run_copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    result = convert(run_copy / "model.keras", precision="fp32", overrides=QUICK)

    assert (result.version, result.is_champion) == (None, False)
    assert result.bundle.folder.resolve() == tmp_path / "bundles" / "small"
    assert result.bundle.manifest.variants.keys() == {"fp32", "fp16"}
    assert (result.bundle.manifest.model_name, result.bundle.manifest.model_version) == ("small", None)
    assert not (tmp_path / "mlflow.db").exists()


# The gate.


def test_a_path_may_be_attached_to_the_version_that_has_its_model(store, run_copy, later_version, tmp_path):
    overrides = [f"tracking.uri={store}", *QUICK]

    result = convert(run_copy, precision="fp32", output=tmp_path / "bundle", overrides=overrides, attach=True)

    assert result.version.uri == later_version.uri
    assert result.bundle.manifest.model_version == later_version.version
    assert Registry(store).resolve(later_version.uri).bundle_sha256 == result.bundle.sha256


def test_where_no_version_has_the_model_of_a_path_it_is_said_and_attached_to_none(
    run_copy, tmp_path, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)

    result = convert(run_copy, precision="fp32", overrides=QUICK, attach=True)

    assert result.version is None
    assert (
        "found none; train first, or name another store with MLFLOW_TRACKING_URI. The bundle is attached to no version."
        in caplog.text
    )


def test_only_a_path_of_what_was_trained_here_may_be_attached(tmp_path):
    theirs = tmp_path / "theirs.h5"
    theirs.touch()

    for model in (None, "models:/small/1", theirs):
        with pytest.raises(
            ConfigError, match="--attach: expected --model to be the path of a model that was trained h"
        ):
            convert(model, attach=True)


def test_a_failed_gate_leaves_the_report_and_an_older_bundle_as_it_was(run_copy, folder, tmp_path):
    # Ranges taken from one sample are wrong for the others.
    limits = ["conversion.calibration_samples=1", "conversion.max_metric_drop=0", *QUICK]
    # As on any processor.
    limits.append("conversion.reduce_range=false")
    output = shutil.copytree(folder, tmp_path / "out" / "bundle")
    before = open_bundle(output).sha256

    with pytest.raises(GateError) as failure:
        convert(run_copy, output=output, overrides=limits)

    assert failure.value.exit_code == 3
    message = str(failure.value)
    assert "small, int8: accuracy: expected at most 0.00% below fp32's" in message
    assert message.endswith(f"The figures: {output}-report.md")
    assert left_in(output.parent) == ["bundle", "bundle-report.html", "bundle-report.md"]
    assert open_bundle(output).sha256 == before
    page = (output.parent / "bundle-report.md").read_text(encoding="utf-8")
    assert "**int8 failed; no bundle was made.**" in page
    # Both recipes were tried, and their figures are there.
    for recipe in ("minmax", "percentile, depthwise convolutions kept in float32"):
        assert f"| int8 ({recipe}), cpu | " in page
    assert page.count("Try --search") >= 2
    assert "| int8 (asked for) |" in page


def test_a_forced_variant_is_served_by_default_and_what_was_overruled_is_recorded(run_copy, tmp_path):
    # Which fp32 keeps.
    limits = ["conversion.min_size_reduction=0.9", "conversion.latency_runs=1"]

    forced = convert(run_copy, output=tmp_path / "bundle", overrides=limits, force=True).bundle

    weights, file = forced.manifest.forced
    assert weights.startswith("weights: expected at most 10% of fp32's bytes")
    assert file.startswith("file: expected at most 10% of fp32's size")
    assert forced.executions()[0].variant == "int8"
    certificate = Certificate.from_json((tmp_path / "bundle" / "certificate.json").read_text(), where="here")
    assert "int8 on cpu" in certificate.hop("http").title
    assert "was forced (`--force`)" in (tmp_path / "bundle" / "report.md").read_text()


@pytest.fixture(scope="module")
def replaced(trained, folder, tmp_path_factory):
    """A bundle of float32 and a newer operator set, in the place of an older one and of the report of a failure."""
    place = tmp_path_factory.mktemp("replaced")
    older = shutil.copytree(folder, place / "bundle")
    (place / "bundle-report.md").write_text("failed")
    overrides = ["conversion.opset=21", *QUICK]
    return convert(trained[1].output_dir, precision="fp32", output=older, overrides=overrides).bundle


def test_a_bundle_replaces_an_older_one_and_the_report_of_a_failure(replaced):
    assert open_bundle(replaced.folder).sha256 == replaced.sha256
    assert not (replaced.folder / "model.int8.onnx").exists()
    assert left_in(replaced.folder.parent) == ["bundle"]


# Data.


def test_what_the_model_was_trained_on_may_be_gone_where_the_validation_data_are_not(
    run_copy, shades, trained, tmp_path
):
    index = json.loads((run_copy / "validation.json").read_text())
    for sample in index["samples"]:
        target = tmp_path / "kept" / sample["id"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shades / sample["id"], target)
    gone = [f"data.path={tmp_path / 'gone'}", f"data.validation_path={tmp_path / 'kept'}"]

    result = convert(run_copy, output=tmp_path / "bundle", overrides=[*gone, *QUICK])

    accuracy = result.bundle.manifest.variants["fp32"].metrics["accuracy"]
    assert accuracy == pytest.approx(trained[1].metrics["val_accuracy"])


def test_without_any_data_int8_is_refused_with_what_to_give(run_copy, tmp_path):
    gone = f"data.path={tmp_path / 'gone'}"

    with pytest.raises(
        DataError, match=r"which the gate measures accuracy on, cannot be opened: .*gone.*Give their new"
    ):
        convert(run_copy, output=tmp_path / "bundle", overrides=[gone])

    assert left_in(tmp_path) == ["copied-run"]


def test_without_any_data_fp32_is_converted_and_says_that_no_accuracy_was_measured(run_copy, tmp_path):
    gone = f"data.path={tmp_path / 'gone'}"

    result = convert(run_copy, precision="fp32", output=tmp_path / "bundle", overrides=[gone, *QUICK])

    assert [variant.metrics for variant in result.bundle.manifest.variants.values()] == [{}, {}]
    page = (tmp_path / "bundle" / "report.md").read_text(encoding="utf-8")
    assert "- No accuracy was measured: validation data at" in page


def test_validation_data_that_changed_since_training_are_refused(run_copy, tmp_path):
    other = write_class_folders(tmp_path / "other", num_samples=90, classes=("dark", "grey", "light"), seed=1)
    next((other / "dark").iterdir()).rename(other / "dark" / "renamed.png")

    with pytest.raises(
        DataError, match=r"expected the 24 samples that training was validated on, found 23 of them and 67"
    ):
        convert(run_copy, output=tmp_path / "bundle", overrides=[f"data.validation_path={other}"])


# Bad input: one sentence, nothing written.


def test_an_output_folder_with_other_files_is_not_touched(run_copy, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")

    with pytest.raises(ConfigError, match=r"--output: expected a new folder or a bundle to replace, found other files"):
        convert(run_copy, output=tmp_path / "mine")

    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    assert left_in(tmp_path) == ["copied-run", "mine"]


def test_an_output_that_is_a_file_is_not_touched(run_copy, tmp_path):
    (tmp_path / "file").write_text("mine")

    with pytest.raises(ConfigError, match="--output: expected a new folder"):
        convert(run_copy, output=tmp_path / "file")

    assert (tmp_path / "file").read_text() == "mine"


def test_an_unknown_precision_is_refused():
    with pytest.raises(ConfigError, match="--precision: expected fp32, fp16, int8, received 'int4'"):
        convert(precision="int4")


def test_without_a_store_there_is_no_model_to_convert(tmp_path):
    with pytest.raises(RegistryError):
        convert(overrides=[f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"])

    assert left_in(tmp_path) == []


def test_an_unknown_version_is_refused_with_those_that_there_are(trained):
    with pytest.raises(RegistryError, match=r"models:/small/99: expected one of the versions of 'small' \(.*1\)"):
        convert("models:/small/99", overrides=[f"tracking.uri={trained[0].tracking.uri}"])


def test_a_model_with_weights_that_are_no_numbers_is_refused_before_anything_is_written(run_copy, tmp_path):
    model = keras.models.load_model(run_copy / "model.keras")
    kernel = model.get_layer("network").get_layer("logits").kernel
    kernel.assign(np.full(kernel.shape, np.nan, np.float32))
    model.save(run_copy / "model.keras")

    with pytest.raises(ConversionError, match=r"weight 'logits/kernel': expected finite numbers, received \d+ of \d+"):
        convert(run_copy, output=tmp_path / "bundles" / "bundle", overrides=QUICK)

    assert left_in(tmp_path / "bundles") == []


def test_a_newer_operator_set_is_that_of_every_file(replaced):
    versions = {path.name: opset_of(onnx.load(path)) for path in replaced.folder.glob("*.onnx")}

    assert versions == dict.fromkeys(("preprocess.onnx", "model.fp32.onnx", "model.fp16.onnx"), 21)
    assert replaced.manifest.variants["fp32"].recipe["opset"] == 21
    assert "convert_opset: " in (replaced.folder / "report.md").read_text(encoding="utf-8")
