"""The certificate, measured again: an intact bundle holds, and of a broken one the hop that broke is named."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from serving.app import create_app
from serving.keys_command import create_key
from serving.settings import ServingSettings
from tests.convert.random_models import random_parts
from tests.serving.servers import app_of, serving
from tfpipe.config import parse_config
from tfpipe.convert.to_onnx import preprocessing_to_onnx
from tfpipe.core.bundle import Manifest, open_bundle, seal
from tfpipe.core.certificate import Certificate
from tfpipe.export import export_saved_model
from tfpipe.verify.__main__ import main, verify
from tfpipe.verify.golden import GoldenSamples
from tfpipe.verify.http import http_bound, http_hop

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(converted):
    return converted.bundle.folder


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def resealed(copy):
    """A bundle whose checksums fit what was done to it."""
    manifest = Manifest.from_json((copy / "bundle.json").read_text(), where="copy")
    seal(copy, manifest)
    return GoldenSamples(open_bundle(copy))


def broken(golden):
    return next((hop.name for hop in golden.hops() if hop.problem), None)


def edited(path, change):
    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, path)


def test_conversion_left_a_certificate_with_every_hop_and_its_score(folder):
    certificate = Certificate.from_json((folder / "certificate.json").read_text(), where="here")

    assert [hop.name for hop in certificate.hops] == [
        "keras", "preprocess", "fp32.rows", "fp32", "fp16.rows", "fp16", "int8.rows", "int8",
        "saved_model.pixels", "saved_model.serving_default", "saved_model.tensor", "http",
    ]  # fmt: skip
    assert certificate.broken is None
    assert not certificate.left_out
    for name in ("keras", "fp32", "fp16", "int8", "saved_model.tensor"):
        score = certificate.hop(name).score
        assert score.name == "accuracy"
        assert 0.8 < score.low <= score.value <= score.high <= 1


def test_an_intact_bundle_holds_on_this_machine(folder, capsys, tmp_path):
    assert main([str(folder), "--output", str(tmp_path / "certificate.json")]) == 0

    shown = capsys.readouterr().out
    assert "all 9 hops hold on this machine" in shown
    assert "left out: keras" in shown
    written = Certificate.from_json((tmp_path / "certificate.json").read_text(), where="here")
    assert written.hop("http").agreement == 1.0
    assert (
        written.hop("int8").score
        == Certificate.from_json((folder / "certificate.json").read_text(), where="there").hop("int8").score
    )


def test_keras_itself_can_be_asked_again(folder, trained):
    certificate = verify(open_bundle(folder), model=str(trained[1].output_dir))

    assert certificate.hop("keras").max_abs_diff < 1e-5
    assert "keras" not in certificate.left_out


def swap_channels(graph, *, of, axis):
    """Turn a graph's input round before it is used."""
    for node in graph.node:
        node.input[:] = ["swapped" if name == of else name for name in node.input]
    graph.node.insert(0, helper.make_node("Gather", [of, "order"], ["swapped"], axis=axis))
    graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0], np.int64), "order"))


def test_swapped_channels_are_found_in_preprocessing(copy, capsys):
    edited(copy / "preprocess.onnx", partial(swap_channels, of="image", axis=2))
    resealed(copy)

    assert main([str(copy)]) == 3
    shown = capsys.readouterr().out
    assert "the first hop that broke is 'preprocess'. pixels -> preprocess.onnx: expected rows within" in shown
    assert "left out: http: a hop before it is broken" in shown


@pytest.mark.parametrize(
    ("file", "change", "hop"),
    [
        ("preprocess.onnx", partial(swap_channels, of="image", axis=2), "preprocess"),
        ("model.fp32.onnx", partial(swap_channels, of="input", axis=3), "fp32"),
        ("model.fp16.onnx", partial(swap_channels, of="input", axis=3), "fp16"),
        ("model.int8.onnx", partial(swap_channels, of="input", axis=3), "int8"),
    ],
)
def test_swapped_channels_are_found_where_no_training_file_has_colours(grey_bundle, tmp_path, file, change, hop):
    copy = shutil.copytree(grey_bundle.folder, tmp_path / "grey")
    edited(copy / file, change)

    assert broken(resealed(copy)) == hop


def test_a_service_that_swaps_channels_is_found_where_no_training_file_has_colours(grey_bundle, tmp_path):
    copy = shutil.copytree(grey_bundle.folder, tmp_path / "grey")
    edited(copy / "preprocess.onnx", partial(swap_channels, of="image", axis=2))
    resealed(copy)

    # Its golden files are grey: the service itself sees nothing wrong.
    with serving(app_of(copy)) as server:
        hop = http_hop(f"http://127.0.0.1:{server.port}", GoldenSamples(open_bundle(grey_bundle.folder)))

    assert "HTTP answer (int8 on cpu), of generated pictures: expected probabilities within" in hop.problem


def test_of_several_versions_of_a_service_the_bundles_own_is_asked(grey_bundle, tmp_path, capsys):
    copy = shutil.copytree(grey_bundle.folder, tmp_path / "grey")
    edited(copy / "preprocess.onnx", partial(swap_channels, of="image", axis=2))
    resealed(copy)

    settings = ServingSettings(model=f"swapped={copy},right={grey_bundle.folder}", isolation="inline")
    with serving(create_app(settings)) as server:
        url = f"http://127.0.0.1:{server.port}"
        right = main([url, "--bundle", str(grey_bundle.folder)])
        shown = capsys.readouterr()
        wrong = main([url, "--bundle", str(copy)])

    assert (right, shown.err) == (0, "")
    assert wrong == 3


def test_a_service_with_keys_is_verified_with_one(folder, tmp_path, capsys):
    key = create_key(tmp_path / "keys.yaml", {"name": "auditor", "scopes": ["predict"]})

    with serving(app_of(folder, api_keys_file=tmp_path / "keys.yaml")) as server:
        url = f"http://127.0.0.1:{server.port}"
        without = main([url, "--bundle", str(folder)])
        shown = capsys.readouterr()
        with_key = main([url, "--bundle", str(folder), "--header", f"X-API-Key: {key}"])

    assert (without, with_key) == (1, 0)
    assert "received status 401" in shown.err


def test_another_resize_is_found_in_preprocessing(copy, trained):
    config, _ = trained
    values = config.model_dump(mode="json")
    values["preprocessing"] |= {"interpolation": "nearest"}
    other = random_parts(parse_config(values, where="here"))
    graph = preprocessing_to_onnx(other, opset=18, metadata={})
    onnx.save(graph, copy / "preprocess.onnx")

    assert broken(resealed(copy)) == "preprocess"


def test_changed_pixels_are_found_in_decoding(copy):
    path = copy / GoldenSamples(open_bundle(copy)).samples[0].golden.file
    pixels = np.asarray(Image.open(path)).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(path)

    assert broken(resealed(copy)) == "decode"


@pytest.mark.parametrize("name", ["fp32", "fp16", "int8"])
def test_a_changed_weight_is_found_in_its_variant(copy, name):
    def shift(graph):
        # The bias of the logits: the last number of classes in the graph.
        node = helper.make_node("Sub", ["one", "probabilities_before"], ["probabilities"])
        for producer in graph.node:
            producer.output[:] = ["probabilities_before" if o == "probabilities" else o for o in producer.output]
        graph.node.append(node)
        graph.initializer.append(numpy_helper.from_array(np.ones((), np.float32), "one"))

    edited(copy / f"model.{name}.onnx", shift)

    assert broken(resealed(copy)) == name


def test_another_model_behind_the_saved_model_is_found_there(copy, trained, capsys):
    config, _ = trained
    (saved,) = (copy / "saved_model").iterdir()
    shutil.rmtree(saved)
    export_saved_model(random_parts(config), saved)
    resealed(copy)

    assert main([str(copy)]) == 3
    assert "the first hop that broke is 'saved_model." in capsys.readouterr().out


def test_a_changed_file_is_refused_before_anything_is_measured(copy, capsys):
    (copy / "preprocess.onnx").write_bytes(b"something else")

    assert main([str(copy)]) == 2
    assert "expected sha256" in capsys.readouterr().err


def test_a_running_service_is_verified_by_the_bundle_that_it_serves(folder, capsys):
    with serving(app_of(folder)) as server:
        assert main([f"http://127.0.0.1:{server.port}", "--bundle", str(folder)]) == 0

    assert "HTTP answer (int8 on cpu)" in capsys.readouterr().out


def test_a_service_of_another_model_breaks_the_last_hop(folder, copy, trained):
    def shift(graph):
        for producer in graph.node:
            producer.output[:] = ["probabilities_before" if o == "probabilities" else o for o in producer.output]
        graph.node.append(helper.make_node("Gather", ["probabilities_before", "order"], ["probabilities"], axis=1))
        graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 0], np.int64), "order"))

    answers = json.loads((copy / "golden" / "answers.json").read_text())
    for answer in answers:
        first, second, third = answer["probabilities"]
        answer["probabilities"] = [second, third, first]
    (copy / "golden" / "answers.json").write_text(json.dumps(answers))
    for name in ("fp32", "fp16", "int8"):
        edited(copy / f"model.{name}.onnx", shift)
    resealed(copy)

    with serving(app_of(copy)) as server:
        hop = http_hop(f"http://127.0.0.1:{server.port}", GoldenSamples(open_bundle(folder)))

    assert "HTTP answer" in hop.problem


def test_an_answer_is_held_to_the_arithmetic_that_gave_it(folder):
    bundle = open_bundle(folder)
    way = {"variant": "fp32", "precision": "fp32", "provider": "openvino"}

    exact = http_bound(bundle, way | {"arithmetic": "float32"})
    coarse = http_bound(bundle, way | {"arithmetic": "bfloat16"})

    assert coarse.atol > 100 * exact.atol
    assert "bfloat16" in coarse.reason


def test_an_address_without_a_service_is_a_sentence(folder, capsys):
    assert main(["http://127.0.0.1:9", "--bundle", str(folder)]) == 1
    said = capsys.readouterr().err
    assert said == "error: http://127.0.0.1:9/health: expected an answer, but: Connection refused.\n"


def test_a_service_that_is_not_registered_needs_its_bundle(folder, capsys, copy):
    manifest = Manifest.from_json((copy / "bundle.json").read_text(), where="copy")
    seal(copy, replace(manifest, model_version=None))

    with serving(app_of(copy)) as server:
        assert main([f"http://127.0.0.1:{server.port}"]) == 2

    assert "--bundle FOLDER" in capsys.readouterr().err


def test_without_tensorflow_the_rest_is_measured_and_what_was_left_out_is_said(folder):
    blocked = (
        "import sys; sys.modules.update(dict.fromkeys(['tensorflow', 'keras', 'tf2onnx']))\n"
        "import importlib.machinery, importlib.util\n"
        f"from tfpipe.verify.__main__ import main; sys.exit(main([{str(folder)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stderr
    assert "left out: saved_model: TensorFlow is not installed here." in done.stdout
    assert "model.int8.onnx" in done.stdout
