import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, version_converter

from tests.serving.bundles import LABELS, make_bundle
from tfpipe.core.bundle import open_bundle, read_golden
from tfpipe.core.errors import BundleError, ConversionError
from tfpipe.core.parity import BOUNDS, assert_parity
from tfpipe.decode import decode_image
from tfpipe.ort import open_session
from tfpipe.targets.answering import BundleAnswers
from tfpipe.targets.export import ExportOptions, export
from tfpipe.targets.onnx_files import compose_whole


@pytest.fixture(scope="module")
def images(bundle, tmp_path_factory):
    return export(
        bundle, "onnx", tmp_path_factory.mktemp("onnx") / "out", options=ExportOptions(precision="fp32")
    ).folder


def run_example(folder):
    """Run the Python of a README in its folder, on this checkout; returns what it prints."""
    [code] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readmes_example_answers_an_image_as_keras_did(images, bundle):
    label, score = run_example(images).split()

    expected = read_golden(open_bundle(bundle))[0].probabilities
    assert label == LABELS[expected.argmax()]
    assert float(score) == pytest.approx(float(expected.max()), abs=1e-4)


@pytest.mark.parametrize("kind", ["text_bundle", "tags_bundle"])
def test_the_readmes_example_answers_a_text_as_our_own_code_does(request, tmp_path, kind):
    bundle = request.getfixturevalue(kind)
    folder = export(bundle, "onnx", tmp_path / "out").folder
    answers = BundleAnswers(open_bundle(bundle))
    [one] = answers.of([(folder / "golden" / "0000.txt").read_bytes()])

    printed = run_example(folder)

    best = np.atleast_2d(one.probabilities).argmax(axis=-1)
    assert printed.strip() == str([answers.inference.labels[index] for index in best])


def test_one_graph_answers_decoded_images_of_any_size_as_keras_did(images, bundle):
    opened = open_bundle(bundle)
    session = open_session(images / "whole.onnx", provider="cpu")

    for sample in read_golden(opened):
        pixels = decode_image(opened.path(sample.file).read_bytes())
        answer = session.run({"image": pixels})
        assert list(answer) == ["probabilities"]
        assert_parity(answer["probabilities"], sample.probabilities, BOUNDS["fp32"], where="whole.onnx")


@settings(max_examples=30)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 99))
def test_one_graph_is_its_two_parts_for_any_image(images, height, width, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    preprocess, model, whole = (
        open_session(images / file, provider="cpu", threads=1)
        for file in ("preprocess.onnx", "model.onnx", "whole.onnx")
    )

    row = preprocess.run({"image": pixels})["input"]

    np.testing.assert_array_equal(
        whole.run({"image": pixels})["probabilities"], model.run({"input": row[None]})["probabilities"][0]
    )


def test_the_files_are_those_of_the_precision_asked_for(bundle, tmp_path):
    folder = export(bundle, "onnx", tmp_path / "out", options=ExportOptions(precision="fp16")).folder

    assert (folder / "model.onnx").read_bytes() == (bundle / "model.fp16.onnx").read_bytes()
    assert (folder / "labels.txt").read_text() == "red\ngreen\nblue\n"
    assert json.loads((folder / "export.json").read_text())["precision"] == "fp16"


def test_graphs_of_different_operator_sets_are_composed(images):
    preprocess, model = onnx.load(images / "preprocess.onnx"), onnx.load(images / "model.onnx")
    later = version_converter.convert_version(model, 20)
    later.ir_version = 10
    pixels = np.full((5, 7, 3), 200, np.uint8)

    whole = compose_whole(preprocess, later)

    expected = open_session(images / "whole.onnx", provider="cpu").run({"image": pixels})["probabilities"]
    received = open_session(whole.SerializeToString(), provider="cpu").run({"image": pixels})["probabilities"]
    assert_parity(received, expected, BOUNDS["fp32"], where="opset 20")


def test_every_output_of_the_model_is_one_of_the_whole(images):
    model = onnx.load(images / "model.onnx")
    model.graph.output.append(helper.make_tensor_value_info("means", TensorProto.FLOAT, ["batch", 3]))
    session = open_session(
        compose_whole(onnx.load(images / "preprocess.onnx"), model).SerializeToString(), provider="cpu"
    )

    answer = session.run({"image": np.full((4, 4, 3), 51, np.uint8)})

    assert {name: value.shape for name, value in answer.items()} == {"probabilities": (3,), "means": (3,)}
    np.testing.assert_allclose(answer["means"], 0.2, atol=1e-6)


def test_what_does_not_fit_together_is_refused(images):
    preprocess, model = onnx.load(images / "preprocess.onnx"), onnx.load(images / "model.onnx")
    preprocess.graph.output.append(preprocess.graph.output[0])

    with pytest.raises(ConversionError, match=r"whole\.onnx: expected preprocessing and model to compose"):
        compose_whole(preprocess, model)


def test_a_label_of_two_lines_is_refused(tmp_path):
    bundle = make_bundle(tmp_path / "bundle", manifest_changes={"labels": ("red", "light\ngreen", "blue")})

    with pytest.raises(BundleError, match=r"expected labels of one line.*received 'light\\ngreen'"):
        export(bundle, "onnx", tmp_path / "out")
