"""Texts of each kind of label from files to answers: training, conversion, prediction; each compared with Keras."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.training.small_text_runs import KINDS, MAX_LENGTH, text_run_config, write_texts
from tfpipe.config import load_config
from tfpipe.convert.checkpoint import export_checkpoint
from tfpipe.convert.measure import open_validation
from tfpipe.convert.pipeline import convert
from tfpipe.convert.trained import open_trained
from tfpipe.core.bundle import read_golden
from tfpipe.core.certificate import Certificate
from tfpipe.core.errors import BundleError, ConfigError, DataError
from tfpipe.core.observed import NO_LABEL
from tfpipe.core.parity import BOUNDS
from tfpipe.core.statistics import Statistics
from tfpipe.inference.opening import open_inference
from tfpipe.models.assembly import load_model
from tfpipe.ort import open_session
from tfpipe.predict import predict
from tfpipe.registry import Registry
from tfpipe.scoring import open_scorer
from tfpipe.text.tokenizer import open_saved
from tfpipe.train import train

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow, pytest.mark.timeout(500)]

# Each kind of labels with another model and tokenizer; wide enough for weights to weigh more than scales do.
MADE_OF = {
    "single": ["model.name=bert", "preprocessing.tokenizer_kind=wordpiece", "training.learning_rate=3e-3",
               "training.epochs=20"],
    "multi": ["model.name=text_cnn", "preprocessing.tokenizer_kind=sentencepiece", "preprocessing.vocabulary_size=70",
              "training.epochs=20"],
    "tags": ["model.name=text_cnn", "preprocessing.tokenizer_kind=bpe", "preprocessing.vocabulary_size=400",
             "training.epochs=15"],
}  # fmt: skip
WIDE = ["model.width=32", "model.feed_forward_width=64"]
SCORES = {
    "single": {"loss", "accuracy", "macro_f1"},
    "multi": {"loss", "accuracy", "micro_f1", "macro_f1"},
    "tags": {"loss", "accuracy", "precision", "recall", "f1", "macro_f1"},
}
HEADLINES = {"single": "accuracy", "multi": "micro_f1", "tags": "f1"}
TEXTS = ("", "Anna Berg smiles", "the old river " * 30 + "cries", "👍🏽 naïve Zürich\tweeping in Oslo", "\u200b")


@pytest.fixture(scope="module", params=KINDS)
def finished(request, tmp_path_factory):
    """A complete run: (kind, configuration, result)."""
    root = tmp_path_factory.mktemp(request.param)
    data = write_texts(root / "data", request.param, num_samples=64)
    config = text_run_config(root, data, request.param, [*MADE_OF[request.param], *WIDE, f"data.test_path={data}"])
    return request.param, config, train(config)


@pytest.fixture(scope="module")
def converted(finished, tmp_path_factory):
    """The bundle of the registered version, INT8 included."""
    _, config, _ = finished
    output = tmp_path_factory.mktemp("bundles") / "small-1"
    return convert("models:/small/1", output=output, overrides=[f"tracking.uri={config.tracking.uri}"]).bundle


def keras_probabilities(parts, text):
    """Of one text, by Keras alone, without padding: (rows, classes), or (rows, tokens, tags)."""
    return [np.asarray(parts.model(row[None], training=False))[0] for row in parts.inference().prepare(text).rows]


def test_a_run_leaves_everything_that_conversion_and_people_need(finished):
    kind, config, result = finished
    output = result.output_dir

    assert load_config(output / "config.yaml") == config
    card = json.loads((output / "model.json").read_text())
    assert (card["task"], card["multi_label"]) == (config.task, kind == "multi")
    document = json.loads((output / "result.json").read_text())
    assert document["metrics"] == result.metrics
    assert (document["registered_model"], document["model_version"], document["workers"]) == ("small", "1", 1)
    assert json.loads((output / "status.json").read_text()) == {"exit_code": 0, "reason": "done"}
    for prefix in ("val", "test"):
        assert {name for name in result.metrics if name.startswith(prefix)} == {f"{prefix}_{n}" for n in SCORES[kind]}
    index = json.loads((output / "calibration" / "index.json").read_text())
    assert len(index) == 48
    assert all((output / "calibration" / entry["file"]).read_bytes().decode() for entry in index)
    page = (output / "report.html").read_text()
    for name in ("PER", "LOC") if kind == "tags" else ("calm", "glad", "sad"):
        assert f"<tr><th>{name}</th>" in page


def test_a_model_learns_what_words_mean(finished):
    kind, _, result = finished

    # Of three classes, three labels that are there half of the time, or entities among four times as many other words.
    assert result.metrics[f"test_{HEADLINES[kind]}"] > 0.7


def test_the_saved_model_reloads_with_its_tokenizer_and_scores_what_the_run_says(finished, tmp_path):
    kind, config, result = finished
    parts = load_model(result.output_dir / "model.keras")
    version = Registry(config.tracking.uri).resolve("models:/small/1")
    folder = Registry(config.tracking.uri).download_model(version, tmp_path / "downloaded")
    other = load_model(folder / "model.keras")

    assert parts.max_length == MAX_LENGTH
    assert type(parts.task).__name__ == {"single": "SingleLabel", "multi": "MultiLabel", "tags": "Tagging"}[kind]
    assert open_saved(folder / "tokenizer").files == open_saved(result.output_dir / "tokenizer").files
    for text in TEXTS:
        for one, two in zip(keras_probabilities(parts, text), keras_probabilities(other, text), strict=True):
            np.testing.assert_array_equal(one, two)


def test_a_model_is_not_read_without_its_own_tokenizer(finished, tmp_path):
    _, _, result = finished
    run = shutil.copytree(result.output_dir, tmp_path / "run")
    manifest = run / "tokenizer" / "tokenizer.json"
    # Another tokenizer as far as its checksum goes, and a good one by itself.
    manifest.write_text(manifest.read_text() + "\n")

    with pytest.raises(BundleError, match=r"model\.keras: expected the tokenizer that it was trained with"):
        load_model(run / "model.keras")
    shutil.rmtree(run / "tokenizer")
    with pytest.raises(BundleError, match="tokenizer"):
        load_model(run / "model.keras")


def test_a_bundle_of_every_precision_passes_the_gate_with_all_its_hops(finished, converted):
    kind, _, _ = finished
    manifest, report = converted.manifest, (converted.folder / "report.md").read_text()

    assert (manifest.multi_label, manifest.default_variant) == (kind == "multi", "int8")
    assert manifest.variants.keys() == {"fp32", "fp16", "int8"}
    for precision, variant in manifest.variants.items():
        assert variant.metrics.keys() == SCORES[kind] - {"loss"} | {"top1_agreement"}
        assert f"text -> tokenizer -> model.{precision}.onnx" in report
    assert "| text -> token ids |" in report
    assert "SavedModel tensor" in report
    # Byte-level BPE has no Keras layer that a SavedModel could hold.
    assert ("SavedModel serving_default" in report) == (kind != "tags")
    assert manifest.variants["fp32"].golden_max_abs_diff < 1e-4
    assert manifest.variants["fp32"].batch_invariant


def test_statistics_are_of_the_texts_and_of_the_answers(finished, converted):
    found = Statistics.from_json(converted.path("statistics.json").read_text(), where="here")
    kind, manifest = finished[0], converted.manifest

    features = {feature.name: feature for feature in found.features}
    assert set(features) == {"characters", "tokens", "unknown_ratio", "vocabulary", "confidence", "label"}
    assert found.inputs_from == f"{sum(features['characters'].counts)} training samples"
    assert found.predictions_from == f"{sum(features['confidence'].counts)} validation samples"
    assert features["characters"].mean > features["tokens"].mean > 1
    assert len(found.vocabulary) == len(features["vocabulary"].counts) - 1
    expected = {"multi": (*manifest.labels, NO_LABEL)}.get(kind, manifest.labels)
    assert features["label"].categories[:-1] == expected
    # One a text, or one a token.
    answered = sum(features["label"].counts)
    assert answered > sum(features["confidence"].counts) if kind == "tags" else answered > 0


def test_the_certificate_reaches_from_strings_to_the_http_answer(converted):
    certificate = Certificate.from_json(converted.path("certificate.json").read_text(), where="here")

    assert certificate.broken is None
    assert certificate.hop("preprocess").compares == "token ids"
    assert certificate.hop("http").agreement == 1.0
    score = certificate.hop("keras").score
    assert 0 <= score.low <= score.value <= score.high <= 1


def test_a_bundle_of_texts_is_verified_by_a_process_that_has_loaded_nothing_before(converted):
    command = [sys.executable, "-m", "tfpipe.verify", str(converted.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stderr
    assert "hops hold on this machine" in done.stdout


def test_the_scores_of_the_float_graph_are_those_of_the_run(finished, converted):
    _, _, result = finished

    metrics = dict(converted.manifest.variants["fp32"].metrics)
    assert metrics.pop("top1_agreement") == 1.0
    assert metrics
    for name, value in metrics.items():
        assert value == pytest.approx(result.metrics[f"val_{name}"], abs=1e-6), name


def test_golden_texts_replay_as_keras_answered(finished, converted):
    _, _, result = finished
    parts = load_model(result.output_dir / "model.keras")
    inference = open_inference(converted)
    session = open_session(converted.path("model.fp32.onnx"), provider="cpu")
    golden = read_golden(converted)

    assert golden
    for sample in golden:
        text = inference.decode(converted.path(sample.file).read_bytes())
        (expected,) = keras_probabilities(parts, text)
        rows = inference.prepare(text).rows
        (answer,) = inference.cut(session.run({"input": inference.batch(rows)})["probabilities"], rows)
        np.testing.assert_allclose(sample.probabilities, expected, atol=1e-6)
        np.testing.assert_allclose(answer, expected, atol=BOUNDS["fp32"].atol)


def test_prediction_of_a_bundle_answers_as_the_trained_model_does(finished, converted, tmp_path):
    _, _, result = finished
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))

    for model, options in ((result.output_dir, {}), (converted.folder, {"precision": "fp32"})):
        predict(str(model), [tmp_path / "texts.jsonl"], tmp_path / f"{model.name}.jsonl", **options)
    scorers = open_scorer(str(result.output_dir)), open_scorer(str(converted.folder), precision="fp32")

    prepared = [scorers[0].inference.prepare(text) for text in TEXTS]
    for one, two in zip(*(scorer.probabilities(prepared) for scorer in scorers), strict=True):
        for row, other in zip(one, two, strict=True):
            np.testing.assert_allclose(row, other, atol=BOUNDS["fp32"].atol)
    answers = [
        [json.loads(line)["predictions"] for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in (result.output_dir.name, converted.folder.name)
    ]
    assert len(answers[0]) == len(TEXTS)
    assert [sorted(one[0]) for one in answers[0]] == [sorted(one[0]) for one in answers[1]]


def test_a_checkpoint_opens_with_the_tokenizer_of_its_run_whether_or_not_that_ended(finished, tmp_path):
    _, _, result = finished
    run = shutil.copytree(result.output_dir, tmp_path / "run")
    checkpoint = max((run / "checkpoints").glob("step-*"))
    whole = export_checkpoint(checkpoint, tmp_path / "whole")
    for name in ("result.json", "model.keras", "validation.json"):
        (run / name).unlink()
    rebuilt = export_checkpoint(checkpoint, tmp_path / "rebuilt")

    one, two = (open_trained(folder, None, []) for folder in (whole, rebuilt))

    for weight, other in zip(one.parts.model.get_weights(), two.parts.model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other)
    assert one.parts.saved.files == two.parts.saved.files == open_saved(run / "tokenizer").files
    assert (one.parts.max_length, one.parts.task) == (two.parts.max_length, two.parts.task)
    assert one.validation == two.validation
    assert [sample.sample for sample in one.samples] == [sample.sample for sample in two.samples]


def test_validation_texts_whose_further_labels_changed_are_refused(finished, tmp_path):
    kind, config, result = finished
    opened = open_trained(result.output_dir, None, [])
    assert len(open_validation(opened)) == 16

    changed = shutil.copytree(result.output_dir, tmp_path / "run")
    data = shutil.copy(config.data.path, tmp_path)
    # Neither where a text stands nor its first label tells of these.
    old, new = {
        "single": ("\tsad", "\tcalm"), "multi": ('"glad", "sad"', '"glad", "calm"'), "tags": (" I-PER", " B-PER"),
    }[kind]  # fmt: skip
    text = Path(data).read_text(encoding="utf-8")
    # Some are left, as a label without any text would be told first.
    Path(data).write_text(text.replace(old, new, text.count(old) - 4), encoding="utf-8")

    with pytest.raises(DataError, match="the data have changed since"):
        open_validation(open_trained(changed, None, [f"data.path={data}"]))


def test_features_are_one_vector_a_text_and_are_refused_where_each_word_is_answered(finished, tmp_path):
    kind, _, result = finished
    asked = ["conversion.features=true", "conversion.latency_runs=1", "conversion.http_hop=false"]

    def made():
        return convert(result.output_dir, precision="fp32", output=tmp_path / "bundles" / "made", overrides=asked)

    if kind == "tags":
        with pytest.raises(ConfigError, match=r"conversion\.features: expected a model that answers a whole text"):
            made()
        assert list((tmp_path / "bundles").iterdir()) == []
        return
    bundle = made().bundle

    assert [spec.name for spec in bundle.manifest.outputs] == ["probabilities", "features"]
    certificate = Certificate.from_json(bundle.path("certificate.json").read_text(), where="here")
    assert {"fp32.features", "fp16.features"} <= {hop.name for hop in certificate.hops}
    assert certificate.broken is None


def test_ranges_of_int8_are_set_by_other_texts_where_they_are_given(finished, tmp_path):
    kind, _, result = finished
    other = write_texts(tmp_path / "other", kind, num_samples=20, seed=7)

    opened = open_trained(
        result.output_dir, None, [f"conversion.calibration_path={other}", "conversion.calibration_samples=12"]
    )

    assert len(opened.calibration) == 12
    content = other.read_text(encoding="utf-8")
    if kind == "tags":
        # A word and its tag a line, a blank one between sentences.
        content = re.sub(r" \S+\n", " ", content)
    assert all(sample.sample in content for sample in opened.calibration)
    # What travels as golden samples is still of training.
    assert not all(sample.sample in content for sample in opened.samples)
    with pytest.raises(DataError, match=r"conversion\.calibration_path: .*nowhere.* cannot be used"):
        open_trained(result.output_dir, None, ["conversion.calibration_path=nowhere"])
