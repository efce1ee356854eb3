import base64
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.image_files import one_of_each_kind
from tests.targets.saved_bundles import make_image_bundle, make_text_bundle
from tests.targets.tensor_bundles import request as tensor_request
from tfpipe.core.bundle import Manifest, open_bundle, read_golden, seal
from tfpipe.core.errors import BundleError
from tfpipe.core.parity import BOUNDS, assert_parity
from tfpipe.data.wire import Span, messages
from tfpipe.decode import decode_with_header
from tfpipe.targets.export import export
from tfpipe.targets.golden import golden_requests
from tfpipe.targets.warmup import WARMUP_FILE, image_request, prediction_log, signatures_of, write_warmup

pytestmark = [pytest.mark.tensorflow]

# What tensorflow-serving-api 2.17.1 serializes: PredictionLog(predict_log=PredictLog(request=PredictRequest(
# model_spec=ModelSpec(signature_name=...), inputs={...: tf.make_tensor_proto(...)}))).
BY_TENSORFLOW_SERVING = [
    (
        ("serving_default", {"image_bytes": np.array([b"a file", b""], object)}),
        "MjgKNgoRGg9zZXJ2aW5nX2RlZmF1bHQSIQoLaW1hZ2VfYnl0ZXMSEggHEgQSAggCQgZhIGZpbGVCAA==",
    ),
    (
        ("pixels", {"pixels": np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)}),
        "MjoKOAoIGgZwaXhlbHMSLAoGcGl4ZWxzEiIIBBIQEgIIARICCAISAggCEgIIAyIMAAECAwQFBgcICQoL",
    ),
    (
        ("tensor", {"input": np.array([[1, 200, -3]], np.int32)}),
        "MjEKLwoIGgZ0ZW5zb3ISIwoFaW5wdXQSGggDEggSAggBEgIIAyIMAQAAAMgAAAD9////",
    ),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_image_bundle(tmp_path_factory.mktemp("images") / "bundle")


@pytest.fixture(scope="module")
def exported(images, tmp_path_factory):
    """The folder of the exported version."""
    return export(images, "tfserving", tmp_path_factory.mktemp("tfserving") / "out").folder / "pets" / "7"


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A bundle whose tokenizer has a Keras layer."""
    return make_text_bundle(tmp_path_factory.mktemp("words"), kind="wordpiece")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A bundle whose tokenizer has none."""
    return make_text_bundle(tmp_path_factory.mktemp("pairs"), kind="bpe")


def warmup_requests(saved_model_dir):
    """(signature, {input: tensor}) of each record, read by TensorFlow but for the messages that it has not."""
    for record in tf.data.TFRecordDataset(str(saved_model_dir / WARMUP_FILE)).as_numpy_iterator():
        (request,) = _within(record, 6, 1)
        (name,) = _within(request, 1, 3)
        entries = (_within(entry, 1) + _within(entry, 2) for entry in _within(request, 2))
        yield name.decode(), {key.decode(): tf.make_ndarray(_tensor(value)) for key, value in entries}


def _within(content, *numbers):
    found = [content]
    for number in numbers:
        found = [one[span.start : span.stop] for one in found for span in messages(one, Span(0, len(one)), number)]
    return found


def _tensor(content):
    tensor = tf.make_tensor_proto(0)
    tensor.ParseFromString(content)
    return tensor


# The folder that a server is given.


def test_the_folder_is_a_base_path_with_one_version(exported):
    assert [path.name for path in exported.parent.iterdir()] == ["7"]
    assert {path.name for path in exported.iterdir()} >= {"saved_model.pb", "variables", "assets.extra"}


def test_every_signature_of_the_exported_folder_answers_as_keras_did(images, exported):
    bundle = open_bundle(images)
    loaded = tf.saved_model.load(str(exported))

    for sample, request in zip(read_golden(bundle), golden_requests(bundle), strict=True):
        for signature, name in (("serving_default", "image_bytes"), ("pixels", "pixels"), ("tensor", "input")):
            if name in request:
                answer = loaded.signatures[signature](**{name: tf.constant(request[name])})["probabilities"].numpy()[0]
                assert_parity(answer, sample.probabilities, BOUNDS["fp32"], where=f"{signature}, {sample.file}")


@pytest.mark.slow
def test_tensorflows_own_tool_shows_and_runs_it(images, exported, tmp_path):
    bundle = open_bundle(images)
    np.save(tmp_path / "row.npy", golden_requests(bundle)[0]["input"])

    shown = saved_model_cli("show", "--dir", str(exported), "--all")
    saved_model_cli(
        "run", "--dir", str(exported), "--tag_set", "serve", "--signature_def", "tensor",
        "--inputs", f"input={tmp_path / 'row.npy'}", "--outdir", str(tmp_path),
    )  # fmt: skip

    for name in ("serving_default", "pixels", "tensor"):
        assert f"signature_def['{name}']" in shown
    answer = np.load(tmp_path / "probabilities.npy")[0]
    assert_parity(answer, read_golden(bundle)[0].probabilities, BOUNDS["fp32"], where="saved_model_cli")


def saved_model_cli(*arguments):
    tool = Path(sys.executable).with_name("saved_model_cli")
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=True).stdout


# Requests to warm up with.


@pytest.mark.parametrize(("request_of", "expected"), BY_TENSORFLOW_SERVING)
def test_a_logged_request_is_what_tensorflow_serving_itself_would_write(request_of, expected):
    assert prediction_log(*request_of) == base64.b64decode(expected)


def test_every_logged_request_of_images_is_answered(images, exported):
    signatures = tf.saved_model.load(str(exported))
    requests = list(warmup_requests(exported))

    # One that fails would keep the server from loading the model.
    for name, inputs in requests:
        answer = signatures.signatures[name](**{key: tf.constant(value) for key, value in inputs.items()})
        assert np.isfinite(answer["probabilities"].numpy()).all()
    names = [name for name, _ in requests]
    golden = golden_requests(open_bundle(images))[:8]
    assert names.count("pixels") == names.count("tensor") == 8
    assert names.count("serving_default") == sum("image_bytes" in request for request in golden) > 2


def test_no_file_that_tensorflow_cannot_read_is_logged(exported, tmp_path):
    kinds = one_of_each_kind()
    copied = shutil.copytree(exported, tmp_path / "1")
    row = np.zeros((12, 10, 3), np.float32)

    for name, content in kinds.items():
        write_warmup(copied, [image_request(content, row)])
        requests = warmup_requests(copied)
        logged = [inputs["image_bytes"][0] for signature, inputs in requests if signature == "serving_default"]
        assert logged == ([content] if decode_with_header(content).is_plain else []), name


def test_strings_are_logged_where_there_is_a_signature_for_them(words, tmp_path):
    folder = export(words, "tfserving", tmp_path / "out").folder / "pets" / "7"
    signatures = tf.saved_model.load(str(folder))
    samples = read_golden(open_bundle(words))

    requests = list(warmup_requests(folder))

    assert [name for name, _ in requests] == ["serving_default"] * len(samples) + ["tensor"] * len(samples)
    for (name, inputs), sample in zip(requests, [*samples, *samples], strict=True):
        answer = signatures.signatures[name](**{key: tf.constant(value) for key, value in inputs.items()})
        assert_parity(answer["probabilities"].numpy()[0], sample.probabilities, BOUNDS["fp32"], where=name)


def test_texts_without_a_signature_for_strings_are_logged_as_ids_and_the_readme_says_so(pairs, tmp_path):
    result = export(pairs, "tfserving", tmp_path / "out")

    assert {name for name, _ in warmup_requests(result.folder / "pets" / "7")} == {"tensor"}
    assert "No signature takes strings" in (result.folder / "README.md").read_text()


def test_a_file_that_conversion_wrote_is_kept(images, tmp_path):
    bundle = shutil.copytree(images, tmp_path / "bundle")
    target = bundle / "saved_model" / "7"
    write_warmup(target, golden_requests(open_bundle(images))[:1])
    manifest = Manifest.from_json((bundle / "bundle.json").read_text(), where="test")
    seal(bundle, manifest)

    folder = export(bundle, "tfserving", tmp_path / "out").folder

    assert (folder / "pets" / "7" / WARMUP_FILE).read_bytes() == (target / WARMUP_FILE).read_bytes()


def test_signatures_are_read_without_tensorflow(exported, words):
    assert signatures_of(exported) == {"pixels": ("pixels",), "serving_default": ("image_bytes",), "tensor": ("input",)}
    assert signatures_of(words / "saved_model" / "7") == {"serving_default": ("text",), "tensor": ("input",)}


@pytest.mark.parametrize("content", [b"", b"\xff\xff\xff", None])
def test_what_is_no_saved_model_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "saved_model.pb").write_bytes(content)

    with pytest.raises(BundleError, match=r"saved_model\.pb: expected a SavedModel"):
        signatures_of(tmp_path)


def test_tensorflow_is_not_needed_to_export(images, tmp_path):
    blocked = dict.fromkeys(("tensorflow", "keras", "horovod", "tf2onnx"))
    program = f"import sys; sys.modules.update({blocked}); from tfpipe.cli import main; sys.exit(main())"
    arguments = ["export", str(images), "--target", "tfserving", "--output", str(tmp_path / "out")]

    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "pets" / "7" / WARMUP_FILE).is_file()


def test_a_signature_of_several_inputs_is_asked_with_what_has_them_all(tmp_path):
    @tf.function(
        input_signature=[tf.TensorSpec((None, 4), tf.float32, "wind"), tf.TensorSpec((None, 1), tf.int32, "month")]
    )
    def rain(wind, month):
        return {"rain": tf.reduce_sum(wind, axis=1) + tf.cast(month[:, 0], tf.float32)}

    tf.saved_model.save(tf.Module(), str(tmp_path), signatures={"serving_default": rain})

    count = write_warmup(tmp_path, [tensor_request(3), {"wind": tensor_request(1)["wind"]}])

    [(name, inputs)] = warmup_requests(tmp_path)
    assert (count, name) == (1, "serving_default")
    for key, array in tensor_request(3).items():
        np.testing.assert_array_equal(inputs[key], array)
