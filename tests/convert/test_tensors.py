"""Models that are no task of ours: named tensors in, named tensors out."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tests.convert.foreign_models import rain, rain_samples
from tfpipe.convert.__main__ import main
from tfpipe.core.bundle import open_bundle
from tfpipe.core.certificate import Certificate
from tfpipe.core.signature import TensorSpec
from tfpipe.inference.tensors import open_tensors
from tfpipe.verify.__main__ import verify

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow, pytest.mark.timeout(300)]

QUICK = ["conversion.latency_runs=1"]


@pytest.fixture(scope="module")
def model():
    return rain()


@pytest.fixture(scope="module")
def converted(model, tmp_path_factory):
    """The bundle of `rain`, with its INT8 variant."""
    folder = tmp_path_factory.mktemp("rain")
    model.save(folder / "rain.keras")
    np.savez(folder / "samples.npz", **rain_samples())
    samples = f"conversion.calibration_path={folder / 'samples.npz'}"
    arguments = ["--model", str(folder / "rain.keras"), "--output", str(folder / "bundle"), samples, *QUICK]
    assert main(arguments) == 0
    return open_bundle(folder / "bundle")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def start(path, *arguments):
        code = main(["--model", str(path), "--output", "bundle", *QUICK, *map(str, arguments)])
        return code, capsys.readouterr().err

    return start


def saved(model, folder):
    model.save(folder / "model.keras")
    return folder / "model.keras"


def test_names_dtypes_and_shapes_are_the_models_own(converted):
    manifest = converted.manifest

    assert (manifest.task, manifest.labels, manifest.default_variant) == ("tensor", (), "int8")
    assert manifest.inputs == (
        TensorSpec("wind", "float32", ("batch", 4)),
        TensorSpec("words", "int32", ("batch", "words_axis_1")),
        TensorSpec("radar", "uint8", ("batch", 6, 6, 3)),
    )
    assert {spec.name: (spec.dtype, spec.shape) for spec in manifest.outputs} == {
        "amount": ("float32", ("batch", 2)),
        "kind": ("int32", ("batch",)),
    }


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_variant_answers_as_keras_does_to_batches_and_lengths_that_were_not_compared(converted, model, precision):
    samples = rain_samples(11)
    samples["words"] = np.random.default_rng(5).integers(0, 20, (11, 9)).astype(np.int32)
    expected = model.predict([samples["wind"], samples["words"], samples["radar"]], verbose=0)

    answers = open_tensors(converted, precision=precision).run(samples)

    scale = np.abs(expected["amount"]).max()
    atol = {"fp32": 1e-5, "fp16": 1e-2, "int8": 5e-2}[precision]
    np.testing.assert_allclose(answers["amount"], expected["amount"], atol=atol * scale)
    if precision == "fp32":
        np.testing.assert_array_equal(answers["kind"], expected["kind"])


def test_the_saved_model_has_the_same_names(converted):
    (folder,) = converted.path("saved_model").iterdir()
    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]

    assert set(signature.structured_input_signature[1]) == {"wind", "words", "radar"}
    assert set(signature.structured_outputs) == {"amount", "kind"}


def test_the_certificate_lists_every_hop_and_is_measured_anew(converted):
    certificate = Certificate.from_json(converted.path("certificate.json").read_text(), where="")

    found = verify(converted)

    assert [hop.name for hop in certificate.hops] == ["fp32", "saved_model.serving_default", "fp16", "int8"]
    assert {hop.name for hop in found.hops} == {hop.name for hop in certificate.hops}
    assert found.broken is None
    assert "Accuracy was not checked" in converted.path("report.md").read_text()


def test_a_saved_model_without_keras_is_converted_by_its_signature(run, tmp_path):
    class Plain(tf.Module):
        def __init__(self):
            super().__init__()
            self.weight = tf.Variable(np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32))

        @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.float32, "x"), tf.TensorSpec((), tf.bool, "negate")])
        def answer(self, x, negate):
            product = tf.matmul(x, self.weight)
            return {"y": tf.where(negate, -product, product)}

    plain = Plain()
    tf.saved_model.save(plain, str(tmp_path / "plain"), signatures={"answer": plain.answer})

    code, stderr = run(tmp_path / "plain")
    assert code == 2
    assert "signature: expected one that " in stderr
    assert "(answer), received 'serving_default'" in stderr

    code, stderr = run(tmp_path / "plain", "signature=answer")

    assert code == 0, stderr
    x = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    answers = open_tensors(open_bundle(tmp_path / "bundle")).run({"x": x, "negate": np.array(True)})
    np.testing.assert_allclose(answers["y"], -x @ plain.weight.numpy(), rtol=1e-5)


def test_names_that_keras_made_up_do_not_reach_clients(run, tmp_path):
    image = keras.Input((8,))
    model = keras.Model(image, [layers.Dense(3, name="low")(image), layers.Dense(2, name="high")(image)])

    code, stderr = run(saved(model, tmp_path))

    assert code == 0, stderr
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert [spec.name for spec in (*manifest.inputs, *manifest.outputs)] == ["input", "low", "high"]
    assert manifest.default_variant == "fp32"


def test_strings_are_refused_by_name(run, tmp_path):
    words = keras.Input((1,), dtype="string", name="words")
    lookup = layers.StringLookup(vocabulary=["rain", "sun"])
    model = keras.Model(words, layers.Embedding(4, 2)(lookup(words)))

    code, stderr = run(saved(model, tmp_path))

    assert code == 1
    assert "input 'words': expected numbers or truth values, received strings" in stderr


def test_an_operation_that_onnx_lacks_is_named(run, tmp_path):
    image = keras.Input((8, 8), name="x")
    model = keras.Model(image, keras.ops.real(keras.ops.linalg.eig(image)[0]))

    code, stderr = run(saved(model, tmp_path))

    assert code == 1
    assert "Eig" in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"wind": None}, "expected an array for each input, wind, words, radar; received radar, words."),
        ({"wind": np.zeros((24, 5), np.float32)}, "'wind': expected float32 of shape (samples, 4), received float32"),
        ({"wind": np.zeros((24, 4), np.float64)}, "'wind': expected float32 of shape (samples, 4), received float64"),
        ({"wind": np.zeros((3, 4), np.float32)}, "expected as many samples of each input, at least one; received"),
    ],
)
def test_calibration_data_of_another_form_are_refused(run, model, tmp_path, changed, sentence):
    arrays = {name: array for name, array in {**rain_samples(), **changed}.items() if array is not None}
    np.savez(tmp_path / "samples.npz", **arrays)

    code, stderr = run(saved(model, tmp_path), "conversion.calibration_path=samples.npz")

    assert code == 2
    assert sentence in stderr
    assert not (tmp_path / "bundle").exists()


def test_int8_without_samples_is_refused(run, model, tmp_path):
    code, stderr = run(saved(model, tmp_path), "--precision", "int8")

    assert code == 2
    assert "Give conversion.calibration_path=FILE.npz with an array of samples for each input (wind, words," in stderr
