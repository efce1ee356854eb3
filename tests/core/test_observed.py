"""What is measured of a sample and of an answer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfpipe.core.observed import IMAGE_FEATURES, NO_LABEL, Answers, Groups, image_numbers, text_ids, text_numbers


def told(pixels):
    return dict(zip(IMAGE_FEATURES, image_numbers(pixels), strict=True))


def test_a_plain_picture_has_its_colour_and_no_spread():
    found = told(np.full((20, 30, 3), (10, 20, 30), np.uint8))

    assert (found["width"], found["height"], found["aspect_ratio"]) == (30, 20, 1.5)
    assert (found["red_mean"], found["green_mean"], found["blue_mean"]) == (10, 20, 30)
    assert (found["red_std"], found["green_std"], found["blue_std"]) == (0, 0, 0)
    assert found["brightness"] == pytest.approx(0.299 * 10 + 0.587 * 20 + 0.114 * 30)


@given(st.integers(1, 64), st.integers(1, 64), st.integers(0, 2**32 - 1))
def test_small_pictures_are_measured_whole(height, width, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)

    found = told(pixels)

    flat = pixels.reshape(-1, 3).astype(np.float64)
    assert [found[f"{one}_mean"] for one in ("red", "green", "blue")] == pytest.approx(flat.mean(axis=0))
    assert [found[f"{one}_std"] for one in ("red", "green", "blue")] == pytest.approx(flat.std(axis=0))


def test_a_large_picture_is_measured_by_some_of_its_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (900, 1300, 3)).astype(np.uint8)

    assert told(pixels)["brightness"] == pytest.approx(127.5, abs=3)


def test_texts_are_measured_without_the_tokens_that_open_and_close_a_row():
    ids = text_ids([np.array([2, 7, 1, 3]), np.array([2, 1, 3])])

    assert ids.tolist() == [7, 1, 1]
    assert text_numbers("ab c", ids, unknown_id=1) == [4, 3, pytest.approx(2 / 3)]
    assert text_numbers("", text_ids([np.array([2, 3])]), unknown_id=1) == [0, 0, 0]


@given(st.sets(st.integers(0, 50), max_size=10), st.lists(st.integers(0, 60), max_size=30))
def test_what_is_not_known_goes_into_the_last_bin(known, indices):
    ordered = sorted(known)

    counts = Groups(ordered).count(np.array(indices, np.int64))

    expected = [*(indices.count(one) for one in ordered), sum(one not in known for one in indices)]
    assert counts.tolist() == expected


def test_answers_of_one_label():
    answers = Answers()

    assert answers.names(["a", "b"]) == ("a", "b")
    assert answers.classes(np.array([0.3, 0.7])).tolist() == [1]
    assert answers.confidence(np.array([0.25, 0.75])) == 0.75


def test_answers_of_several_labels_or_none():
    answers = Answers(multi_label=True)

    assert answers.names(["a", "b"]) == ("a", "b", NO_LABEL)
    assert answers.classes(np.array([0.6, 0.5])).tolist() == [0, 1]
    assert answers.classes(np.array([0.4, 0.1])).tolist() == [2]


def test_answers_of_tags_leave_out_the_ends_of_a_row():
    answers = Answers(has_tags=True)
    row = np.array([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])

    assert answers.classes(row).tolist() == [0, 0]
    assert answers.confidence(row) == 0.75
    assert answers.classes(row[:2]).tolist() == []
    assert answers.confidence(row[:2]) == 1.0
