import csv
import io
import itertools
import re
from collections import Counter
from importlib.resources import files

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline

FOLDER = files("tfpipe.data.embedded")
LABELS = {"account", "delivery", "feedback", "payment", "product", "returns"}


@pytest.fixture(scope="module")
def content():
    return (FOLDER / "support_messages.tsv").read_bytes().decode("utf-8")


@pytest.fixture(scope="module")
def rows(content):
    """(text, label) of every message."""
    header, *lines = content.removesuffix("\n").split("\n")
    assert header == "text\tlabel"
    return [tuple(line.split("\t")) for line in lines]


def words(text):
    return re.findall(r"\w+", text.casefold())


def test_a_csv_reader_and_a_plain_split_read_the_same_messages(content, rows):
    _, *read = csv.reader(io.StringIO(content, newline=""), dialect="excel-tab")

    assert [tuple(row) for row in read] == rows


def test_there_are_over_a_thousand_messages_of_three_to_forty_words(rows):
    lengths = [len(text.split()) for text, _ in rows]

    assert len(rows) >= 1080
    assert min(lengths) >= 3
    assert max(lengths) <= 40
    assert all(text == text.strip() for text, _ in rows)


def test_every_class_has_its_share_and_the_readme_states_it(rows):
    counts = Counter(label for _, label in rows)
    stated = re.findall(r"^\| `(\w+)` \| (\d+) \|", (FOLDER / "README.md").read_text(encoding="utf-8"), re.MULTILINE)

    assert set(counts) == LABELS
    assert min(counts.values()) >= 120
    assert {label: int(count) for label, count in stated} == counts


def test_the_first_forty_messages_hold_every_class(rows):
    assert {label for _, label in rows[:40]} == LABELS


def test_no_message_is_another_but_for_case_and_punctuation(rows):
    repeated = [text for text, count in Counter(" ".join(words(text)) for text, _ in rows).items() if count > 1]

    assert repeated == []


def test_no_two_messages_share_most_of_their_words(rows):
    vocabularies = [(set(words(text)), text) for text, _ in rows]

    alike = [
        (one, other)
        for (first, one), (second, other) in itertools.combinations(vocabularies, 2)
        if len(first & second) > 0.6 * len(first | second)
    ]

    assert alike == []


def test_messages_do_not_begin_alike(rows):
    # Sentences made from templates would share their first five words; people share a handful.
    beginnings = Counter(tuple(words(text)[:5]) for text, _ in rows)

    assert max(beginnings.values()) <= 3
    assert len(beginnings) >= 0.98 * len(rows)


def test_the_classes_can_be_learned_and_are_not_trivial(rows):
    texts, labels = zip(*rows, strict=True)
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000))

    accuracy = cross_val_score(model, texts, labels, cv=StratifiedKFold(5, shuffle=True, random_state=0)).mean()

    assert 0.75 < accuracy < 0.97
