import contextlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.errors import InvalidRequestError, RequestError, TooLargeError
from serving.json_values import (
    MAX_CONTAINERS,
    decode_base64,
    encode_text,
    flatten,
    numbers,
    pieces,
    read_object,
    write_object,
)

DTYPES = ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]


@settings(max_examples=100, deadline=None)
@given(
    array=st.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays.arrays(dtype, arrays.array_shapes(max_dims=4, max_side=4))
    )
)
def test_an_array_comes_back_from_its_json(array):
    body = write_object({"x": array}, [array] if array.dtype.kind == "f" else [])

    flat, shape = flatten(read_object(body)["x"], "x")

    np.testing.assert_array_equal(numbers(flat, array.dtype, "x").reshape(shape), array)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.text('[]{}":,1e-9NaInfity\\ud8', max_size=40).map(str.encode))
def test_any_bytes_are_an_object_or_refused(body):
    with contextlib.suppress(RequestError):
        assert isinstance(read_object(body), dict)


@pytest.mark.parametrize("body", [b"[" * 5000, b'{"a":' * 5000, b'{"NaN":' + b"[" * 5000])
def test_deep_nesting_is_refused(body):
    with pytest.raises(InvalidRequestError, match="expected JSON"):
        read_object(body)


def test_more_brackets_than_anyone_needs_are_refused_unread():
    with pytest.raises(TooLargeError, match="at most 2000000 arrays and objects"):
        read_object(b"[" * (MAX_CONTAINERS + 1))


def test_special_numbers_are_read_and_written():
    values = read_object(b'{"x": [NaN, Infinity, -Infinity, 0.5]}')["x"]

    assert [math.isnan(values[0]), *values[1:]] == [True, math.inf, -math.inf, 0.5]
    assert (
        write_object({"x": np.array(values, np.float32)}, [np.array(values)]) == b'{"x":[NaN,Infinity,-Infinity,0.5]}'
    )


@pytest.mark.parametrize(
    ("values", "dtype", "words"),
    [
        ([256], "u1", "expected numbers of uint8, received one out of its range"),
        ([-1], "u8", "expected numbers of uint64, received one out of its range"),
        ([2**63], "i8", "expected numbers of int64, received one out of its range"),
        ([1e39], "f4", "expected numbers of float32, received one out of its range"),
        ([70000], "f2", "expected numbers of float16, received one out of its range"),
        ([10**400], "f8", "expected numbers of float64, received one out of its range"),
        ([1.0], "i4", "expected whole numbers, received 1.0"),
        ([True], "i4", "expected whole numbers, received True"),
        ([1, True], "f4", "expected numbers, received True"),
        ([1], "?", "expected true or false, received 1"),
        ([None], "f4", "expected numbers, received null"),
        ([[1]], "f4", "expected numbers, received an array"),
        (["a" * 1000], "f4", "received 'aaa.*…"),
    ],
)
def test_a_number_that_would_change_is_refused(values, dtype, words):
    with pytest.raises(InvalidRequestError, match=f"x: .*{words}"):
        numbers(values, np.dtype(dtype), "x")


@pytest.mark.parametrize("values", [[[1], 2], [[1], [2, 3]], [[[1]], [1]], [[], [1]]])
def test_ragged_arrays_are_refused(values):
    with pytest.raises(InvalidRequestError, match="x: expected arrays of one length and depth"):
        flatten(values, "x")


def test_base64_is_taken_strictly():
    assert decode_base64("aGk=", "x") == b"hi"
    for wrong in ("aGk", "a Gk=", "é", 5):
        with pytest.raises(InvalidRequestError, match="x: expected a base64 string"):
            decode_base64(wrong, "x")


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(InvalidRequestError, match="character 1 is a lone surrogate"):
        encode_text("a\ud800", "x")


@pytest.mark.parametrize("count", [65_536, 65_537, 150_000])
def test_long_lists_are_gone_through_in_pieces_and_come_out_whole(count):
    flat, shape = flatten([[index % 251] for index in range(count)], "x")

    assert shape == (count, 1)
    np.testing.assert_array_equal(numbers(flat, np.dtype(np.uint8), "x"), np.arange(count) % 251)
    assert sum(map(len, pieces(flat))) == count
    for wrong, words in ((256, "out of its range"), (2**70, "out of its range"), (0.5, "whole numbers"), (-1, "range")):
        with pytest.raises(InvalidRequestError, match=words):
            numbers([*flat, wrong], np.dtype(np.uint8), "x")
