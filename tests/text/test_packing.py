import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfpipe.core.errors import ConfigError
from tfpipe.text.packing import DEFAULT_BUCKETS, bucket_length, buckets_up_to, pack, pad_rows, windows

IDS = st.lists(st.integers(0, 30_000), max_size=60)


@given(ids=IDS, max_length=st.integers(2, 70))
def test_a_row_begins_and_ends_with_its_tokens_and_holds_the_first_that_fit(ids, max_length):
    row = pack(ids, max_length=max_length, start_id=101, end_id=102)

    assert (row[0], row[-1]) == (101, 102)
    assert row[1:-1] == ids[: max_length - 2]
    assert len(row) == min(len(ids) + 2, max_length)


def test_a_row_too_short_for_its_special_tokens_is_refused():
    with pytest.raises(ConfigError, match="max_length: expected at least 2, received 1"):
        pack([], max_length=1, start_id=1, end_id=2)


@given(length=st.integers(0, 512))
def test_a_bucket_is_the_smallest_that_holds_the_row(length):
    bucket = bucket_length(length)

    assert bucket >= length
    assert all(other < length for other in DEFAULT_BUCKETS if other < bucket)


@given(max_length=st.integers(1, 2000))
def test_buckets_end_at_the_models_limit(max_length):
    buckets = buckets_up_to(max_length)

    assert buckets[-1] == max_length
    assert list(buckets) == sorted(set(buckets))


def test_a_row_longer_than_every_bucket_is_refused():
    with pytest.raises(ConfigError, match="expected rows of at most 512 tokens, received one of 513"):
        bucket_length(513)


@given(num_tokens=st.integers(0, 300), max_length=st.integers(1, 80), stride=st.integers(1, 80))
def test_windows_hold_every_token_and_none_is_in_vain(num_tokens, max_length, stride):
    stride = min(stride, max_length)

    pieces = windows(num_tokens, max_length, stride)

    assert pieces[0][0] == 0
    assert pieces[-1][1] == num_tokens
    assert all(end - start <= max_length for start, end in pieces)
    assert all(start == index * stride for index, (start, _) in enumerate(pieces))
    assert {token for piece in pieces for token in range(*piece)} == set(range(num_tokens))
    # Each but the first brings tokens that the one before does not have.
    assert all(later[1] > earlier[1] for earlier, later in itertools.pairwise(pieces))


def test_a_stride_that_leaves_tokens_out_is_refused():
    with pytest.raises(ConfigError, match="stride: expected 1 to 10, the length of a window, received 11"):
        windows(100, 10, 11)


@given(rows=st.lists(IDS, max_size=5), spare=st.integers(0, 9), pad_id=st.integers(0, 9))
def test_padding_is_masked_and_rows_are_kept(rows, spare, pad_id):
    length = max(map(len, rows), default=0) + spare

    ids, mask = pad_rows(rows, length, pad_id)

    assert ids.shape == mask.shape == (len(rows), length)
    assert ids.dtype == mask.dtype == np.int32
    assert [row[chosen == 1].tolist() for row, chosen in zip(ids, mask, strict=True)] == rows
    assert (ids[mask == 0] == pad_id).all()


def test_a_row_longer_than_the_array_is_refused():
    with pytest.raises(ConfigError, match="rows: expected at most 3 tokens each, received one of 4"):
        pad_rows([[1, 2, 3, 4]], 3, 0)
