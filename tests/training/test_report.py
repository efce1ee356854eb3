"""The report page: complete, self-contained, readable for two classes and for a thousand."""

import math
import re
import warnings

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfpipe.config import flatten, parse_config
from tfpipe.core.classification import confusion_counts
from tfpipe.tasks.multi_label import MultiLabel
from tfpipe.tasks.single_label import SingleLabel
from tfpipe.tracking import value_text
from tfpipe.training.figures import confusion_figure, loss_figure
from tfpipe.training.report import class_scores, confused_pairs, write_report

CONFUSION = np.array([[8, 2, 0], [0, 10, 0], [0, 0, 0]], np.float32)
LABELS = ("cat", "dog", "eel")


@pytest.fixture
def config(tmp_path):
    return parse_config({"data": {"path": "some/images"}, "output_dir": str(tmp_path)}, where="test")


@pytest.fixture
def history():
    rows = [{"loss": 1 / epoch, "val_loss": 1.1 / epoch, "accuracy": 1 - 0.5 / epoch} for epoch in range(1, 6)]
    return [{**row, "epoch": float(index), "learning_rate": 1e-3} for index, row in enumerate(rows)]


@pytest.fixture
def summary():
    return {
        "task": "image_classification",
        "labels": list(LABELS),
        "model_name": "pets",
        "run_id": "0123abcd",
        "metrics": {"val_accuracy": 0.9876, "val_loss": 0.0321, "epoch": 3.0},
        "data_fingerprint": "f1n6e2",
        "git_commit": None,
        "library_versions": {"tensorflow": "2.17.1"},
        "samples": {"train": 12345, "validation": 20},
        "workers": 4,
        "wall_time_s": 12.34,
    }


def page(folder, config, history, summary, confusion=CONFUSION, labels=LABELS):
    task = SingleLabel(tuple(labels))
    path = write_report(folder, config=config, history=history, task=task, tally=confusion, summary=summary)
    return path.read_text(encoding="utf-8")


def test_the_page_holds_scores_curves_confusion_classes_data_and_versions(tmp_path, config, history, summary):
    text = page(tmp_path, config, history, summary)

    for words in ("pets", "98.76 %", "0.0321", "f1n6e2", "0123abcd", "tensorflow", "2.17.1", "12,345", "12.34 s"):
        assert words in text
    assert "the weights kept are those of epoch 4" in text
    assert text.count("data:image/svg+xml;base64,") == 3
    assert re.findall(r"<tr><th>cat</th><td>dog</td>.*?</tr>", text)


def test_where_a_sample_has_several_labels_the_page_has_each_of_them_and_no_confusion(
    tmp_path, config, history, summary
):
    task = MultiLabel(LABELS)
    true, predicted = np.array([[1, 0, 1], [1, 0, 0]]), np.array([[1, 1, 0], [1, 0, 0]])
    tally = task.tally(true, predicted, np.ones(2))

    path = write_report(tmp_path, config=config, history=history, task=task, tally=tally, summary=summary)

    text = path.read_text(encoding="utf-8")
    assert [text.count(f"<tr><th>{label}</th>") for label in LABELS] == [1, 1, 1]
    assert re.search(r"<tr><th>cat</th><td class=\"number\">2</td>.*?100\.00 %", text)
    assert "<h2>Confusion</h2>" not in text


def test_the_page_holds_every_value_of_the_configuration(tmp_path, config, history, summary):
    text = page(tmp_path, config, history, summary)

    values = flatten(config)
    assert len(values) > 50
    for key, value in values.items():
        name = key.rpartition(".")[2]
        shown = value_text(value).replace("'", "&#39;")
        assert f"<tr><th>{name}</th><td><code>{shown}</code></td></tr>" in text


def test_the_page_needs_nothing_from_elsewhere(tmp_path, config, history, summary):
    text = page(tmp_path, config, history, summary)

    assert not re.search(r"(src|href)=\"(?!data:)|url\(|@import|<script", text)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_names_are_shown_and_never_run(tmp_path, config, history, summary):
    labels = ("<script>alert(1)</script>", "$x^{ is no formula", "猫")
    summary = {**summary, "model_name": "<b>bold</b>"}

    text = page(tmp_path, config, history, summary, labels=labels)

    assert "<script" not in text
    assert "<b>bold" not in text
    assert "$x^{ is no formula" in text
    assert "猫" in text


def test_a_thousand_classes_give_a_readable_page(tmp_path, config, history, summary):
    labels = [f"class number {index}" for index in range(1000)]
    confusion = np.eye(1000) * 50
    confusion[7, 9] = 25

    text = page(tmp_path, config, history, summary, confusion, labels)

    folded = text.index("<details>")
    assert "the 20 hardest" in text
    assert text[:folded].count("<td") < 200
    assert text[folded:].count("class number") == 980
    assert "33.3 %" in text
    assert len(text) < 3_000_000
    figure = confusion_figure(confusion, labels)
    assert len(figure.axes[0].get_xticklabels()) <= 50
    assert not figure.axes[0].texts


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_run_whose_loss_was_lost_still_has_a_page(tmp_path, config, summary, value):
    summary = {**summary, "metrics": {"val_accuracy": math.nan, "epoch": 0.0}}

    text = page(tmp_path, config, [{"loss": value, "val_loss": value}], summary)

    assert "<b>–</b>" in text


def test_without_evaluation_and_summary_the_page_has_what_there_is(tmp_path, config, history):
    text = page(tmp_path, config, history, {}, confusion=None)

    assert "Confusion" not in text
    assert "Configuration" in text


def test_drawing_leaves_matplotlib_as_it_was_and_warns_of_nothing(history):
    before = dict(matplotlib.rcParams)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss_figure(history).canvas.draw()
        confusion_figure(CONFUSION, ("猫", "dog", "e" * 50)).canvas.draw()

    assert dict(matplotlib.rcParams) == before


def test_scores_of_a_known_matrix():
    cat, dog, eel = class_scores(LABELS, confusion_counts(CONFUSION))

    assert (cat.precision, cat.recall, cat.samples) == (1.0, pytest.approx(0.8), 10)
    assert (dog.precision, dog.recall, dog.f1) == (pytest.approx(10 / 12), 1.0, pytest.approx(20 / 22))
    assert all(math.isnan(value) for value in (eel.precision, eel.recall, eel.f1))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(matrix=hnp.arrays(np.int64, st.integers(1, 8).map(lambda n: (n, n)), elements=st.integers(0, 50)))
def test_confused_pairs_are_all_mistakes_most_first(matrix):
    pairs = confused_pairs(matrix, [str(index) for index in range(len(matrix))])

    counts = [pair.samples for pair in pairs]
    assert sum(counts) == matrix.sum() - np.trace(matrix)
    assert counts == sorted(counts, reverse=True)
    for pair in pairs:
        assert pair.samples == matrix[int(pair.label), int(pair.predicted)]
        assert pair.share == pair.samples / matrix[int(pair.label)].sum()


def test_a_folder_that_cannot_be_written_keeps_what_it_had(tmp_path, config, history, summary):
    blocked = tmp_path / "file"
    blocked.write_text("a file")

    with pytest.raises(OSError, match="file"):
        page(blocked, config, history, summary)

    assert blocked.read_text() == "a file"
