import numpy as np
import pytest

from tfpipe.core.errors import GateError
from tfpipe.core.parity import BOUNDS, Bound, assert_parity, golden_bound, max_abs_diff


def test_equal_answers_agree():
    answers = np.array([[0.1, 0.9]], np.float32)

    assert assert_parity(answers, answers, Bound(0.0, 0.0), where="here") == 0.0


def test_the_largest_difference_is_given():
    assert assert_parity(np.array([0.5, 0.25]), np.array([0.5, 0.125]), Bound(0.2, 0.0), where="here") == 0.125


def test_the_bound_itself_still_agrees():
    assert_parity(np.array([1.75]), np.array([1.0]), Bound(0.25, 0.5), where="here")


def test_answers_beyond_the_bound_are_refused_with_the_numbers():
    with pytest.raises(GateError) as caught:
        assert_parity(np.array([0.5, 0.75]), np.array([0.5, 0.5]), Bound(0.1, 0.25), where="Keras -> ONNX")

    assert str(caught.value) == (
        "Keras -> ONNX: expected answers within atol=0.1, rtol=0.25 of the reference, "
        "received a largest difference of 0.25."
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_is_refused(bad):
    with pytest.raises(GateError):
        assert_parity(np.array([0.5, bad]), np.array([0.5, 0.5]), Bound(1e9, 1e9), where="here")


def test_a_reference_that_is_not_a_number_is_refused():
    with pytest.raises(GateError):
        assert_parity(np.array([0.5]), np.array([np.nan]), Bound(1.0, 1.0), where="here")


def test_other_shapes_are_refused():
    with pytest.raises(GateError, match=r"expected shape \(2,\), received \(1,\)"):
        assert_parity(np.zeros(1), np.zeros(2), Bound(1.0, 1.0), where="here")


@pytest.mark.parametrize(
    ("candidate", "reference", "difference"),
    [
        ([0.0, 1.0], [0.5, 1.0], 0.5),
        ([], [], 0.0),
        ([np.nan], [0.0], np.inf),
        ([0.0], [0.0, 0.0], np.inf),
    ],
)
def test_the_difference_is_infinite_where_answers_cannot_be_compared(candidate, reference, difference):
    assert max_abs_diff(np.array(candidate), np.array(reference)) == difference


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_floats_have_bounds_of_their_own(precision):
    assert golden_bound(precision, 0.5) == BOUNDS[precision]


def test_int8_may_differ_by_twice_what_conversion_measured():
    assert golden_bound("int8", 0.1).atol == pytest.approx(0.22)
