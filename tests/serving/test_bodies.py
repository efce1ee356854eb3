import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.bodies import Part, media_type, read_body, read_parts
from serving.errors import BodyTimeoutError, ClientGoneError, TooLargeError

CONTENT_TYPE = b"multipart/form-data; boundary=--x"


def encode(parts: list[tuple[str, bytes]]) -> bytes:
    head = '----x\r\nContent-Disposition: form-data; name="{}"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    return b"".join(head.format(name).encode() + content + b"\r\n" for name, content in parts) + b"----x--\r\n"


# Bytes of which boundaries are made, so that contents come close to one.
contents = st.lists(st.sampled_from([b"\r", b"\n", b"-", b"x", b"\r\n--", b"\r\n----", b"\x00\xff"])).map(b"".join)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(["file", "files", "größe"]), contents), max_size=5))
def test_parts_come_out_as_they_went_in(parts):
    if any(b"\r\n----x" in b"\r\n" + content for _, content in parts):
        return  # holds the boundary itself, which a client must not choose

    assert read_parts(CONTENT_TYPE, encode(parts), max_parts=5) == [Part(name, content) for name, content in parts]


def test_a_large_part_is_read_whole():
    content = bytes(range(256)) * 20_000

    assert read_parts(CONTENT_TYPE, encode([("file", content)]), max_parts=1) == [Part("file", content)]


def test_too_many_parts_are_refused():
    with pytest.raises(TooLargeError, match="expected at most 2 files, received more"):
        read_parts(CONTENT_TYPE, encode([("files", b"a")] * 3), max_parts=2)


@pytest.mark.parametrize(
    ("header", "media"),
    [(b"Image/PNG", "image/png"), (b" multipart/form-data ; boundary=x", "multipart/form-data"), (b"", "")],
)
def test_the_media_type_is_told_without_its_parameters(header, media):
    assert media_type({b"content-type": header}) == media


def receiving(*chunks: bytes, then: str = "end"):
    """ASGI's receive: chunks, then the end, a disconnect, or nothing for ever."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"end": {"type": "http.request"}, "disconnect": {"type": "http.disconnect"}}.get(then))

    async def receive():
        message = messages.pop(0)
        return message if message is not None else await asyncio.Event().wait()

    return receive


async def test_chunks_are_joined():
    assert await read_body({}, receiving(b"ab", b"", b"c"), max_bytes=3, timeout_s=1) == b"abc"


async def test_a_length_above_the_limit_is_refused_before_anything_is_read():
    receive = receiving(then="silence")

    with pytest.raises(TooLargeError, match="expected at most 3 bytes"):
        await read_body({b"content-length": b"4"}, receive, max_bytes=3, timeout_s=1)


async def test_reading_ends_with_the_first_chunk_above_the_limit():
    receive = receiving(b"ab", b"cd", then="silence")

    with pytest.raises(TooLargeError):
        await read_body({}, receive, max_bytes=3, timeout_s=60)


async def test_a_closed_connection_is_told():
    with pytest.raises(ClientGoneError):
        await read_body({}, receiving(b"ab", then="disconnect"), max_bytes=3, timeout_s=1)


async def test_a_slow_body_is_given_up():
    with pytest.raises(BodyTimeoutError, match=r"within 0.01 s, received 2 bytes"):
        await read_body({}, receiving(b"ab", then="silence"), max_bytes=3, timeout_s=0.01)
