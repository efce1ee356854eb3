import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.full_disk import files_of_at_most
from tests.serving.bundles import make_bundle
from tfpipe.core.errors import BundleError, ConfigError, GateError, RegistryError
from tfpipe.targets.command import main
from tfpipe.targets.export import CARD, TARGETS, ExportOptions, export

# Without a SavedModel in the bundle, which only TensorFlow writes; see test_tfserving.py.
WITHOUT_TENSORFLOW = [target for target in TARGETS if target != "tfserving"]


@pytest.mark.parametrize("target", WITHOUT_TENSORFLOW)
def test_an_export_says_what_it_is_of_and_how_it_is_served(bundle, tmp_path, target):
    result = export(bundle, target, tmp_path / "out")

    card = json.loads((result.folder / CARD).read_text())
    assert card["target"] == target
    assert (card["model_name"], card["model_version"], card["precision"]) == ("colours", "3", "int8")
    assert card["bundle"] == result.bundle.sha256
    assert result.bundle.sha256 in (result.folder / "README.md").read_text()


@pytest.mark.parametrize("target", WITHOUT_TENSORFLOW)
def test_a_bundle_that_answers_otherwise_than_keras_is_not_exported(tmp_path, target):
    bundle = make_bundle(tmp_path / "bundle", golden_offset=0.3)

    with pytest.raises(GateError, match=r"golden sample golden/red\.png: expected answers within"):
        export(bundle, target, tmp_path / "out")

    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_with_other_files_is_refused_even_to_overwrite(bundle, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")

    with pytest.raises(ConfigError, match="holds files that no export wrote"):
        export(bundle, "onnx", tmp_path, overwrite=True)

    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_earlier_export_is_replaced_only_when_asked_to(bundle, text_bundle, tmp_path):
    export(bundle, "onnx", tmp_path / "out")

    with pytest.raises(ConfigError, match=r"holds an earlier export.*--overwrite"):
        export(text_bundle, "onnx", tmp_path / "out")
    export(text_bundle, "onnx", tmp_path / "out", overwrite=True)

    assert not (tmp_path / "out" / "preprocess.onnx").exists()
    assert json.loads((tmp_path / "out" / CARD).read_text())["model_name"] == "moods"


def test_a_file_in_the_place_of_the_output_is_refused(bundle, tmp_path):
    (tmp_path / "out").write_text("mine")

    with pytest.raises(ConfigError, match="is a file"):
        export(bundle, "onnx", tmp_path / "out", overwrite=True)


def test_an_empty_folder_is_written_into(bundle, tmp_path):
    (tmp_path / "out").mkdir()

    assert (export(bundle, "onnx", tmp_path / "out").folder / "model.onnx").is_file()


@pytest.mark.parametrize("target", WITHOUT_TENSORFLOW)
def test_a_full_disk_leaves_nothing(bundle, tmp_path, target, capsys):
    with files_of_at_most(200):
        code = main([str(bundle), "--target", target, "--output", str(tmp_path / "out")])

    assert code == 1
    assert "File too large" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"expected a bundle .* found no bundle"):
        export(tmp_path, "onnx", tmp_path / "out")


def test_a_changed_bundle_is_refused(tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    (bundle / "model.int8.onnx").write_bytes(b"another")

    with pytest.raises(BundleError, match=r"model\.int8\.onnx"):
        export(bundle, "onnx", tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_choices_that_there_are_not_are_refused_by_name(bundle, tmp_path):
    for options, words in (
        (ExportOptions(precision="int4"), "expected precision .* received 'int4'"),
        (
            ExportOptions(triton_backend="tensorrt"),
            "--triton-backend: expected python, onnxruntime; received 'tensorrt'",
        ),
        (ExportOptions(device="tpu"), "--device: expected cpu, gpu; received 'tpu'"),
        (ExportOptions(name="../up"), r"--name: expected .* received '\.\./up'"),
    ):
        with pytest.raises((ConfigError, BundleError), match=words):
            export(bundle, "triton", tmp_path / "out", options=options)
    with pytest.raises(ConfigError, match="--target: expected tfserving, triton, mlflow, onnx; received 'torchserve'"):
        export(bundle, "torchserve", tmp_path / "out")


def test_an_unknown_target_on_the_command_line_is_wrong_usage(bundle, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main([str(bundle), "--target", "torchserve", "--output", str(tmp_path / "out")])

    assert ended.value.code == 2
    assert "torchserve" in capsys.readouterr().err


def test_a_bundle_without_a_saved_model_is_not_for_tensorflow_serving(bundle, tmp_path):
    with pytest.raises(BundleError, match="expected a SavedModel"):
        export(bundle, "tfserving", tmp_path / "out")


def test_a_registry_that_is_not_there_is_said(tmp_path):
    with pytest.raises(RegistryError, match="found none"):
        export("models:/colours/3", "onnx", tmp_path / "out", tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")


@pytest.mark.parametrize("target", WITHOUT_TENSORFLOW)
def test_no_target_needs_tensorflow(bundle, tmp_path, target):
    blocked = dict.fromkeys(("tensorflow", "keras", "horovod", "tf2onnx"))
    program = f"import sys; sys.modules.update({blocked}); from tfpipe.cli import main; sys.exit(main())"
    arguments = ["export", str(bundle), "--target", target, "--output", str(tmp_path / "out")]

    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=Path.cwd(), env={**os.environ}
    )

    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "out" / "README.md") in done.stderr
