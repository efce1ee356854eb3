"""What is written is what is read, and anything else is refused with its place."""

import hashlib
import json
import shutil
import subprocess
import sys

import pytest
from hypothesis import given

from tests.text.texts import any_text
from tfpipe.core.errors import BundleError
from tfpipe.text.golden import AWKWARD_TEXTS
from tfpipe.text.tokenizer import load_tokenizer

KINDS = ["byte_pairs", "sentence_pieces", pytest.param("word_pieces", marks=pytest.mark.tensorflow)]


@pytest.fixture(scope="module", params=KINDS)
def saved(request, tmp_path_factory):
    tokenizer = request.getfixturevalue(request.param)
    folder = tmp_path_factory.mktemp("saved") / "tokenizer"
    tokenizer.save(folder)
    return tokenizer, load_tokenizer(folder), folder


@given(text=any_text())
def test_a_loaded_tokenizer_gives_the_same_tokens(saved, text):
    tokenizer, loaded, _ = saved

    assert loaded.encode(text) == tokenizer.encode(text)


def test_a_loaded_tokenizer_has_the_same_special_tokens(saved):
    tokenizer, loaded, _ = saved

    for name in ("kind", "vocabulary_size", "pad_id", "start_id", "end_id", "unknown_id"):
        assert getattr(loaded, name) == getattr(tokenizer, name)


def test_saving_what_was_loaded_writes_the_same_files(saved, tmp_path):
    _, loaded, folder = saved

    loaded.save(tmp_path)

    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {
        file.name: file.read_bytes() for file in folder.iterdir()
    }


@pytest.fixture
def copies(saved, tmp_path):
    """One copy of the folder for each of its files, under that file's name."""
    _, _, folder = saved
    names = [file.name for file in folder.iterdir()]
    assert "tokenizer.json" in names
    return [shutil.copytree(folder, tmp_path / name) for name in names]


def test_any_file_that_was_changed_is_refused(copies):
    for copy in copies:
        content = bytearray((copy / copy.name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / copy.name).write_bytes(bytes(content))

        with pytest.raises(BundleError, match=str(copy)):
            load_tokenizer(copy)


def test_any_file_that_is_missing_is_refused(copies):
    for copy in copies:
        (copy / copy.name).unlink()

        with pytest.raises(BundleError, match=copy.name):
            load_tokenizer(copy)


def change_manifest(folder, **values):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture
def folder(byte_pairs, tmp_path):
    byte_pairs.save(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format_version": 99}, "expected format version 1, received 99"),
        ({"kind": "unigram"}, "kind: expected wordpiece, bpe or sentencepiece, received 'unigram'"),
        ({"kind": "wordpiece"}, "a wordpiece tokenizer needs the file 'vocabulary.txt'; it is not here"),
        ({"options": {"lower": True}}, "expected a byte-level BPE tokenizer; .*unexpected keyword argument 'lower'"),
        ({"special_tokens": {"pad": "<pad>"}}, "expected a complete tokenizer manifest"),
        (
            {"special_tokens": {"pad": "no", "start": "<s>", "end": "</s>", "unknown": "<unk>"}},
            "the padding token 'no'",
        ),
        ({"files": {"../golden.jsonl": ""}}, "files: expected names within the folder, received '../golden.jsonl'"),
        ({"files": []}, "expected a complete tokenizer manifest"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(folder, values, message):
    change_manifest(folder, **values)

    with pytest.raises(BundleError, match=message):
        load_tokenizer(folder)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"expected a tokenizer's folder, but it has no tokenizer\.json"):
        load_tokenizer(tmp_path / "none")


@pytest.mark.parametrize("content", ['{"version": "1.0", "model": {"type": "WordPiece"}}', "[]", "no JSON", "\xff"])
def test_a_file_of_the_same_name_of_another_program_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content, encoding="latin-1")

    with pytest.raises(BundleError, match="expected the manifest of a tokenizer of tfpipe, received another file"):
        load_tokenizer(tmp_path)


def test_other_ids_than_the_golden_ones_are_refused_with_the_text(byte_pairs, folder):
    # As if the library tokenised otherwise than where the folder was made: hashes fit, ids do not.
    merges = (folder / "merges.txt").read_text().splitlines()
    other = type(byte_pairs)(byte_pairs.vocabulary, merges[:-80], byte_pairs.options, byte_pairs.special_tokens)
    golden = (folder / "golden.jsonl").read_bytes()
    other.save(folder)
    (folder / "golden.jsonl").write_bytes(golden)
    manifest = json.loads((folder / "tokenizer.json").read_text())
    change_manifest(folder, files={**manifest["files"], "golden.jsonl": hashlib.sha256(golden).hexdigest()})

    with pytest.raises(BundleError, match=r"golden\.jsonl, line \d+: for '.+' expected ids .+, received ids "):
        load_tokenizer(folder)


def test_golden_texts_are_no_unicode_normal_form():
    # They travel as ASCII: an editor that normalises must not be able to weaken them.
    assert any("e\u0301" in text for text in AWKWARD_TEXTS)
    assert any("\u00e9" in text for text in AWKWARD_TEXTS)
    assert any("\0" in text for text in AWKWARD_TEXTS)


def test_a_loaded_tokenizer_needs_no_training_stack(saved):
    tokenizer, _, folder = saved
    text = "The quick brown fox: déjà vu 北京 😀"
    script = (
        "import sys; sys.modules.update(dict.fromkeys(('tensorflow', 'tensorflow_text', 'keras', 'keras_hub')));"
        "from pathlib import Path; from tfpipe.text.tokenizer import load_tokenizer;"
        "print(load_tokenizer(Path(sys.argv[1])).encode(sys.argv[2]).ids)"
    )

    run = [sys.executable, "-c", script, str(folder), text]
    printed = subprocess.run(run, check=True, capture_output=True, text=True).stdout

    assert json.loads(printed) == tokenizer.encode(text).ids
