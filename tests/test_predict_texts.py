"""Batch prediction of texts."""

import json

import numpy as np
import pytest

from tests.full_disk import files_of_at_most
from tests.serving.text_bundles import CLASSES, TAGS, make_text_bundle, text_reference
from tests.text.texts import CORPUS
from tfpipe.core.errors import ConfigError
from tfpipe.predict import main, predict
from tfpipe.scoring import open_scorer
from tfpipe.text.train_tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(CORPUS, kind="bpe", vocabulary_size=400)


@pytest.fixture(scope="module")
def bundle(tokenizer, tmp_path_factory):
    return str(make_text_bundle(tmp_path_factory.mktemp("bundles") / "moods", tokenizer))


@pytest.fixture(scope="module")
def tags_bundle(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "names"
    return str(make_text_bundle(folder, tokenizer, task="token_classification"))


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    (folder / "deep").mkdir(parents=True)
    (folder / "b.txt").write_text("The quick brown fox\n", encoding="utf-8")
    (folder / "a.txt").write_text("größer\r\nals 😀", encoding="utf-8")
    (folder / "deep" / "c.TXT").write_bytes(b"")
    (folder / "picture.png").write_bytes(b"none")
    return folder


def lines_of(file):
    # By "\n" alone: str.splitlines knows further ends of line, which JSON does not escape.
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]


def expected(tokenizer, text):
    return pytest.approx(
        dict(zip(CLASSES, text_reference(tokenizer, text, task="text_classification").tolist(), strict=True)), abs=1e-5
    )


def test_a_file_is_a_text_and_a_folder_is_its_files(bundle, texts, tokenizer, tmp_path):
    result = predict(bundle, [texts / "b.txt", texts], tmp_path / "out.jsonl", batch_size=2)

    lines = lines_of(tmp_path / "out.jsonl")
    assert [line["input"] for line in lines] == [
        str(texts / name) for name in ("b.txt", "a.txt", "b.txt", "deep/c.TXT")
    ]
    assert list(lines[0]) == ["input", "predictions", "model_name", "model_version", "precision", "provider", "bundle"]
    # Without the line break at the end, as training reads a file.
    for line, text in zip(lines, ["The quick brown fox", "größer\r\nals 😀", "The quick brown fox", ""], strict=True):
        assert line["predictions"][0]["probabilities"] == expected(tokenizer, text)
    assert (result.num_inputs, result.num_failed) == (4, 0)


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("list.csv", 'id,text\n1,"one, two"\n2,größer\n\n3,\n', [2, 3, 5]),
        ("list.tsv", "text\tid\none, two\t1\ngrößer\t2\n\t3\n", [2, 3, 4]),
        ("list.jsonl", '{"text": "one, two"}\n\n{"text": "größer", "id": 2}\n{"text": ""}\n', [1, 3, 4]),
    ],
)
def test_a_manifest_has_an_answer_for_each_row_with_its_line(bundle, tokenizer, tmp_path, name, content, lines):
    manifest = tmp_path / name
    manifest.write_text(content, encoding="utf-8")

    predict(bundle, [manifest], tmp_path / "out.jsonl")

    answers = lines_of(tmp_path / "out.jsonl")
    assert [answer["input"] for answer in answers] == [f"{manifest}:{line}" for line in lines]
    for answer, text in zip(answers, ["one, two", "größer", ""], strict=True):
        assert answer["predictions"][0]["probabilities"] == expected(tokenizer, text)


def test_a_row_or_file_that_is_no_text_has_an_error_in_its_place(bundle, texts, tmp_path, capsys):
    (texts / "aa.txt").write_bytes(b"\xffno")
    manifest = tmp_path / "list.jsonl"
    manifest.write_text(
        '{"text": "good"}\n{"text": null}\n{"text": 7}\n{"text": ["a"]}\n{"label": "b"}\n"a"\n'
        '{"text": "\\ud800"}\n{"text": "%s"}\n{"text": "good"}\n' % ("x" * 100_001)
    )
    ragged = tmp_path / "ragged.csv"
    ragged.write_text("text,label\ngood,a\nbad\n")

    code = main(["--model", bundle, "--output", str(tmp_path / "out.jsonl"), str(texts), str(manifest), str(ragged)])

    lines = lines_of(tmp_path / "out.jsonl")
    errors = [line["error"]["message"] for line in lines if "error" in line]
    assert code == 0
    assert ["error" in line for line in lines] == [False, True, False, False, *[False, *[True] * 7, False], False, True]
    assert {line["error"]["code"] for line in lines if "error" in line} == {"undecodable"}
    for error, sentence in zip(
        errors,
        [
            "aa.txt: expected UTF-8 text; byte 0 is not",
            "list.jsonl:2: expected a string as `text`, received null.",
            "list.jsonl:3: expected a string as `text`, received 7.",
            'list.jsonl:4: expected a string as `text`, received ["a"].',
            "list.jsonl:5: expected the key 'text', received 'label'.",
            "list.jsonl:6: expected an object with the keys text, received ",
            "received a lone surrogate U+D800",
            "expected at most 100000 characters, received 100001",
            "ragged.csv:3: expected 2 fields, received 1.",
        ],
        strict=True,
    ):
        assert sentence in error
    assert "9 unreadable" in capsys.readouterr().err


def test_entities_are_those_of_the_rows_own_text(tags_bundle, tmp_path):
    text = "😀 Ana was in São Paulo, she says. " * 9
    (tmp_path / "list.jsonl").write_text(json.dumps({"text": text}) + "\n")

    predict(tags_bundle, [tmp_path / "list.jsonl"], tmp_path / "out.jsonl")

    (line,) = lines_of(tmp_path / "out.jsonl")
    (prediction,) = line["predictions"]
    assert prediction["entities"][-1]["end"] > len(text) - 40
    for entity in prediction["entities"]:
        assert text[entity["start"] : entity["end"]] == entity["text"]


def test_answers_do_not_depend_on_the_batch(bundle, tmp_path):
    manifest = tmp_path / "list.jsonl"
    manifest.write_text(
        "".join(json.dumps({"text": text * (1 + index % 4)}) + "\n" for index, text in enumerate(CORPUS))
    )

    for size in (1, 5, 32):
        predict(bundle, [manifest], tmp_path / f"{size}.jsonl", batch_size=size)

    alone = lines_of(tmp_path / "1.jsonl")
    for size in (5, 32):
        for line, other in zip(lines_of(tmp_path / f"{size}.jsonl"), alone, strict=True):
            assert line["input"] == other["input"]
            received, reference = (each["predictions"][0]["probabilities"] for each in (line, other))
            assert received == pytest.approx(reference, abs=1e-5)


@pytest.mark.parametrize("changed", [False, True])
def test_an_unfinished_job_goes_on_unless_a_text_was_changed(bundle, tmp_path, capsys, changed):
    manifest = tmp_path / "list.jsonl"
    manifest.write_text("".join(json.dumps({"text": f"text {index}"}) + "\n" for index in range(20)))
    command = ["--model", bundle, "--output", str(tmp_path / "out.jsonl"), "--batch-size", "2", str(manifest)]
    with files_of_at_most(3000):
        assert main(command) == 1
    capsys.readouterr()
    if changed:
        manifest.write_text(manifest.read_text().replace("text 5", "text 6"))

    code = main(command)

    error = capsys.readouterr().err
    if changed:
        assert code == 2
        assert "holds an unfinished job with another model or other inputs" in error
    else:
        assert code == 0
        assert "of them from an earlier call" in error
        predict(bundle, [manifest], tmp_path / "whole.jsonl", batch_size=2)
        resumed, whole = (
            [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
            for name in ("out.jsonl", "whole.jsonl")
        )
        assert [line["input"] for line in resumed] == [line["input"] for line in whole]
        # Other texts stand beside each other in a batch: float32 rounds otherwise.
        for answer, expected in zip(resumed, whole, strict=True):
            (given,), (wanted,) = answer["predictions"], expected["predictions"]
            assert given["label"] == wanted["label"]
            assert given["probabilities"] == pytest.approx(wanted["probabilities"], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("list.csv", b"path,label\na,b\n", "list.csv: expected the column 'text', received 'path', 'label'."),
        ("list.jsonl", b'{"txt": "a"}\n7\n', "list.jsonl, line 1: expected the key 'text', received 'txt'."),
        ("list.jsonl", b"", "input: expected text files, found none in list.jsonl"),
        ("list.jsonl", b'{"text": ', "list.jsonl, line 1: expected one JSON object"),
        ("list.csv", "text\nä\n".encode("latin-1"), "list.csv: expected UTF-8 text; byte 5 is not"),
        ("folder", None, "input: expected text files, found none in folder"),
    ],
)
def test_wrong_input_gives_one_sentence_and_exit_code_2(bundle, tmp_path, monkeypatch, capsys, name, content, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    if content is not None:
        (tmp_path / name).write_bytes(content)

    code = main(["--model", bundle, "--output", "out.jsonl", name])

    error = capsys.readouterr().err
    assert code == 2
    assert sentence in error
    assert error.startswith("error: ")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.fixture(scope="module", params=["one class", "several labels", "tags"])
def run(request, tokenizer, tmp_path_factory):
    """What training leaves of a small model of texts, and the model."""
    import keras

    from tfpipe.models.assembly import assemble_text
    from tfpipe.tasks.find import find_task
    from tfpipe.text.tokenizer import open_saved
    from tfpipe.training.artifacts import save_model, save_tokenizer

    keras.utils.set_random_seed(1)
    folder = tmp_path_factory.mktemp("runs") / "run"
    tokenizer.save(folder / "made")
    per_token, num_labels = request.param == "tags", len(TAGS if request.param == "tags" else CLASSES)
    ids = keras.Input((None,), dtype="int32")
    vectors = keras.layers.Embedding(tokenizer.vocabulary_size, 8)(ids)
    network = keras.Model(
        ids,
        keras.layers.Dense(num_labels)(vectors if per_token else keras.layers.GlobalMaxPooling1D()(vectors)),
        name="network",
    )
    task = find_task(
        "token_classification" if per_token else "text_classification",
        TAGS if per_token else CLASSES,
        multi_label=request.param == "several labels",
    )
    parts = assemble_text(open_saved(folder / "made"), network, task, max_length=24)
    save_model(parts, folder / "model.keras")
    save_tokenizer(parts, folder)
    return folder, parts


@pytest.mark.tensorflow
def test_a_keras_model_answers_texts_as_it_does_in_keras(run, tokenizer, tmp_path):
    folder, parts = run
    texts = ["The quick brown fox", "größer 😀", "Ana was in São Paulo"]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))

    predict(str(folder), [tmp_path / "list.jsonl"], tmp_path / "out.jsonl", batch_size=1)

    lines = lines_of(tmp_path / "out.jsonl")
    assert (lines[0]["model_name"], lines[0]["precision"], lines[0]["provider"]) == ("run", "keras", "tensorflow")
    scorer = open_scorer(str(folder))
    for text, line in zip(texts, lines, strict=True):
        (prediction,) = line["predictions"]
        prepared = scorer.inference.prepare(text)
        (row,) = prepared.rows
        padded = scorer.inference.batch([row])
        assert row.tolist() == [tokenizer.start_id, *tokenizer.encode(text).ids, tokenizer.end_id]
        expected = np.asarray(parts.model.predict(padded, verbose=0))[0]
        if "entities" in prediction:
            assert prediction == prepared.answer([expected[: len(row)]])
        else:
            received = [prediction["probabilities"][label] for label in CLASSES]
            np.testing.assert_allclose(received, expected, atol=1e-6)


@pytest.mark.tensorflow
def test_a_keras_model_of_texts_has_no_precision_to_choose(run, tmp_path):
    (tmp_path / "a.txt").write_text("a")

    with pytest.raises(ConfigError, match=r"--precision: .* is a Keras model, which has none to choose"):
        predict(str(run[0]), [tmp_path / "a.txt"], tmp_path / "out.jsonl", precision="int8")
