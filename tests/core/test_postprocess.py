import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tfpipe.core.postprocess import classification_answer


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
