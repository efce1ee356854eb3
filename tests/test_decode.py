import io
import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.image_files import (
    blank_png,
    encoded,
    jpeg,
    one_of_each_kind,
    picture,
    with_exif,
    with_orientation,
)
from tfpipe.core.errors import DecodeError
from tfpipe.decode import decode_image, decode_with_header, image_header

KINDS = one_of_each_kind()

# Upright picture -> the rows that a file of this orientation stores. Source: EXIF 2.3 (CIPA DC-008), tag 0x0112.
STORED_AS = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: np.rot90(upright, 2),
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_becomes_a_writable_rgb_array(kind):
    pixels = decode_image(KINDS[kind])

    assert pixels.dtype == np.uint8
    assert pixels.shape == ((31, 23, 3) if "turned" in kind else (23, 31, 3))
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable


@pytest.mark.parametrize("orientation", STORED_AS)
@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_every_orientation_is_turned_upright(orientation, image_format):
    upright = picture(9, 14)
    stored = np.ascontiguousarray(STORED_AS[orientation](upright))
    options = {"lossless": True} if image_format == "WEBP" else {}

    content = with_orientation(stored, orientation, image_format, **options)

    np.testing.assert_array_equal(decode_image(content), upright)
    assert decode_with_header(content).orientation == orientation


@pytest.mark.parametrize("orientation", STORED_AS)
def test_a_turned_jpeg_is_the_stored_one_turned_back(orientation):
    stored = picture(9, 14)

    upright = decode_image(with_orientation(stored, orientation))

    np.testing.assert_array_equal(STORED_AS[orientation](upright), decode_image(encoded(stored, "JPEG")))


@pytest.mark.parametrize("payload", [b"Exif\0\0", b"Exif\0\0garbage!", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_damaged_exif_leaves_the_picture_as_stored(payload):
    content = jpeg()

    np.testing.assert_array_equal(decode_image(with_exif(content, payload)), decode_image(content))


@pytest.mark.parametrize(
    "value_type", [(b"\x02\0\x04\0\0\0abc\0"), (b"\x05\0\x01\0\0\0\x1a\0\0\0"), (b"\x03\0\x01\0\0\0\x63\0\0\0")]
)
def test_an_orientation_that_is_none_of_the_eight_counts_as_upright(value_type):
    content = jpeg()
    payload = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01" + value_type + bytes(12)

    np.testing.assert_array_equal(decode_image(with_exif(content, payload)), decode_image(content))


def test_sixteen_bit_grey_keeps_its_high_byte():
    grey = np.array([[0, 255, 256], [32768, 65279, 65535]], dtype=np.uint16)

    pixels = decode_image(encoded(grey, "PNG"))

    np.testing.assert_array_equal(pixels, np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=2))


def test_alpha_is_dropped_and_not_blended():
    pixels = picture(6, 7)
    alpha = np.full((6, 7, 1), 10, dtype=np.uint8)
    content = encoded(np.concatenate([pixels, alpha], axis=2), "PNG")

    np.testing.assert_array_equal(decode_image(content), pixels)


def test_alpha_beside_grey_is_dropped():
    grey = picture(6, 7)[..., :1]
    image = Image.fromarray(np.concatenate([grey, np.full_like(grey, 10)], axis=2), "LA")

    np.testing.assert_array_equal(decode_image(encoded(image, "PNG")), np.repeat(grey, 3, axis=2))


@pytest.mark.parametrize("transparency", [None, 1, bytes([0, 128, 255])])
def test_a_palette_is_expanded_whatever_its_transparency(transparency):
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    options = {} if transparency is None else {"transparency": transparency}

    pixels = decode_image(encoded(image, "PNG", **options))

    np.testing.assert_array_equal(pixels, [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]])


def test_cmyk_is_what_pillow_makes_of_it():
    content = KINDS["jpeg cmyk"]

    np.testing.assert_array_equal(decode_image(content), np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))


@pytest.mark.parametrize("kind", ["gif animated", "webp animated", "jpeg of several pictures"])
def test_the_first_frame_counts(kind):
    first = Image.fromarray(picture(23, 31, seed=1))
    alone = {
        "gif animated": encoded(first, "GIF"),
        "webp animated": encoded(first, "WEBP", lossless=True),
        "jpeg of several pictures": encoded(first, "JPEG"),
    }[kind]

    np.testing.assert_array_equal(decode_image(KINDS[kind]), decode_image(alone))


@pytest.mark.parametrize("kind", KINDS)
def test_no_cut_gives_another_picture(kind):
    content = KINDS[kind]
    whole = decode_image(content)

    for length in range(len(content)):
        try:
            pixels = decode_image(content[:length])
        except DecodeError:
            continue
        # All that is cut off is what comes after the last pixel: a trailer, further frames.
        np.testing.assert_array_equal(pixels, whole)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(kind=st.sampled_from(sorted(KINDS)), data=st.data())
def test_any_damage_gives_an_array_or_one_clear_error(kind, data):
    content = bytearray(KINDS[kind])
    # Headers are where parsers break; the rest is mostly pixels.
    places = st.one_of(st.integers(0, min(300, len(content)) - 1), st.integers(0, len(content) - 1))
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=6)):
        content[place] = value
    cut = data.draw(st.integers(0, len(content)))
    del content[cut : cut + data.draw(st.integers(0, 20))]

    try:
        pixels = decode_image(bytes(content), max_pixels=1_000_000)
    except DecodeError:
        return

    assert pixels.dtype == np.uint8
    assert pixels.shape[2:] == (3,)


@given(content=st.binary(max_size=64))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_bytes_that_are_no_image_are_refused(content):
    with pytest.raises(DecodeError, match=r"expected a (JPEG, PNG, BMP, GIF or WebP file|whole image)"):
        decode_image(content)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "received 0 bytes"),
        (b"not an image at all", "begin with b'not an i'"),
        (jpeg()[:200], "damaged"),
        (encoded(picture(), "TIFF"), "expected a JPEG, PNG, BMP, GIF or WebP file"),
        (encoded(Image.fromarray(picture()), "PPM"), "expected a JPEG, PNG, BMP, GIF or WebP file"),
    ],
)
def test_what_is_wrong_is_said(content, sentence):
    with pytest.raises(DecodeError, match=sentence):
        decode_image(content)


def test_a_huge_png_is_refused_before_any_pixel_is_decoded():
    content = blank_png(20_000, 20_000)
    tracemalloc.start()

    with pytest.raises(DecodeError, match="at most 64000000 pixels, received 20000 x 20000 = 400000000"):
        decode_image(content)

    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_a_blank_png_within_the_limit_is_read():
    assert not decode_image(blank_png(300, 200)).any()


def test_the_limit_counts_pixels_and_includes_itself():
    content = encoded(picture(10, 10), "PNG")

    assert decode_image(content, max_pixels=100).shape == (10, 10, 3)
    with pytest.raises(DecodeError, match="at most 99 pixels, received 10 x 10 = 100"):
        decode_image(content, max_pixels=99)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("jpeg turned", ("JPEG", "RGB", (23, 31))),
        ("jpeg of several pictures", ("JPEG", "RGB", (23, 31))),
        ("png palette", ("PNG", "P", (23, 31))),
        ("webp lossless with alpha", ("WEBP", "RGBA", (23, 31))),
    ],
)
def test_the_header_tells_format_mode_and_stored_size(kind, expected):
    assert image_header(KINDS[kind]) == expected


def test_the_header_of_something_else_is_refused():
    with pytest.raises(DecodeError, match="received something else"):
        image_header(b"text")


@pytest.mark.tensorflow
@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    seed=st.integers(0, 1000),
    quality=st.integers(1, 100),
    subsampling=st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
    progressive=st.booleans(),
    mode=st.sampled_from(["RGB", "L"]),
)
def test_jpegs_equal_tensorflows_accurate_decoder_bit_for_bit(
    height, width, seed, quality, subsampling, progressive, mode
):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))
    options = {"subsampling": subsampling} if mode == "RGB" else {}
    content = encoded(image.convert(mode), "JPEG", quality=quality, progressive=progressive, **options)

    expected = tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE").numpy()

    np.testing.assert_array_equal(decode_image(content), expected)


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", ["jpeg cmyk", "png", "png palette", "png alpha", "png grey", "bmp", "gif"])
def test_other_upright_files_equal_tensorflows_decoder(kind):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    content = KINDS[kind]
    decode = tf.io.decode_jpeg if kind.startswith("jpeg") else tf.io.decode_image
    options = {"dct_method": "INTEGER_ACCURATE"} if kind.startswith("jpeg") else {"expand_animations": False}

    np.testing.assert_array_equal(decode_image(content), decode(content, channels=3, **options).numpy())
