"""Content-Encoding of bodies: gzip and deflate, against bombs."""

import zlib
from collections.abc import Mapping

from serving.errors import InvalidRequestError, MediaTypeError, TooLargeError

# zlib's sign that either header may come. Source: zlib manual, inflateInit2.
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_WBITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
# Below it the header that says so and the time to do it cost more than is gained.
_LEAST_BYTES = 1024


def decoded(headers: Mapping[bytes, bytes], body: bytes, *, max_bytes: int) -> bytes:
    """A body without its Content-Encoding.

    Args:
        headers: By lower-case name.
        body: As received.
        max_bytes: Most bytes that it may become; no more of it than that is unpacked.

    Raises:
        MediaTypeError: Another encoding than gzip or deflate.
        InvalidRequestError: It is damaged, unfinished, or followed by something.
        TooLargeError: It becomes larger.
    """
    encoding = headers.get(b"content-encoding")
    if encoding is None:
        return body
    name = encoding.decode("latin-1").strip().lower()
    if name in ("", "identity"):
        return body
    if name not in _WBITS:
        raise MediaTypeError(f"Content-Encoding: expected gzip, deflate or none, received {name!r}.", received=name)
    unpacker = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        content = unpacker.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise InvalidRequestError(f"body: expected {name}, received something else; {error}.") from error
    if len(content) > max_bytes:
        raise TooLargeError(f"body: expected at most {max_bytes} bytes unpacked, received more.", max_bytes=max_bytes)
    if not unpacker.eof or unpacker.unused_data:
        raise InvalidRequestError(f"body: expected one whole {name} stream, received one that ends early or goes on.")
    return content


def encoded(headers: Mapping[bytes, bytes], body: bytes) -> tuple[bytes, bytes | None]:
    """An answer's body as the client asked for it, and its Content-Encoding; None where it is as it was.

    Args:
        headers: Of the request, by lower-case name.
        body: To send.
    """
    accepted = headers.get(b"accept-encoding")
    if accepted is None or len(body) < _LEAST_BYTES:
        return body, None
    name = _chosen(accepted.decode("latin-1").lower())
    if name is None:
        return body, None
    packer = zlib.compressobj(1, zlib.DEFLATED, _WBITS[name])
    return packer.compress(body) + packer.flush(), name.encode()


def encoding_headers(encoding: bytes | None) -> list[tuple[bytes, bytes]]:
    """What is said of an answer's Content-Encoding."""
    return [] if encoding is None else [(b"content-encoding", encoding), (b"vary", b"Accept-Encoding")]


def _chosen(accepted: str) -> str | None:
    """Source: RFC 9110, section 12.5.3; of those we have the first that the client does not refuse."""
    for part in accepted.split(","):
        name, _, parameters = part.strip().partition(";")
        weight = parameters.strip().removeprefix("q=").strip()
        if name.strip() in _WBITS and not (weight and weight.strip("0.") == ""):
            return name.strip()
    return None
