"""Batch prediction. Most of it on a small bundle, which needs no TensorFlow."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.full_disk import files_of_at_most
from tests.serving.bundles import BLUE, GREEN, LABELS, RED, make_bundle, reference
from tfpipe.core.errors import ConfigError
from tfpipe.predict import main, predict

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
WAIT_S = 120.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return str(make_bundle(tmp_path_factory.mktemp("bundles") / "colours"))


@pytest.fixture(scope="module")
def slow_bundle(tmp_path_factory):
    """Takes some hundredths of a second a batch."""
    return str(make_bundle(tmp_path_factory.mktemp("bundles") / "slow", work=40))


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    (folder / "b.png").write_bytes(BLUE)
    (folder / "a.png").write_bytes(RED)
    (folder / "deep" / "c.png").write_bytes(GREEN)
    return folder


def lines_of(file):
    # By "\n" alone: str.splitlines knows further ends of line, which JSON does not escape.
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]


def test_a_line_is_the_services_answer_with_its_input(bundle, images, tmp_path):
    result = predict(bundle, [images / "a.png"], tmp_path / "out.jsonl")

    (line,) = lines_of(tmp_path / "out.jsonl")
    assert list(line) == ["input", "predictions", "model_name", "model_version", "precision", "provider", "bundle"]
    assert line["input"] == str(images / "a.png")
    assert (line["model_name"], line["model_version"], line["precision"]) == ("colours", "3", "int8")
    assert len(line["bundle"]) == 12
    (prediction,) = line["predictions"]
    assert (prediction["label"], prediction["score"]) == ("red", prediction["probabilities"]["red"])
    assert list(prediction["probabilities"].values()) == sorted(prediction["probabilities"].values(), reverse=True)
    expected = dict(zip(LABELS, reference(RED), strict=True))
    assert prediction["probabilities"] == pytest.approx(expected, abs=0.02)
    assert (result.num_inputs, result.num_failed, result.num_resumed) == (1, 0, 0)


def test_lines_stand_in_the_order_of_the_inputs(bundle, images, tmp_path):
    manifest = tmp_path / "list.csv"
    manifest.write_text("label,path\nblue,images/b.png\nred,images/a.png\n")
    inputs = [images / "deep" / "c.png", images, manifest]

    predict(bundle, inputs, tmp_path / "out.jsonl", batch_size=2)

    lines = lines_of(tmp_path / "out.jsonl")
    names = ["deep/c.png", "a.png", "b.png", "deep/c.png", "b.png", "a.png"]
    assert [line["input"] for line in lines] == [str(images / name) for name in names]
    answers = [line["predictions"][0]["label"] for line in lines]
    assert answers == ["green", "red", "blue", "green", "blue", "red"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.jsonl", '{"path": "images/a.png"}\n\n{"path": "images/b.png", "label": "blue"}\n'),
        ("list.tsv", "path\tlabel\nimages/a.png\tred\nimages/b.png\tblue\n"),
    ],
)
def test_manifests_of_every_form_are_read_by_their_column_path(bundle, images, tmp_path, name, content):
    (tmp_path / name).write_text(content)

    predict(bundle, [tmp_path / name], tmp_path / "out.jsonl")

    assert [line["predictions"][0]["label"] for line in lines_of(tmp_path / "out.jsonl")] == ["red", "blue"]


def test_folders_are_searched_as_training_searches_them(bundle, images, tmp_path):
    (images / ".cache").mkdir()
    (images / ".cache" / "old.png").write_bytes(RED)
    (images / "notes.txt").write_text("none")
    (images / "linked").symlink_to(images / "deep", target_is_directory=True)

    predict(bundle, [images], tmp_path / "out.jsonl")

    names = ["a.png", "b.png", "deep/c.png", "linked/c.png"]
    assert [line["input"] for line in lines_of(tmp_path / "out.jsonl")] == [str(images / name) for name in names]


def test_a_file_that_cannot_be_read_has_an_error_in_its_place(bundle, images, tmp_path, capsys):
    (images / "aa.jpg").write_text("no image")
    (images / "ab.png").write_bytes(b"")
    manifest = tmp_path / "list.csv"
    manifest.write_text("path\nimages/missing.png\nimages/a.png\n")

    code = main(["--model", bundle, "--output", str(tmp_path / "out.jsonl"), str(images), str(manifest)])

    lines = lines_of(tmp_path / "out.jsonl")
    assert code == 0
    assert ["error" in line for line in lines] == [False, True, True, False, False, True, False]
    assert [list(line) for line in lines if "error" in line] == [["input", "error"]] * 3
    errors = [line["error"] for line in lines if "error" in line]
    assert {error["code"] for error in errors} == {"undecodable"}
    assert "expected a JPEG, PNG, BMP, GIF or WebP file" in errors[0]["message"]
    assert "received 0 bytes" in errors[1]["message"]
    assert "missing.png: expected a readable file" in errors[2]["message"]
    assert "7 predictions in" in capsys.readouterr().err


def test_unreadable_files_are_counted_in_the_result(bundle, images, tmp_path):
    (images / "z.png").write_bytes(RED[:40])

    result = predict(bundle, [images], tmp_path / "out.jsonl")

    assert (result.num_inputs, result.num_failed) == (4, 1)


@pytest.mark.parametrize("name", ["line\u2028separator é \x85.png", "tab\tand\nnewline.png", "日本/図.png"])
def test_any_name_is_an_input(bundle, tmp_path, name):
    file = tmp_path / "images" / name
    file.parent.mkdir(parents=True)
    file.write_bytes(GREEN)

    predict(bundle, [tmp_path / "images"], tmp_path / "out.jsonl")

    (line,) = lines_of(tmp_path / "out.jsonl")
    assert (line["input"], line["predictions"][0]["label"]) == (str(file), "green")


def test_a_name_that_is_not_utf8_is_made_printable(bundle, tmp_path):
    (tmp_path / "images").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "images") + b"/caf\xe9.png")).write_bytes(GREEN)

    predict(bundle, [tmp_path / "images"], tmp_path / "out.jsonl")

    (line,) = lines_of(tmp_path / "out.jsonl")
    assert line["input"] == str(tmp_path / "images" / "caf\\xe9.png")
    assert line["predictions"][0]["label"] == "green"


def many_images(folder, count=60):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        pixels = rng.integers(0, 256, (1, 1, 3), dtype=np.uint8).repeat(6, 0).repeat(9, 1)
        Image.fromarray(pixels).save(folder / f"image é {index:03d}.png")
    return folder


@pytest.fixture(scope="module")
def killed(slow_bundle, tmp_path_factory):
    """A job of 60 images that was killed in the middle: its folder of images and its unfinished output."""
    root = tmp_path_factory.mktemp("killed")
    folder, partial = many_images(root / "images"), root / "out.jsonl.partial"
    command = [
        sys.executable, "-m", "tfpipe.predict", "--model", slow_bundle, "--output", str(root / "out.jsonl"),
        "--batch-size", "3", str(folder),
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE)
    wait_for(lambda: lines_in(partial) >= 6, process)
    process.kill()
    process.communicate()
    assert lines_in(partial) < 60
    assert not (root / "out.jsonl").exists()
    return folder, partial


def lines_in(partial):
    part = partial / "part-0.jsonl"
    return part.read_bytes().count(b"\n") if part.exists() else 0


def wait_for(condition, process):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
def test_a_killed_job_goes_on_and_ends_as_if_it_had_not_been_killed(slow_bundle, killed, tmp_path):
    folder, left = killed
    partial = tmp_path / "out.jsonl.partial"
    shutil.copytree(left, partial)
    done = lines_in(partial)
    with open(partial / "part-0.jsonl", "r+b") as file:
        # What a kill in the middle of a write leaves, the last character in two.
        file.truncate(file.read().rfind(b"\n") + 1)
        file.seek(0, os.SEEK_END)
        file.write(f'{done}\t{{"input": "é'.encode()[:-1])

    resumed = predict(slow_bundle, [folder], tmp_path / "out.jsonl", batch_size=3)
    predict(slow_bundle, [folder], tmp_path / "whole.jsonl", batch_size=3)

    assert (resumed.num_inputs, resumed.num_resumed) == (60, done)
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not partial.exists()


@pytest.mark.slow
@pytest.mark.parametrize("other", ["model", "inputs"])
def test_an_unfinished_job_is_not_mixed_with_another(slow_bundle, bundle, images, killed, tmp_path, capsys, other):
    folder, left = killed
    shutil.copytree(left, tmp_path / "out.jsonl.partial")
    model, given = (bundle, folder) if other == "model" else (slow_bundle, images)
    command = ["--model", model, "--output", str(tmp_path / "out.jsonl"), str(given)]

    code = main(command)

    assert code == 2
    assert "holds an unfinished job with another model or other inputs. Give --overwrite" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()
    assert lines_in(tmp_path / "out.jsonl.partial") == lines_in(left)
    assert main([*command, "--overwrite"]) == 0
    assert not (tmp_path / "out.jsonl.partial").exists()


def test_a_job_that_was_killed_before_it_began_is_no_obstacle(bundle, images, tmp_path):
    (tmp_path / "out.jsonl.partial").mkdir()

    result = predict(bundle, [images], tmp_path / "out.jsonl")

    assert (result.num_inputs, result.num_resumed) == (3, 0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "input: expected a file, a folder or a manifest, found nothing at 'nowhere'"),
        (["empty"], "input: expected image files, found none in empty"),
        (["labels.csv"], "labels.csv: expected the column 'path', received 'file', 'label'. No label is needed."),
        (["broken.jsonl"], "broken.jsonl, line 1: expected one JSON object; Expecting value: line 1 column 10"),
        (["images", "--model", "nowhere"], "--model: expected a model.keras, a bundle or models:/..., found none at"),
        (["images", "--precision", "int4"], "int4"),
        (["images", "--batch-size", "0"], "--batch-size: expected at least 1, received 0"),
        (["images", "--output", "images"], "--output: expected a file, but 'images' is a folder"),
        (["images", "--output", "images", "--overwrite"], "--output: expected a file, but 'images' is a folder"),
        (["images", "--output", "there.jsonl"], "--output: 'there.jsonl' exists. Choose another file"),
        (["images", "--output", "there.jsonl/out.jsonl"], "--output: expected a folder that can be written, but"),
        (["images", "--output", "/proc/out.jsonl"], "--output: expected a folder that can be written, but"),
    ],
)
def test_wrong_input_gives_one_sentence_and_exit_code_2(
    bundle, images, tmp_path, monkeypatch, capsys, arguments, sentence
):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("labels.csv").write_text("file,label\nimages/a.png,red\n")
    Path("broken.jsonl").write_text('{"path": ')
    Path("there.jsonl").write_text("mine\n")
    before = {str(path) for path in tmp_path.rglob("*")}

    code = main(["--model", bundle, "--output", "out.jsonl", *arguments])

    error = capsys.readouterr().err
    assert code == 2
    assert sentence in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert {str(path) for path in tmp_path.rglob("*")} == before
    assert Path("there.jsonl").read_text() == "mine\n"


def test_a_path_that_no_file_can_have_is_an_error_in_its_place(bundle, images, tmp_path):
    (tmp_path / "list.jsonl").write_text('{"path": "a\\u0000b.png"}\n{"path": "images/a.png"}\n')

    predict(bundle, [tmp_path / "list.jsonl"], tmp_path / "out.jsonl")

    assert ["error" in line for line in lines_of(tmp_path / "out.jsonl")] == [True, False]


def test_on_a_full_disk_what_is_done_is_kept(bundle, tmp_path, capsys):
    folder = many_images(tmp_path / "images", 20)
    command = ["--model", bundle, "--output", str(tmp_path / "out.jsonl"), "--batch-size", "2", str(folder)]

    with files_of_at_most(3000):
        full = main(command)
    error = capsys.readouterr().err.splitlines()[-1]
    done = lines_in(tmp_path / "out.jsonl.partial")
    room = main(command)

    assert (full, room) == (1, 0)
    assert error == (
        f"error: --output: File too large. What is done is kept in {tmp_path}/out.jsonl.partial; "
        "the same command goes on."
    )
    assert 0 < done < 20
    assert f"20 predictions in {tmp_path}/out.jsonl, {done} of them from an earlier call" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_with_exit_code_75_and_keeps_what_is_done(slow_bundle, tmp_path, number):
    folder = many_images(tmp_path / "images", 400)
    output, part = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial" / "part-0.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "tfpipe.predict", "--model", slow_bundle, "--output", str(output), "--batch-size", "2",
         str(folder)],
        cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: lines_in(part.parent), process)

    process.send_signal(number)
    _, error = process.communicate(timeout=WAIT_S)

    assert process.returncode == 75
    assert f"stopped: what is done is kept in {output}.partial; the same command goes on.\n" in error
    assert "Traceback" not in error
    assert not output.exists()
    assert part.read_bytes().endswith(b"\n")


@pytest.mark.slow
@pytest.mark.horovod
@pytest.mark.tensorflow
def test_workers_share_the_files_and_give_what_one_process_gives(slow_bundle, tmp_path):
    folder = many_images(tmp_path / "images", 11)
    command = [
        str(Path(sys.executable).with_name("horovodrun")), "--gloo", "-np", "2",
        sys.executable, "-m", "tfpipe.predict", "--model", slow_bundle, "--output", str(tmp_path / "two.jsonl"),
        str(folder),
    ]  # fmt: skip

    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    predict(slow_bundle, [folder], tmp_path / "one.jsonl")

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("11 predictions in") + done.stderr.count("11 predictions in") == 1
    two, one = lines_of(tmp_path / "two.jsonl"), lines_of(tmp_path / "one.jsonl")
    assert [line["input"] for line in two] == [line["input"] for line in one]
    for line, other in zip(two, one, strict=True):
        assert line["predictions"][0]["probabilities"] == pytest.approx(other["predictions"][0]["probabilities"])


@pytest.mark.tensorflow
def test_a_keras_model_answers_as_it_does_in_keras(images, tmp_path):
    from tests.models.assembled import assembled
    from tfpipe.decode import decode_image
    from tfpipe.training.artifacts import save_model

    parts = assembled(labels=("red", "green", "blue"))
    (tmp_path / "run").mkdir()
    save_model(parts, tmp_path / "run" / "model.keras")

    predict(str(tmp_path / "run" / "model.keras"), [images], tmp_path / "file.jsonl")
    predict(str(tmp_path / "run"), [images], tmp_path / "folder.jsonl")

    lines = lines_of(tmp_path / "file.jsonl")
    assert lines == lines_of(tmp_path / "folder.jsonl")
    assert (lines[0]["model_name"], lines[0]["model_version"], lines[0]["precision"]) == ("run", None, "keras")
    for line in lines:
        expected = parts.model.predict(decode_image(Path(line["input"]).read_bytes())[None], verbose=0)[0]
        probabilities = line["predictions"][0]["probabilities"]
        np.testing.assert_allclose([probabilities[label] for label in parts.labels], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.tensorflow
def test_a_keras_model_has_no_precision_to_choose(images, tmp_path):
    from tests.models.assembled import assembled

    assembled().model.save(tmp_path / "model.keras")

    with pytest.raises(ConfigError, match=r"--precision: .* is a Keras model, which has none to choose"):
        predict(str(tmp_path / "model.keras"), [images], tmp_path / "out.jsonl", precision="int8")
