import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.text.texts import CORPUS, any_text
from tfpipe.config import parse_config
from tfpipe.data.__main__ import main
from tfpipe.data.text_inspection import is_garbled
from tfpipe.data.text_page import histogram
from tfpipe.data.token_counts import count_tokens
from tfpipe.data.validate import validate_config
from tfpipe.text.packing import pack
from tfpipe.text.tokenizer import load_tokenizer
from tfpipe.text.train_tokenizer import train_tokenizer

SENTENCES = {
    "praise": ["Alles kam pünktlich an.", "とても満足しています。", "Great service!", "شكرا جزيلا لكم"],
    "complaint": ["Le colis est abîmé.", "Nobody answers.", "Ще чакам ли още?", "देर हो गई"],
}
BIO = "Ana\tB-PER\nMaria\tI-PER\nging\tO\n\nRom\tB-LOC\n"


def write(path, content):
    path.write_text(content, encoding="utf-8")
    return path


def rows(sentences=None):
    return [(text, label) for label, texts in (sentences or SENTENCES).items() for text in texts]


def write_table(path, labelled=None):
    return write(path, "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in labelled or rows()))


@pytest.fixture
def check(tmp_path):
    """Validates data.jsonl, or a file of its own; gives {kind: [identifiers]}."""

    def run(path=None, task="text_classification", preprocessing=None, **data):
        data = {"path": str(path or tmp_path / "data.jsonl"), "validation_fraction": 0.0, **data}
        config = parse_config({"task": task, "data": data, "preprocessing": preprocessing or {}}, where="test")
        report = validate_config(config, output_dir=tmp_path / "report")
        return {
            finding.kind: [sample.identifier for group in finding.groups for sample in group]
            for finding in report.findings
        }

    return run


def report_of(tmp_path):
    return json.loads((tmp_path / "report" / "validation.json").read_text(encoding="utf-8"))


def page_of(tmp_path):
    return (tmp_path / "report" / "validation.html").read_text(encoding="utf-8")


def test_good_texts_pass(check, tmp_path):
    write_table(tmp_path / "data.jsonl")

    assert check() == {}
    assert report_of(tmp_path)["splits"] == {
        "training": {
            "samples": 8,
            "readable": 8,
            "classes": {"praise": 4, "complaint": 4},
            "without_label": 0,
            "characters": {"min": 9, "median": 14.5, "max": 23},
            "words": {"min": 3, "median": 4.0, "max": 11},
            "tokens": None,
        }
    }


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("empty", ""),
        ("empty", " \n\u200b\u00a0"),
        ("too_long", "a" * 1001),
        ("duplicate", "alles  kam pünktlich AN. "),
        ("conflicting_labels", "Nobody answers."),
        ("replacement_characters", "Alles kam p\ufffdnktlich"),
        ("control_characters", "bell\x07"),
        ("garbled", "Ã¼ber dÃ©jÃ\u00a0 vu"),
    ],
)
def test_a_text_that_is_wrong_is_found(check, tmp_path, kind, text):
    write_table(tmp_path / "data.jsonl", [*rows(), (text, "praise")])

    found = check(balance_tolerance=1.0, max_text_chars=1000)

    assert list(found) == [kind]
    assert found[kind][-1] == "data.jsonl:9"


def test_a_text_on_both_sides_is_a_leak(check, tmp_path):
    write_table(tmp_path / "data.jsonl")
    write_table(tmp_path / "val.jsonl", [("great SERVICE!", "praise"), ("New.", "complaint")])

    found = check(validation_path=str(tmp_path / "val.jsonl"))

    assert found == {"leak": ["data.jsonl:3", "val.jsonl:1"]}
    assert not report_of(tmp_path)["passed"]


def test_copies_do_not_leak_across_the_split_that_training_would_make(check, tmp_path):
    write_table(tmp_path / "data.jsonl", rows() * 5)

    assert list(check(validation_fraction=0.5)) == ["duplicate"]
    assert report_of(tmp_path)["splits"]["validation"]["samples"] == 20


def test_labels_that_training_lacks_and_rare_ones_are_found(check, tmp_path):
    write_table(tmp_path / "data.jsonl", [*rows(), *((f"more {i}", "praise") for i in range(9))])
    write_table(tmp_path / "val.jsonl", [("Neu.", "question"), ("Wow.", "praise")])

    assert check(validation_path=str(tmp_path / "val.jsonl")) == {
        "unknown_label": ["val.jsonl:1"],
        "unscored_class": [],
        "imbalance": [],
    }


def test_one_class_only_is_an_error_of_a_single_label_alone(check, tmp_path):
    write_table(tmp_path / "data.jsonl", [("a", "x"), ("b", "x")])
    assert check() == {"one_class": []}

    write_table(tmp_path / "data.jsonl", [("a", ["x"]), ("b", [])])
    assert check() == {}

    write_table(tmp_path / "data.jsonl", [("a", []), ("b", [])])
    assert check() == {"no_labels": []}


def test_copies_with_other_sets_of_labels_are_conflicts(check, tmp_path):
    write_table(tmp_path / "data.jsonl", [("a", ["x", "y"]), ("A", ["x"]), ("b", ["y"])])

    assert check(balance_tolerance=1.0) == {"conflicting_labels": ["data.jsonl:1", "data.jsonl:2"]}


def test_good_tags_pass(check, tmp_path):
    assert check(write(tmp_path / "a.conll", BIO), "token_classification") == {}
    assert report_of(tmp_path)["labels"] == ["LOC", "PER"]


@pytest.mark.parametrize("last", ["I-LOC", "B-PER\nX\tI-LOC"])
def test_tags_that_are_not_valid_bio_are_found(check, tmp_path, last):
    path = write(tmp_path / "a.conll", f"{BIO}\nin\tO\nBern\t{last}\n")

    assert check(path, "token_classification", balance_tolerance=1.0) == {"invalid_tags": ["a.conll:7"]}
    (finding,) = report_of(tmp_path)["findings"]
    assert finding["samples"][0]["detail"].startswith("I-LOC of word ")


def test_texts_tagged_in_two_ways_are_a_warning_as_annotators_differ(check, tmp_path):
    path = write(tmp_path / "a.conll", "In\tO\nBern\tB-LOC\n\nIn\tO\nBern\tO\n\nIn\tO\nRom\tB-LOC\n")

    assert check(path, "token_classification", balance_tolerance=1.0) == {
        "conflicting_labels": ["a.conll:1", "a.conll:4"]
    }
    assert report_of(tmp_path)["findings"][0]["severity"] == "warning"


def test_the_scheme_is_that_of_the_data(check, tmp_path):
    bioes = "Ana\tB-PER\nMaria\tE-PER\n\nRom\tS-LOC\n\n"

    assert check(write(tmp_path / "a.conll", bioes), "token_classification") == {}
    broken = write(tmp_path / "a.conll", bioes + "Bonn\tB-LOC\n")
    assert check(broken, "token_classification", balance_tolerance=1.0) == {"invalid_tags": ["a.conll:6"]}
    assert report_of(tmp_path)["findings"][0]["samples"][0]["detail"] == "the end after B-LOC"


def test_validation_tags_are_held_against_the_scheme_of_training(check, tmp_path):
    write(tmp_path / "a.conll", "Ana\tB-PER\nMaria\tE-PER\n\nUli\tS-PER\n")
    write(tmp_path / "b.conll", "Ina\tB-PER\nLena\tI-PER\n")

    found = check(tmp_path / "a.conll", "token_classification", validation_path=str(tmp_path / "b.conll"))

    assert found == {"invalid_tags": ["b.conll:1"]}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Of SentencePiece, without capital letters other than N, or digits."""
    texts = ["the parcel came late, the shop did not answer", "Nobody came", "late late parcel"] * 10
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(texts, kind="sentencepiece", vocabulary_size=60).save(folder)
    return folder


def check_tokens(check, tokenizer, path=None, task="text_classification", max_length=128, **data):
    preprocessing = {"tokenizer": str(tokenizer), "max_length": max_length}
    return check(path, task, preprocessing, balance_tolerance=10.0, **data)


LATE = [("the parcel came late", "x"), ("late late late late late", "y"), ("Nobody", "x")]


def test_texts_longer_than_the_model_reads_are_found_the_longest_first(check, tmp_path, tokenizer):
    write_table(tmp_path / "data.jsonl", LATE)
    loaded = load_tokenizer(tokenizer)
    lengths = [2 + len(loaded.encode(text).ids) for text, _ in LATE]
    limit = min(lengths)

    found = check_tokens(check, tokenizer, max_length=limit)

    order = sorted(range(3), key=lambda index: -lengths[index])
    assert found == {"truncated": [f"data.jsonl:{index + 1}" for index in order if lengths[index] > limit]}
    (finding,) = report_of(tmp_path)["findings"]
    assert f"not see: 2 of 3 (66.7%); the longest has {max(lengths)}." in finding["message"]
    assert f"dashed: limit of {limit}" in page_of(tmp_path)
    assert f"amber: over {limit}" in page_of(tmp_path)


def test_what_the_model_does_not_see_of_a_text_begins_where_it_says(check, tmp_path, tokenizer):
    text = "the parcel came late, the shop did not answer"
    write_table(tmp_path / "data.jsonl", [(text, "x"), ("late", "y")])

    check_tokens(check, tokenizer, max_length=8)

    detail = report_of(tmp_path)["findings"][0]["samples"][0]["detail"]
    ids = load_tokenizer(tokenizer).encode(text).ids
    cut_at = int(re.search(r"from character (\d+) of 45 on", detail)[1])
    assert detail.startswith(f"{len(ids) + 2} tokens; ")
    assert load_tokenizer(tokenizer).encode(text[:cut_at]).ids[:6] == ids[:6]
    assert len(load_tokenizer(tokenizer).encode(text[: cut_at - 1]).ids) <= 6


def test_a_tokenizer_alone_adds_lengths_and_no_finding_where_all_fits_and_is_known(check, tmp_path, tokenizer):
    write_table(tmp_path / "data.jsonl", LATE)

    assert check_tokens(check, tokenizer) == {}
    tokens = report_of(tmp_path)["splits"]["training"]["tokens"]
    assert (tokens["truncated"], tokens["unknown"], tokens["unknown_share"]) == (0, 0, 0.0)
    assert tokens["min"] <= tokens["median"] <= tokens["p95"] <= tokens["p99"] == tokens["max"]
    assert report_of(tmp_path)["limits"]["max_tokens"] == 128
    assert "none over the limit of 128" in page_of(tmp_path)


def test_tokens_that_the_vocabulary_lacks_are_found_with_examples(check, tmp_path, tokenizer):
    write_table(tmp_path / "data.jsonl", [*LATE, ("late 7 parcel 🙂 came 7", "y"), ("7", "x")])

    found = check_tokens(check, tokenizer)

    assert found == {"unknown_tokens": ["data.jsonl:4", "data.jsonl:5"]}
    tokens = report_of(tmp_path)["splits"]["training"]["tokens"]
    (finding,) = report_of(tmp_path)["findings"]
    assert finding["message"] == (
        f"Tokens that the vocabulary lacks: 4 of {tokens['total']} ({4 / tokens['total']:.2%}), in 2 of 5 texts; "
        "in most texts '7', '🙂'."
    )
    assert finding["samples"][0]["detail"] == "Unknown: '7', '🙂'."
    assert tokens["unknown"] == 4
    assert f"4 of {tokens['total']} ({4 / tokens['total']:.2%})" in page_of(tmp_path)


def test_tagged_words_are_counted_as_the_text_that_they_make(check, tmp_path, tokenizer):
    path = write(tmp_path / "a.conll", "Nobody\tB-X\ncame\tI-X\nlate\tO\n")

    assert check_tokens(check, tokenizer, path, "token_classification") == {}
    ids = load_tokenizer(tokenizer).encode("Nobody came late").ids
    assert report_of(tmp_path)["splits"]["training"]["tokens"]["max"] == len(ids) + 2


def test_a_text_that_cannot_be_used_is_not_counted_in_tokens(check, tmp_path, tokenizer):
    write_table(tmp_path / "data.jsonl", [*LATE, ("7" * 50, "x"), ("", "y")])

    assert list(check_tokens(check, tokenizer, max_text_chars=49)) == ["too_long", "empty"]
    assert report_of(tmp_path)["splits"]["training"]["tokens"]["min"] == 2


@given(text=any_text(), max_length=st.integers(2, 12))
def test_a_text_is_cut_where_its_packed_row_ends(byte_pairs, text, max_length):
    count = count_tokens(byte_pairs, text, max_length)

    ids, starts, _ = byte_pairs.encode(text)
    row = pack(ids, max_length=max_length, start_id=byte_pairs.start_id, end_id=byte_pairs.end_id)
    assert count.num_tokens == len(ids) + 2
    assert (count.cut_at is None) == (len(row) == count.num_tokens)
    assert count.cut_at is None or count.cut_at == starts[len(row) - 2]
    assert count.num_unknown == 0


@pytest.fixture(scope="module")
def byte_pairs():
    return train_tokenizer(CORPUS, kind="bpe", vocabulary_size=400)


def test_the_page_shows_the_texts_and_how_long_they_are_and_needs_no_other_file(check, tmp_path):
    write_table(tmp_path / "data.jsonl", [*rows(), ("<b>late</b>", "praise"), ("<b>late</b>", "complaint")])
    check()

    page = page_of(tmp_path)

    assert "FAILED" in page
    assert page.count("&lt;b&gt;late&lt;/b&gt;") == 2
    assert "<b>late" not in page
    assert page.count("<svg") == 3
    assert not re.findall(r'(?:src|href)="(?!data:)', page)


@given(st.lists(st.integers(0, 500), min_size=1, max_size=200), st.none() | st.integers(1, 600))
def test_a_histogram_counts_every_length_once_and_never_across_the_limit(lengths, limit):
    chart = histogram("Words", lengths, limit)

    assert len(chart.bars) <= 26
    assert max(bar.share for bar in chart.bars) == 1
    for bar in chart.bars:
        assert bar.count == sum(bar.low <= length <= bar.high for length in lengths)
        assert bar.is_over == (limit is not None and bar.low > limit)
    assert sum(bar.count for bar in chart.bars) == len(lengths)
    assert sum(bar.count for bar in chart.bars if bar.is_over) == sum(limit is not None and n > limit for n in lengths)


def test_one_very_long_text_leaves_the_others_their_bars():
    chart = histogram("Words", [*range(10, 40), *range(10, 40), *range(10, 40), *range(10, 40), 90_000])

    assert len([bar for bar in chart.bars if bar.count]) > 10
    assert chart.bars[-1].high == 90_000


@given(st.text("aéüñçßø€’“ž ", min_size=1).filter(lambda text: not text.isascii()))
def test_text_decoded_wrongly_is_told_from_text(text):
    assert is_garbled(text.encode().decode("cp1252"))


@pytest.mark.parametrize("text", ["naïve café – “déjà vu” ž", "ÑANDÚ À LA CRÈME", "plain", "Ã", "日本", "São, €5"])
def test_text_is_not_taken_for_text_decoded_wrongly(text):
    assert not is_garbled(text)


def test_the_command_reports_texts_with_exit_code_3_on_errors(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.tsv", "gut\tja\nschlecht\tnein\n\tja\n")
    words = ["validate", "a.tsv", "--task", "text_classification", "--output", "report", "data.columns=[text,label]"]

    assert main(words) == 3
    assert capsys.readouterr().out == (
        "a.tsv: 3 training samples, 2 classes\n"
        "  error    Texts without any character that shows: 1.\n           a.tsv:3\n"
        "  warning  Classes further than 20% from the mean of 2 samples: ja 2 (+33%), nein 1 (-33%).\n"
        "Failed: 1 error(s), 1 warning(s).\n"
        "Report: report/validation.html and validation.json\n"
    )
    write(tmp_path / "a.tsv", "gut\tja\nschlecht\tnein\n")
    assert main(words) == 0
    write(tmp_path / "a.tsv", "gut\n")
    assert main(words) == 2


def test_the_command_packs_texts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.conll", BIO)

    assert main(["pack", "a.conll", "--task", "token_classification", "--output", "packed", "--shards", "2"]) == 0
    assert capsys.readouterr().out.startswith("Packed 2 samples of 5 tags.\n2 shards, content ")
    assert main(["validate", "packed", "task=token_classification", "--output", "report"]) == 0


def test_the_command_counts_tokens_with_a_tokenizer_of_its_own_or_the_configs(tmp_path, monkeypatch, capsys, tokenizer):
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "a.jsonl", LATE)
    write(tmp_path / "run.yaml", "task: text_classification\ndata: {path: a.jsonl, validation_fraction: 0}\n")
    task = ["--task", "text_classification", "--output", "report"]

    assert main(["validate", "a.jsonl", *task, "--tokenizer", str(tokenizer), "preprocessing.max_length=5"]) == 0
    told = capsys.readouterr().out
    assert re.search(
        r"  training: \d+ to \d+ tokens, .*; \d of 3 texts cut \(.*\); 0 of \d+ tokens unknown \(0.00%\)\n", told
    )
    keys = [f"preprocessing.tokenizer={tokenizer}", "preprocessing.max_length=5"]
    assert main(["validate", "--config", "run.yaml", "--output", "report", *keys]) == 0
    assert capsys.readouterr().out == told
    assert main(["validate", "a.jsonl", *task]) == 0
    assert "tokens" not in capsys.readouterr().out
    assert main(["validate", "a.jsonl", *task, "--tokenizer", "no/such"]) == 2
    assert "preprocessing.tokenizer: expected a tokenizer's folder, found none at 'no/such'" in capsys.readouterr().err
    assert main(["validate", "a.jsonl", *task, "--tokenizer", "."]) == 2
    assert "expected a tokenizer's folder, but it has no tokenizer.json" in capsys.readouterr().err
