import gzip
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.encodings import decoded, encoded
from serving.errors import InvalidRequestError, MediaTypeError, TooLargeError

PACK = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("name", PACK)
@settings(max_examples=50, deadline=None)
@given(body=st.binary(max_size=5000))
def test_a_packed_body_is_unpacked(name, body):
    assert decoded({b"content-encoding": name.encode()}, PACK[name](body), max_bytes=5000) == body


@pytest.mark.parametrize("header", [b"identity", b"", b" Identity "])
def test_a_body_that_is_not_packed_stays(header):
    assert decoded({b"content-encoding": header}, b"abc", max_bytes=1) == b"abc"
    assert decoded({}, b"abc", max_bytes=1) == b"abc"


def test_a_bomb_is_refused_before_it_is_unpacked():
    bomb = gzip.compress(bytes(20_000_000), 9)

    with pytest.raises(TooLargeError, match="at most 1000 bytes unpacked"):
        decoded({b"content-encoding": b"gzip"}, bomb, max_bytes=1000)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"plain", "received something else"),
        (gzip.compress(b"abc")[:-3], "ends early or goes on"),
        (gzip.compress(b"abc") + b"more", "ends early or goes on"),
        (gzip.compress(b"abc") * 2, "ends early or goes on"),
    ],
    ids=["not packed", "cut short", "more after it", "two in one"],  # a packed body has its time in it
)
def test_a_damaged_body_is_refused(body, words):
    with pytest.raises(InvalidRequestError, match=words):
        decoded({b"content-encoding": b"gzip"}, body, max_bytes=1000)


def test_another_encoding_is_refused():
    with pytest.raises(MediaTypeError, match="expected gzip, deflate or none, received 'br'"):
        decoded({b"content-encoding": b"br"}, b"", max_bytes=1)


@pytest.mark.parametrize(
    ("accepted", "name"),
    [
        (b"gzip, deflate", b"gzip"),
        (b"br, deflate", b"deflate"),
        (b"gzip;q=0, deflate;q=0.5", b"deflate"),
        (b"gzip; q=0.000", None),
        (b"br", None),
    ],
)
def test_an_answer_is_packed_as_its_client_asks(accepted, name):
    body = b"x" * 5000

    content, encoding = encoded({b"accept-encoding": accepted}, body)

    assert encoding == name
    assert decoded({b"content-encoding": encoding or b""}, content, max_bytes=5000) == body


def test_a_short_answer_is_not_packed():
    assert encoded({b"accept-encoding": b"gzip"}, b"x" * 100) == (b"x" * 100, None)
