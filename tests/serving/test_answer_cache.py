import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.answer_cache import AnswerCache, question_of

LARGE = 10_000
operations = st.lists(st.tuples(st.integers(0, 9), st.integers(0, LARGE)), max_size=80)


@given(operations=operations, max_bytes=st.integers(0, 3 * LARGE))
def test_it_never_takes_more_than_it_may_and_never_gives_another_answer(operations, max_bytes):
    cache: AnswerCache[tuple[int, int]] = AnswerCache(max_bytes)
    kept: dict[int, tuple[int, int]] = {}
    for number, size in operations:
        question = number.to_bytes(32, "little")
        found = cache.get(question)
        assert found is None or found == kept[number]
        kept[number] = (number, size)
        cache.put(question, kept[number], size_bytes=size)
        if size + 512 > max_bytes:
            # Too large to keep: what was known before may still be there, and is as true.
            kept[number] = found or kept[number]
        assert cache.used_bytes <= max_bytes
    if max_bytes:
        assert cache.hits + cache.misses == len(operations)


def test_what_was_not_asked_for_the_longest_goes_first():
    cache: AnswerCache[str] = AnswerCache(3000)
    for name in "ab":
        cache.put(name.encode(), name, size_bytes=600)
    cache.get(b"a")

    cache.put(b"c", "c", size_bytes=600)

    assert (cache.get(b"a"), cache.get(b"b"), cache.get(b"c")) == ("a", None, "c")
    assert (cache.hits, cache.misses, len(cache)) == (3, 1, 2)


def test_no_bytes_keep_and_count_nothing():
    cache: AnswerCache[str] = AnswerCache(0)

    cache.put(b"a", "a", size_bytes=0)

    assert (cache.get(b"a"), cache.hits, cache.misses, cache.used_bytes) == (None, 0, 0, 0)


def test_it_can_forget():
    cache: AnswerCache[str] = AnswerCache(3000)
    cache.put(b"a", "a", size_bytes=100)

    cache.clear()

    assert (cache.get(b"a"), cache.used_bytes) == (None, 0)


DIFFERENT = [
    ("m", b"abc"),
    ("m", "abc"),
    ("m2", b"abc"),
    ("", b"mabc"),
    ("m", "\ud800"),
    ("m", b""),
    ("m", np.arange(6, dtype=np.uint8).reshape(1, 2, 3)),
    ("m", np.arange(6, dtype=np.uint8).reshape(2, 1, 3)),
    ("m", np.arange(6, dtype=np.uint8).reshape(1, 2, 3).tobytes()),
    ("m", np.arange(6, dtype=np.int64)),
    ("m", np.arange(6, dtype=np.float32)),
    ("m", np.zeros((0, 3), np.float32)),
]


def test_different_questions_are_told_apart():
    assert len({question_of(*one) for one in DIFFERENT}) == len(DIFFERENT)


@pytest.mark.parametrize("step", [1, -1, 2])
def test_an_array_is_known_by_its_values_however_it_lies_in_memory(step):
    array = np.arange(24, dtype=np.float32).reshape(4, 6)[:, ::step]

    assert question_of("m", array) == question_of("m", np.ascontiguousarray(array))
