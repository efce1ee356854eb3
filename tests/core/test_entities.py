import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support

from tfpipe.core.classification import class_scores, macro_score, micro_score
from tfpipe.core.entities import (
    Span,
    character_entities,
    entity_counts,
    entity_spans,
    invalid_transitions,
    scheme_of,
    split_tag,
    types_of,
)
from tfpipe.core.errors import DataError

TYPES = ("A", "B-C", "_")
TAGS = ["O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in TYPES), "B", "I", "E", "S", "I-", "BX-A"]
any_tags = st.lists(st.sampled_from(TAGS), max_size=12)


@st.composite
def valid_tags(draw, scheme):
    """Tags written from spans, and the spans."""
    tags, spans = [], []
    for kind, length in draw(st.lists(st.tuples(st.sampled_from(["O", "A", "B"]), st.integers(1, 4)), max_size=6)):
        if kind == "O":
            tags += ["O"] * length
            continue
        spans.append(Span(kind, len(tags), len(tags) + length))
        if scheme == "BIO":
            tags += [f"B-{kind}"] + [f"I-{kind}"] * (length - 1)
        elif length == 1:
            tags += [f"S-{kind}"]
        else:
            tags += [f"B-{kind}"] + [f"I-{kind}"] * (length - 2) + [f"E-{kind}"]
    return tags, spans


@settings(max_examples=500, deadline=None, derandomize=True)
@given(any_tags)
def test_spans_are_those_of_seqeval_whatever_the_tags(tags):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [(label, first, last + 1) for label, first, last in get_entities(tags)]

    assert entity_spans(tags) == expected


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.tuples(st.sampled_from(TAGS), st.sampled_from(TAGS)), max_size=8), min_size=1, max_size=6))
def test_scores_of_summed_counts_are_those_of_seqeval(sentences):
    true = [[pair[0] for pair in sentence] for sentence in sentences]
    predicted = [[pair[1] for pair in sentence] for sentence in sentences]

    counts = sum(
        entity_counts(entity_spans(one), entity_spans(other), TYPES) for one, other in zip(true, predicted, strict=True)
    )

    occurring = counts[:, 1:].any(axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        by_type = precision_recall_fscore_support(true, predicted, average=None, zero_division=0)
        micro = precision_recall_fscore_support(true, predicted, average="micro", zero_division=0)
        macro = (
            precision_recall_fscore_support(true, predicted, average="macro", zero_division=0)
            if any(occurring)
            else (0, 0, 0)
        )
    np.testing.assert_allclose(np.array(class_scores(counts[occurring])).reshape(-1, 4).T, by_type, atol=1e-6)
    np.testing.assert_allclose(micro_score(counts)[:3], micro[:3], atol=1e-6)
    np.testing.assert_allclose(macro_score(counts)[:3], macro[:3], atol=1e-6)


@pytest.mark.parametrize("scheme", ["BIO", "BIOES"])
@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data())
def test_what_is_written_by_a_scheme_is_valid_and_read_back(scheme, data):
    tags, spans = data.draw(valid_tags(scheme))

    assert invalid_transitions(tags, scheme) == []
    assert entity_spans(tags) == spans


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(["O", "B-A", "I-A", "E-A", "S-A", "B-B", "I-B", "E-B", "S-B"]), max_size=7))
def test_a_sequence_is_valid_where_its_spans_write_it_again(tags):
    bioes = ["O"] * len(tags)
    for label, start, end in entity_spans(tags):
        for position in range(start, end):
            first, last = position == start, position == end - 1
            bioes[position] = f"{'S' if first and last else 'B' if first else 'E' if last else 'I'}-{label}"

    assert (invalid_transitions(tags, "BIOES") == []) == (tags == bioes)
    bio = [tag.replace("S-", "B-").replace("E-", "I-") for tag in bioes]
    assert (invalid_transitions(tags, "BIO") == []) == (tags == bio)


@pytest.mark.parametrize(
    ("tags", "scheme", "places"),
    [
        (["I-A"], "BIO", [(0, "O", "I-A")]),
        (["B-A", "I-B"], "BIO", [(1, "B-A", "I-B")]),
        (["B-A", "E-A"], "BIO", [(1, "B-A", "E-A")]),
        (["B-A"], "BIOES", [(1, "B-A", "O")]),
        (["S-A", "E-A", "O"], "BIOES", [(1, "S-A", "E-A")]),
        (["B-A", "I-A", "S-A"], "BIOES", [(2, "I-A", "S-A")]),
    ],
)
def test_places_that_break_a_scheme_are_named(tags, scheme, places):
    assert invalid_transitions(tags, scheme) == places


def test_a_scheme_is_told_by_tags_of_last_and_only_words():
    assert scheme_of(["O", "B-A", "I-A"]) == "BIO"
    assert scheme_of(["O", "B-A", "S-B"]) == "BIOES"


@pytest.mark.parametrize("tag", ["", "LOC", "U-LOC", "b-LOC"])
def test_a_tag_of_another_kind_is_refused(tag):
    with pytest.raises(DataError, match=f"expected O, or B-, I-, E- or S- and a type, received {tag!r}"):
        split_tag(tag)


def test_types_are_sorted():
    assert types_of(["O", "B-LOC", "I-geo-loc", "S-ART"]) == ("ART", "LOC", "geo-loc")


def test_entities_have_offsets_into_the_callers_string():
    text = "Ana vive en São Paulo 🙂."
    starts, ends = [0, 4, 9, 12, 16, 22, 23], [3, 8, 11, 15, 21, 23, 24]

    entities = character_entities(
        text, [Span("PER", 0, 1), Span("LOC", 3, 5)], starts, ends, [0.5, 1, 1, 0.25, 0.75, 1, 1]
    )

    assert entities == [
        {"text": "Ana", "label": "PER", "start": 0, "end": 3, "score": 0.5},
        {"text": "São Paulo", "label": "LOC", "start": 12, "end": 21, "score": 0.5},
    ]


def test_white_space_that_a_sub_word_holds_is_no_part_of_an_entity():
    text = "in  Bern , "

    entities = character_entities(
        text, [Span("LOC", 1, 2), Span("LOC", 3, 4)], [0, 2, 8, 10], [2, 9, 10, 11], [1.0] * 4
    )

    assert entities == [{"text": "Bern", "label": "LOC", "start": 4, "end": 8, "score": 1.0}]


def test_a_type_that_is_not_counted_is_refused():
    with pytest.raises(DataError, match="expected a type among A, received 'X'"):
        entity_counts([Span("X", 0, 1)], [], ["A"])
