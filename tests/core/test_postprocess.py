import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tfpipe.core.postprocess import classification_answer, entities_answer, multi_label_answer


def test_the_most_probable_class_is_the_label():
    answer = classification_answer(np.array([0.125, 0.625, 0.25], np.float32), ("a", "b", "c"))

    assert answer == {"label": "b", "score": 0.625, "probabilities": {"b": 0.625, "c": 0.25, "a": 0.125}}
    assert list(answer["probabilities"]) == ["b", "c", "a"]


def test_ties_go_by_the_order_of_the_classes():
    answer = classification_answer(np.array([0.25, 0.5, 0.5], np.float32), ("z", "y", "x"))

    assert list(answer["probabilities"]) == ["y", "x", "z"]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20))
def test_every_class_keeps_its_probability(probabilities):
    labels = [str(index) for index in range(len(probabilities))]

    answer = classification_answer(np.array(probabilities, np.float32), labels)

    assert answer["probabilities"] == dict(zip(labels, probabilities, strict=True))
    assert answer["score"] == max(probabilities)


def test_of_several_labels_those_of_at_least_a_half_are_answered_best_first():
    answer = multi_label_answer(np.array([0.5, 0.25, 0.75], np.float32), ("a", "b", "c"))

    assert answer == {
        "labels": [{"label": "c", "score": 0.75}, {"label": "a", "score": 0.5}],
        "probabilities": {"c": 0.75, "a": 0.5, "b": 0.25},
    }
    assert list(answer["probabilities"]) == ["c", "a", "b"]


def test_there_may_be_no_label_at_all():
    assert multi_label_answer(np.array([0.25, 0.49], np.float32), ("a", "b"))["labels"] == []


def test_entities_are_read_off_the_tags_of_words():
    text = "in São Paulo, Ana"
    starts, ends = [0, 3, 7, 12, 14], [2, 6, 12, 13, 17]

    answer = entities_answer(text, starts, ends, ["O", "B-LOC", "I-LOC", "O", "B-PER"], [0.9, 0.5, 0.75, 0.9, 0.25])

    assert answer == {
        "entities": [
            {"text": "São Paulo", "label": "LOC", "start": 3, "end": 12, "score": 0.625},
            {"text": "Ana", "label": "PER", "start": 14, "end": 17, "score": 0.25},
        ]
    }
