import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfpipe.core.errors import DecodeError
from tfpipe.data.encodings import decode_text, read_text

RUSSIAN = "Съешь же ещё этих мягких французских булок, да выпей чаю. " * 5


@given(st.text(), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]))
def test_text_in_an_encoding_that_says_so_is_read_back(text, encoding):
    # Read as UTF-8, a mark at the beginning is one; NULs are looked at below.
    text = text.lstrip("\ufeff").replace("\0", "")

    assert decode_text(text.encode(encoding), where="test") == text


@pytest.mark.parametrize("encoding", ["cp1251", "koi8-r"])
def test_another_encoding_is_refused_with_a_guess(tmp_path, encoding):
    file = tmp_path / "a.txt"
    file.write_bytes(b"plain\n" + RUSSIAN.encode(encoding))

    with pytest.raises(DecodeError) as caught:
        read_text(file)

    assert str(caught.value).startswith(f"{file}: expected UTF-8 text; byte 6 is not. It looks like ")
    guess = str(caught.value).split("It looks like ")[1].split(":")[0]
    assert RUSSIAN.encode(encoding).decode(guess) == RUSSIAN


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(DecodeError, match=r"page: expected UTF-8 text; byte 0 is not\. Convert"):
        decode_text(bytes(range(128, 256)) * 20 + b"\0\1\2\3" * 50, where="page")


def test_utf16_without_a_mark_is_refused():
    with pytest.raises(
        DecodeError, match=r"byte 1 is NUL, as are many\. It looks like UTF-16 without a byte order mark"
    ):
        decode_text("text,label\n".encode("utf-16-le"), where="a.csv")


def test_a_file_cut_within_a_character_is_refused_by_what_its_mark_says():
    with pytest.raises(DecodeError, match="expected UTF-16 text, as its byte order mark says; byte 6 is not"):
        decode_text("aб".encode("utf-16") + b"\x31", where="a.csv")


def test_a_nul_in_a_text_is_a_character_of_it():
    assert decode_text(b"before\0after", where="test") == "before\0after"
