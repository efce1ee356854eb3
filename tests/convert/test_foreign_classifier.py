"""Image classifiers that were trained elsewhere, through the command line and the service's engine."""

import keras
import numpy as np
import pytest
import yaml
from keras import layers

from serving.engine import Engine
from serving.source import fetch_bundle
from tests.convert.foreign_models import CLASSES, fitted, functional
from tests.image_files import encoded
from tests.serving.asking import answers
from tests.training.small_runs import write_class_folders
from tfpipe.convert.__main__ import main
from tfpipe.core.bundle import open_bundle
from tfpipe.core.certificate import Certificate
from tfpipe.core.statistics import Statistics

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow, pytest.mark.timeout(300)]

QUICK = ["conversion.latency_runs=1", "conversion.http_hop=false"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Labelled pictures of another size than the model's."""
    return write_class_folders(tmp_path_factory.mktemp("pictures"), num_samples=90, classes=CLASSES, size=(18, 13))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Convert a model in this process: (exit code, standard error)."""
    monkeypatch.chdir(tmp_path)

    def start(model, *arguments):
        path = tmp_path / "shades.keras"
        model.save(path)
        code = main(["--model", str(path), "--output", "bundle", *QUICK, *map(str, arguments)])
        return code, capsys.readouterr().err

    return start


def answer_of_service(folder, content):
    engine = Engine.open(
        fetch_bundle(str(folder), registered_model=None, cache_dir=folder),
        precision="auto", provider="cpu", threads=1, max_batch_size=4, max_image_pixels=10_000, max_text_chars=10,
    )  # fmt: skip
    assert engine.replay_golden() < 0.1
    (answer,) = answers(engine, [content])
    return answer


def picture(low, size=(12, 12)):
    return np.random.default_rng(low).integers(low, low + 70, (*size, 3), dtype=np.uint8)


def assert_answers_as(folder, model, pixels, expected):
    answer = answer_of_service(folder, encoded(pixels, "PNG"))
    received = [answer["probabilities"][label] for label in open_bundle(folder).manifest.labels]
    np.testing.assert_allclose(received, expected(model.predict(pixels[None].astype(np.float32), verbose=0)), atol=0.1)


def notes(folder):
    return (folder / "report.md").read_text()


def test_with_validation_data_it_becomes_an_ordinary_int8_bundle(run, tmp_path, pictures):
    model = fitted(functional())

    code, stderr = run(model, f"data.validation_path={pictures}")

    assert code == 0, stderr
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert (manifest.task, manifest.labels, manifest.default_variant) == ("image_classification", CLASSES, "int8")
    assert manifest.variants["int8"].metrics["accuracy"] > 0.9
    assert_answers_as(tmp_path / "bundle", model, picture(170), lambda answers: answers[0])
    assert "22 of the validation samples set INT8 ranges and are not scored" in notes(tmp_path / "bundle")
    statistics = Statistics.from_json((tmp_path / "bundle" / "statistics.json").read_text(), where="")
    assert (statistics.inputs_from, statistics.predictions_from) == ("22 given samples", "68 validation samples")


def test_a_model_that_holds_resizing_and_gives_logits_answers_as_predict_does(run, tmp_path):
    model = fitted(functional(resizing=(12, 12), logits=True), logits=True)

    code, stderr = run(model)

    assert code == 0, stderr
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.manifest.default_variant == "fp32"
    assert bundle.manifest.labels == ("0", "1", "2")
    assert_answers_as(
        tmp_path / "bundle", model, picture(10, (20, 20)), lambda logits: np.asarray(keras.ops.softmax(logits[0]))
    )
    report = notes(tmp_path / "bundle")
    assert "Accuracy was not checked" in report
    assert "No images were given" in report
    assert "a service cannot tell drift" in report
    assert "statistics.json" not in bundle.manifest.files


def test_a_sigmoid_of_one_unit_is_two_classes_and_grey_is_made_of_colours(run, tmp_path):
    model = keras.Sequential([
        keras.Input((12, 12, 1)), layers.Flatten(), layers.Dense(64, activation="relu"),
        layers.Dense(1, activation="sigmoid"),
    ])  # fmt: skip
    fitted(model, scale=1 / 255, binary=True, channels=1)
    config = tmp_path / "model.yaml"
    (tmp_path / "names.txt").write_text("other\nlight\n")
    config.write_text(yaml.safe_dump({"labels": "names.txt", "preprocessing": {"normalization": "none"}}))

    code, stderr = run(model, "--config", config)

    assert code == 0, stderr
    grey = np.repeat(picture(180)[..., :1], 3, axis=-1)
    answer = answer_of_service(tmp_path / "bundle", encoded(grey, "PNG"))
    expected = float(model.predict(grey[None, ..., :1] / 255.0, verbose=0)[0, 0])
    assert answer["label"] == "light"
    assert answer["probabilities"]["light"] == pytest.approx(expected, abs=1e-3)


def test_a_class_of_ones_own_is_understood_by_its_answers(run, tmp_path):
    from tests.convert.foreign_classes import ShadesNet

    model = fitted(ShadesNet(name="own"))

    code, stderr = run(model, "--import", "tests.convert.foreign_classes", "preprocessing.normalization=raw")

    assert code == 0, stderr
    assert "It gives probabilities: 16 random images are answered so." in notes(tmp_path / "bundle")
    assert_answers_as(tmp_path / "bundle", model, picture(90), lambda answers: answers[0])


def test_a_model_of_mixed_precision_is_rebuilt_in_float32(run, tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = functional()
    finally:
        keras.config.set_dtype_policy("float32")

    code, stderr = run(model)

    assert code == 0, stderr
    assert "Trained under mixed_bfloat16" in notes(tmp_path / "bundle")


def test_features_are_the_vector_before_the_head_in_every_precision(run, tmp_path, pictures):
    model = fitted(functional())

    code, stderr = run(model, f"data.validation_path={pictures}", "conversion.features=true")

    assert code == 0, stderr
    bundle = open_bundle(tmp_path / "bundle")
    assert [spec.name for spec in bundle.manifest.outputs] == ["probabilities", "features"]
    assert bundle.manifest.outputs[1].shape == ("batch", 96)
    certificate = Certificate.from_json(bundle.path("certificate.json").read_text(), where="")
    assert {"fp32.features", "fp16.features", "int8.features"} <= {hop.name for hop in certificate.hops}
    embedding = keras.Model(model.inputs, model.get_layer("embedding").output)
    engine = Engine.open(
        fetch_bundle(str(bundle.folder), registered_model=None, cache_dir=tmp_path),
        precision="fp32", provider="cpu", threads=1, max_batch_size=4, max_image_pixels=10_000, max_text_chars=10,
    )  # fmt: skip
    contents = [encoded(picture(low), "PNG") for low in (10, 100, 170)]
    given = answers(engine, [contents[0], b"junk", *contents[1:]], features=True)
    expected = embedding.predict(np.stack([picture(low) for low in (10, 100, 170)]).astype(np.float32), verbose=0)
    np.testing.assert_allclose([given[i]["features"] for i in (0, 2, 3)], expected, rtol=1e-3, atol=1e-3)
    assert "features" not in answers(engine, contents[:1])[0]


@pytest.mark.parametrize(
    ("model", "arguments", "sentence"),
    [
        (lambda: functional(rescaling=False), [], "preprocessing.normalization: expected to find which values"),
        (functional, ["labels=[a, b]"], "labels: expected 3, as the model answers, received 2."),
        (functional, ["--precision", "int8"], "calibration data: expected samples to set INT8 ranges, received none."),
        (functional, ["labels=[a, b, b]"], "labels: expected different names"),
        (functional, ["preprocesing.image_size=[3,3]"], "preprocesing: unknown key. Did you mean 'preprocessing'?"),
        (functional, ["data.validation_path=gone"], "data.validation_path: expected a data set, found nothing at"),
    ],
)
def test_what_has_to_be_said_is_asked_for_in_one_sentence(run, tmp_path, model, arguments, sentence):
    code, stderr = run(model(), *arguments)

    assert code == 2
    assert sentence in stderr
    assert "Traceback" not in stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shades.keras"]


def test_data_of_classes_that_the_model_lacks_are_refused(run, pictures):
    code, stderr = run(functional(), f"data.validation_path={pictures}", "labels=[dark, grey, white]")

    assert code == 2
    assert "expected classes of the model, dark, grey, white; received light too." in stderr
