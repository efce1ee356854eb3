import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import InvalidRequestError
from serving.v2.datatypes import BYTES, DTYPES, datatype_of, join_bytes, split_bytes


def test_every_datatype_comes_back_from_its_dtype():
    assert {datatype_of(dtype): dtype for dtype in DTYPES.values()} == DTYPES
    assert (datatype_of("float32"), datatype_of(object), datatype_of(np.dtype("U3"))) == ("FP32", BYTES, BYTES)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=10))
def test_elements_come_back_from_their_bytes(elements):
    assert split_bytes(join_bytes(elements), "x") == elements


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_elements_or_refused(content):
    try:
        elements = split_bytes(content, "x")
    except InvalidRequestError:
        return
    assert join_bytes(elements) == content


def test_an_element_that_is_not_whole_is_refused():
    with pytest.raises(InvalidRequestError, match="x: expected an element of 5 bytes at byte 4, received 2"):
        split_bytes(b"\5\0\0\0ab", "x")
    with pytest.raises(InvalidRequestError, match="x: expected 4 bytes of length at byte 0, received 2"):
        split_bytes(b"\5\0", "x")
