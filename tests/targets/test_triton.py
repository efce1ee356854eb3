import json
import shutil

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, text_format
from hypothesis import given
from hypothesis import strategies as st

from tests.image_files import one_of_each_kind
from tests.serving.bundles import GREEN, RED, make_bundle
from tests.targets import triton
from tests.targets.tensor_bundles import answers, make_tensor_bundle, request
from tfpipe.core.bundle import Variant, open_bundle, read_golden
from tfpipe.core.parity import BOUNDS, assert_parity, golden_bound
from tfpipe.ort import open_session
from tfpipe.targets.answering import BundleAnswers
from tfpipe.targets.export import ExportOptions, export
from tfpipe.targets.pbtxt import render

ANSWER = ("probabilities", "label", "score")


@pytest.fixture(scope="module")
def repository(bundle, text_bundle, multi_label_bundle, tags_bundle, tmp_path_factory):
    """Exports of each kind, side by side; `damaged` was changed after it was exported."""
    root = tmp_path_factory.mktemp("triton")
    repository = root / "repository"
    repository.mkdir()
    named = {"colours": bundle, "moods": text_bundle, "several": multi_label_bundle, "names": tags_bundle}
    named["rain"] = make_tensor_bundle(root / "tensors")
    for name, folder in {**named, "damaged": bundle}.items():
        exported = export(folder, "triton", root / name, options=ExportOptions(name=name)).folder
        shutil.copytree(exported / name, repository / name)
    (repository / "damaged" / "3" / "bundle" / "model.int8.onnx").write_bytes(b"another")
    return repository


@pytest.fixture(scope="module")
def server(repository, tmp_path_factory):
    if not triton.is_installed():
        pytest.skip("no Triton here; scripts/triton_env.sh makes its environment")
    with triton.serving(repository, tmp_path_factory.mktemp("log") / "triton.log") as running:
        yield running


# Asked for real.


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_triton_answers_golden_images_as_keras_did(server, bundle, protocol):
    opened = open_bundle(bundle)
    samples = read_golden(opened)
    contents = [opened.path(sample.file).read_bytes() for sample in samples]

    answer = server.infer("colours", {"image": contents}, outputs=ANSWER, protocol=protocol)

    expected = np.stack([sample.probabilities for sample in samples])
    bound = golden_bound("int8", opened.variant("int8").golden_max_abs_diff)
    assert_parity(np.array(answer["probabilities"], np.float32), expected, bound, where="Triton")
    assert answer["label"] == [opened.manifest.labels[index] for index in expected.argmax(axis=1)]
    np.testing.assert_allclose(answer["score"], np.max(answer["probabilities"], axis=1), atol=1e-6)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("model", ["moods", "several"])
def test_triton_answers_golden_texts_as_keras_did(server, text_bundle, multi_label_bundle, model, protocol):
    opened = open_bundle({"moods": text_bundle, "several": multi_label_bundle}[model])
    samples = read_golden(opened)
    contents = [opened.path(sample.file).read_bytes() for sample in samples]

    answer = server.infer(model, {"text": contents}, outputs=ANSWER, protocol=protocol)

    expected = np.stack([sample.probabilities for sample in samples])
    assert_parity(np.array(answer["probabilities"], np.float32), expected, BOUNDS["fp32"], where="Triton")
    assert answer["label"] == [opened.manifest.labels[index] for index in expected.argmax(axis=1)]


def test_every_kind_of_image_file_gets_the_answer_of_our_own_code(server, bundle):
    contents = list(one_of_each_kind().values())

    answer = server.infer("colours", {"image": contents}, outputs=ANSWER)

    expected = np.stack([one.probabilities for one in BundleAnswers(open_bundle(bundle)).of(contents)])
    assert_parity(np.array(answer["probabilities"], np.float32), expected, BOUNDS["fp32"], where="Triton")


def test_pixels_may_be_sent_in_place_of_files(server):
    pixels = np.zeros((2, 5, 9, 3), np.uint8)
    pixels[0, ..., 1] = pixels[1, ..., 2] = 255

    assert server.infer("colours", {"pixels": pixels}, outputs=ANSWER)["label"] == ["green", "blue"]


def test_entities_are_in_the_text_that_was_sent(server, tags_bundle):
    texts = ["The quick brown fox", "voix ambiguë d'un cœur", "the dog sleeps on " * 10]

    answer = server.infer("names", {"text": [text.encode() for text in texts]}, outputs=["entities"])

    expected = [one.answer["entities"] for one in BundleAnswers(open_bundle(tags_bundle)).of(texts)]
    received = [json.loads(row) for row in answer["entities"]]
    assert any(expected)
    for text, entities, others in zip(texts, received, expected, strict=True):
        assert [text[one["start"] : one["end"]] for one in entities] == [one["text"] for one in entities]
        assert [(one["label"], one["start"]) for one in entities] == [(one["label"], one["start"]) for one in others]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_an_input_that_cannot_be_read_is_named_and_the_server_goes_on(server, protocol):
    refused = server.infer("colours", {"image": [GREEN, b"no image"]}, outputs=ANSWER, protocol=protocol)

    assert "input 1: image: expected a JPEG" in refused["error"]
    assert refused["status"] in ("400", "StatusCode.INVALID_ARGUMENT")
    assert server.infer("colours", {"image": [RED]}, outputs=ANSWER, protocol=protocol)["label"] == ["red"]


def test_a_request_without_rows_is_refused(server):
    assert "expected at least one row" in server.infer("colours", {"image": []}, outputs=ANSWER)["error"]


def test_a_bundle_that_was_changed_is_not_served(server):
    assert server.is_ready("colours")
    assert not server.is_ready("damaged")
    assert "BundleError" in server.log.read_text()


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_named_tensors_go_in_and_come_out(server, protocol):
    given = request(5, seed=7)

    answer = server.infer("rain", given, outputs=["rain", "wettest"], protocol=protocol)

    np.testing.assert_allclose(answer["rain"], answers(given)["rain"], rtol=1e-5)
    assert answer["wettest"] == answers(given)["wettest"].tolist()


def test_tensors_that_do_not_fit_are_refused(server):
    refused = server.infer("rain", request(2) | {"month": np.ones((3, 1), np.int32)}, outputs=["rain"])

    assert "expected 2 along 'batch'" in refused["error"]


# What is written.


@pytest.fixture
def needs_triton():
    if not triton.is_installed():
        pytest.skip("no Triton here; scripts/triton_env.sh makes its environment")


@pytest.mark.usefixtures("needs_triton")
def test_the_configuration_for_rows_is_one_that_triton_reads(bundle, tmp_path):
    options = ExportOptions(triton_backend="onnxruntime", device="gpu", precision="fp16")
    folder = export(bundle, "triton", tmp_path / "out", options=options).folder / "colours"

    config = triton.read_config(folder / "config.pbtxt")

    assert (config["name"], config["backend"], config["max_batch_size"]) == ("colours", "onnxruntime", 32)
    assert [(one["name"], one["data_type"], one["dims"]) for one in config["input"]] == [
        ("input", "TYPE_FP32", ["8", "8", "3"])
    ]
    assert [(one["name"], one["dims"], one["label_filename"]) for one in config["output"]] == [
        ("probabilities", ["3"], "labels.txt")
    ]
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == "2000"
    assert config["instance_group"][0]["kind"] == "KIND_GPU"
    assert (folder / "3" / "model.onnx").read_bytes() == (bundle / "model.fp16.onnx").read_bytes()
    assert (folder / "labels.txt").read_text() == "red\ngreen\nblue\n"


@pytest.mark.usefixtures("needs_triton")
def test_rows_to_warm_up_with_are_those_of_golden_samples(bundle, tmp_path):
    options = ExportOptions(triton_backend="onnxruntime", precision="fp32")
    folder = export(bundle, "triton", tmp_path / "out", options=options).folder / "colours"
    tensors = [one["inputs"]["input"] for one in triton.read_config(folder / "config.pbtxt")["model_warmup"]]
    samples = read_golden(open_bundle(bundle))

    rows = np.stack(
        [
            np.frombuffer((folder / "warmup" / one["input_data_file"]).read_bytes(), "<f4").reshape(8, 8, 3)
            for one in tensors
        ]
    )
    answer = open_session(folder / "3" / "model.onnx", provider="cpu").run({"input": rows})["probabilities"]

    assert len(rows) == len(samples)
    assert_parity(answer, np.stack([sample.probabilities for sample in samples]), BOUNDS["fp32"], where="warm-up")


@pytest.mark.usefixtures("needs_triton")
def test_requests_for_rows_share_a_batch_only_where_that_cannot_change_their_answers(tmp_path):
    dynamic = Variant("int8", "model.int8.onnx", {}, 1, {}, {"1": 0.1}, False, 1e-2, {})
    bundle = make_bundle(tmp_path / "bundle", manifest_changes={"variants": {"int8": dynamic}})

    folder = export(bundle, "triton", tmp_path / "out", options=ExportOptions(triton_backend="onnxruntime")).folder

    assert "dynamic_batching" not in triton.read_config(folder / "colours" / "config.pbtxt")
    assert "are not batched" in (folder / "README.md").read_text()


@given(value=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_string_is_written_so_that_it_is_read_again(value):
    written = render({"name": value, "dependency": [value, "b"], "options": {"deprecated": True}})

    read = text_format.Parse(written, descriptor_pb2.FileDescriptorProto())

    assert (read.name, list(read.dependency), read.options.deprecated) == (value, [value, "b"], True)


@pytest.mark.usefixtures("needs_triton")
@pytest.mark.parametrize(("axis", "max_batch_size", "dims"), [("batch", 32, ["4"]), ("steps", 0, ["-1", "4"])])
def test_named_tensors_are_batched_where_all_begin_with_the_batchs_axis(tmp_path, axis, max_batch_size, dims):
    bundle = make_tensor_bundle(tmp_path / "bundle", axis=axis)

    folder = export(bundle, "triton", tmp_path / "out", options=ExportOptions(triton_backend="onnxruntime")).folder

    config = triton.read_config(folder / "rain" / "config.pbtxt")
    wind = config["input"][0]
    assert config["max_batch_size"] == max_batch_size
    assert (wind["name"], wind["data_type"], wind["dims"]) == ("wind", "TYPE_FP32", dims)
    assert ("dynamic_batching" in config) == (axis == "batch")
    tensors = config["model_warmup"][1]["inputs"]
    read = {
        name: np.frombuffer((folder / "rain" / "warmup" / one["input_data_file"]).read_bytes(), dtype)
        for (name, one), dtype in zip(sorted(tensors.items()), (np.int32, np.float32), strict=True)
    }
    golden = request(3, seed=1)
    for name, array in golden.items():
        np.testing.assert_array_equal(read[name], (array[0] if axis == "batch" else array).ravel())
