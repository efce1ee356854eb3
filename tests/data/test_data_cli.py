import json

import pytest

from tests.image_files import write_class_folders
from tfpipe.data.__main__ import main
from tfpipe.data.sources import open_source


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_class_folders(tmp_path / "data", {"cat": 4, "dog": 4})


def test_good_data_give_exit_code_0_and_a_summary(data, capsys):
    code = main(["validate", "data", "--output", "report"])

    assert code == 0
    assert capsys.readouterr().out == (
        "data: 8 training samples, 2 classes\n"
        "Passed: 0 error(s), 0 warning(s).\n"
        "Report: report/validation.html and validation.json\n"
    )


def test_errors_give_exit_code_3_and_are_named(data, capsys):
    (data / "cat" / "bad.jpg").write_text("text")

    code = main(["validate", "data", "--output", "report"])

    assert code == 3
    assert "  error    Files that are no JPEG, PNG, BMP, GIF or WebP: 1.\n           cat/bad.jpg\n" in (
        capsys.readouterr().out
    )
    assert json.loads((data.parent / "report" / "validation.json").read_text())["passed"] is False


def test_warnings_alone_give_exit_code_0(data, capsys):
    write_class_folders(data, {"wolf": 1}, first_seed=50)

    assert main(["validate", "data", "--output", "report"]) == 0
    assert "  warning  Classes further than 20%" in capsys.readouterr().out


def test_keys_may_stand_anywhere(data):
    assert (
        main(["validate", "data.min_image_size=100", "data", "--output", "report", "data.balance_tolerance=0.5"]) == 3
    )


def test_validation_data_are_compared(data, tmp_path, capsys):
    write_class_folders(tmp_path / "val", {"cat": 1, "dog": 1})

    assert main(["validate", "data", "--validation", "val", "--output", "report"]) == 3
    assert "Pictures in more than one of training, validation: 2." in capsys.readouterr().out


def test_the_data_of_a_run_are_those_of_its_config(data, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text("data:\n  path: data\n  validation_fraction: 0.5\n")

    assert main(["validate", "--config", "run.yaml", "--output", "report"]) == 0
    assert "data: 4 training, 4 validation samples, 2 classes" in capsys.readouterr().out


def test_a_table_without_header_is_read_by_its_columns(data, tmp_path):
    (tmp_path / "m.csv").write_text("data/cat/000.jpg,cat\ndata/dog/000.jpg,dog\n")

    assert main(["validate", "m.csv", "data.columns=[path,label]", "--output", "report"]) == 0


def test_pack_says_what_it_wrote_and_how_to_use_it(data, capsys):
    code = main(["pack", "data", "--output", "packed", "--shards", "2", "training.seed=3"])

    assert code == 0
    out = capsys.readouterr().out
    assert "Packed 8 samples of 2 classes.\n2 shards, content " in out
    assert out.endswith("Use: data.path=packed\n")
    assert len(open_source("packed")) == 8


def test_pack_skips_corrupt_samples_where_asked(data, capsys):
    (data / "cat" / "bad.jpg").write_text("text")

    assert main(["pack", "data", "--output", "packed"]) == 2
    assert main(["pack", "data", "--output", "packed", "--skip-corrupt"]) == 0
    assert main(["pack", "data", "--output", "packed", "--skip-corrupt", "--overwrite"]) == 0
    assert "Packed 8 samples of 2 classes, 1 corrupt ones skipped." in capsys.readouterr().out


def test_a_file_whose_name_begins_like_a_key_is_a_path(data, tmp_path):
    (tmp_path / "data.csv").write_text("path,label\ndata/cat/000.jpg,cat\ndata/dog/000.jpg,dog\n")

    assert main(["validate", "data.csv", "--output", "report"]) == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["validate", "absent", "--output", "report"], "nothing at 'absent'"),
        (["validate", "--output", "report"], "expected a PATH, received none"),
        (["validate", "data", "other", "--output", "report"], "expected one PATH"),
        (["validate", "data", "training.epochs=3", "--output", "report"], "expected one PATH"),
        (["validate", "data", "data.min_size=3", "--output", "report"], "Did you mean 'data.min_image_size'"),
        (["validate", "data", "data.min_image_size=few", "--output", "report"], "data.min_image_size: expected"),
        (["validate", "--config", "absent.yaml", "--output", "report"], "expected a YAML file"),
        (
            ["validate", "data", "--tokenizer", "x", "--output", "report"],
            "--tokenizer: expected texts, received task im",
        ),
        (["validate", "messages", "--output", "report"], "'messages', which are texts. Set task=text_classification"),
        (["pack", "data", "preprocessing.max_length=9", "--output", "packed"], "expected one PATH"),
        (["pack", "data", "--output", "data"], "expected a folder outside of the data"),
        (["pack", "data", "--output", "packed", "--shards", "100"], "expected 1 to 8"),
        (["pack", "data", "--output", "/proc/packed"], "--output: expected a folder that can be written, but '/proc'"),
        (["validate", "data", "--output", "/proc/x"], "--output: expected a folder that can be written, but '/proc/x'"),
    ],
)
def test_wrong_input_gives_exit_code_2_one_sentence_and_no_files(data, tmp_path, capsys, arguments, sentence):
    code = main(arguments)

    assert code == 2
    assert sentence in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("arguments", [[], ["check"], ["validate", "data"], ["pack", "--output"]])
def test_wrong_usage_gives_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)

    assert stopped.value.code == 2
    assert "usage:" in capsys.readouterr().err
