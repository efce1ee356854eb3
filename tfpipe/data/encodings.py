"""Bytes to text: UTF-8, or UTF-16 and UTF-32 that say so; everything else is refused, with a guess at what it is."""

import codecs
from pathlib import Path

import charset_normalizer

from tfpipe.core.errors import DecodeError

# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
# Enough for a guess, and a guess at more takes seconds.
_GUESSED_BYTES = 16_384
# European text in UTF-16 is half NUL bytes; in no other encoding are they more than a few.
_NUL_SHARE = 0.2


def read_text(file: Path) -> str:
    """The text of a file, without its byte order mark.

    Raises:
        DecodeError: It cannot be read, or is not in one of the encodings; see `decode_text`.
    """
    try:
        content = file.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise DecodeError(f"{file}: expected a readable file; {reason}.") from error
    return decode_text(content, where=str(file))


def decode_text(content: bytes, *, where: str) -> str:
    """Text from bytes: UTF-8 with or without byte order mark, UTF-16 or UTF-32 with one.

    Never guessed: a wrong guess reads as text and is learnt. The message does guess, for the person who reads it.

    Args:
        content: The bytes.
        where: Where they come from, for messages.

    Raises:
        DecodeError: Other bytes; the message says which byte is the first.
    """
    encoding, name = next(((codec, name) for mark, codec, name in _MARKS if content.startswith(mark)), ("utf-8", ""))
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        what = f"{name} text, as its byte order mark says" if name else "UTF-8 text"
        guess = "" if name else _guess(content)
        raise DecodeError(f"{where}: expected {what}; byte {error.start} is not.{guess}") from error
    if not name and content.count(0) > len(content) * _NUL_SHARE:
        raise DecodeError(
            f"{where}: expected UTF-8 text; byte {content.index(0)} is NUL, as are many. It looks like UTF-16 "
            "without a byte order mark: convert it to UTF-8."
        )
    return text


def _guess(content: bytes) -> str:
    # Lines of ASCII look alike in every encoding.
    telling = b"\n".join(line for line in content.split(b"\n") if not line.isascii())[:_GUESSED_BYTES]
    best = charset_normalizer.from_bytes(telling).best()
    return f" It looks like {best.encoding}: convert it to UTF-8." if best is not None else " Convert it to UTF-8."
