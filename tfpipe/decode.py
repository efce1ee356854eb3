"""Bytes -> RGB array: the one decoder of training, conversion, batch prediction and the service.

EXIF orientation applied; alpha dropped; palette expanded; 16-bit grey shifted right by 8; CMYK as Pillow converts it;
first frame of an animation; RGB, 8 bits. Free of TensorFlow.
"""

import io
import struct
import warnings
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from tfpipe.core.errors import DecodeError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
# 64 megapixels: above any camera in common use, and 192 MB decoded. A 20,000 x 20,000 PNG may be 1 MB on disk.
MAX_IMAGE_PIXELS = 64_000_000

# What TensorFlow's decoders read as this one does, by format and Pillow mode.
_PLAIN = {
    "JPEG": ("RGB", "L"),
    "PNG": ("RGB", "RGBA", "L", "LA", "P", "1"),
    "BMP": ("RGB",),
    "GIF": ("RGB", "L", "P"),
}
# MPO: a JPEG followed by further pictures (depth, previews), as many telephones write; the first one counts.
_JPEG_FORMATS = ("JPEG", "MPO")
_EXIF_ORIENTATION = 0x0112
# Pillow's readers raise whatever their parsing hits; all of it means that the file is damaged.
_DAMAGED = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    ZeroDivisionError,
    OverflowError,
    MemoryError,
)
# Pillow warns of damaged EXIF or palettes that it can still read; what it cannot read it raises. Once for the process:
# catch_warnings() around a call would change the filters under other threads that decode.
warnings.filterwarnings("ignore", module=r"PIL\.")
# Pillow's own bomb check warns at another limit; ours is applied to the header before any pixel is read.
Image.MAX_IMAGE_PIXELS = None


class DecodedImage(NamedTuple):
    """A picture and what its file said about it."""

    pixels: np.ndarray  # (height, width, 3) uint8, upright, C-contiguous and writable
    format: str  # "JPEG", "PNG", "BMP", "GIF" or "WEBP"
    mode: str  # Pillow's name of the colour mode, e.g. "RGB", "L", "P", "CMYK"
    orientation: int  # how the stored rows were turned, by EXIF: 1 (upright) to 8

    @property
    def is_plain(self) -> bool:
        """Whether TensorFlow's decoders, which are all that a SavedModel has, read the file as this one does."""
        return self.mode in _PLAIN.get(self.format, ()) and self.orientation == 1


def decode_image(content: bytes, *, max_pixels: int = MAX_IMAGE_PIXELS) -> np.ndarray:
    """Read an image as upright 8-bit RGB.

    Args:
        content: A JPEG, PNG, BMP, GIF or WebP file.
        max_pixels: Refuse larger images, told from the header before anything is decoded.

    Returns:
        (height, width, 3) uint8, C-contiguous and writable.

    Raises:
        DecodeError: Empty, not an image, of another format, truncated, or too large.
    """
    return decode_with_header(content, max_pixels=max_pixels).pixels


def decode_with_header(content: bytes, *, max_pixels: int = MAX_IMAGE_PIXELS) -> DecodedImage:
    """As `decode_image`, with what the file says about itself."""
    if not content:
        raise DecodeError("image: expected a JPEG, PNG, BMP, GIF or WebP file, received 0 bytes.")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_size(image.size, max_pixels)
            mode = image.mode
            pixels = _decode_jpeg(content) if image.format in _JPEG_FORMATS and mode in ("RGB", "L") else None
            if pixels is None:
                pixels = _decode_with_pillow(image)
            orientation = _orientation(image)
            return DecodedImage(_orient(pixels, orientation), _format_name(image), mode, orientation)
    except DecodeError:
        raise
    except UnidentifiedImageError:
        raise DecodeError(
            f"image: expected a JPEG, PNG, BMP, GIF or WebP file, received {len(content)} bytes "
            f"that begin with {content[:8]!r}."
        ) from None
    except _DAMAGED as error:
        raise DecodeError(f"image: expected a whole image file, received a damaged one ({error}).") from error


def image_header(content: bytes) -> tuple[str, str, tuple[int, int]]:
    """Format, Pillow mode and (height, width) as stored, from the header alone.

    Raises:
        DecodeError: Not one of the formats read here.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return _format_name(image), image.mode, (image.height, image.width)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise DecodeError("image: expected a JPEG, PNG, BMP, GIF or WebP file, received something else.") from error


def _format_name(image: Image.Image) -> str:
    return "JPEG" if image.format in _JPEG_FORMATS else str(image.format)


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise DecodeError(
            f"image: expected at most {max_pixels} pixels, received {width} x {height} = {width * height}."
        )


def _decode_jpeg(content: bytes) -> np.ndarray | None:
    # The accurate transform and smooth upsampling equal Pillow and TensorFlow's INTEGER_ACCURATE bit for bit.
    # strict: a truncated file raises rather than ending in grey. It raises for harmless oddities too (stray bytes
    # between segments); Pillow, which gives the same pixels, tells the two apart.
    try:
        pixels: np.ndarray = simplejpeg.decode_jpeg(
            content, colorspace="RGB", fastdct=False, fastupsample=False, strict=True
        )
    except ValueError:
        return None
    return pixels


def _decode_with_pillow(image: Image.Image) -> np.ndarray:
    image.seek(0)
    image.load()
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow's convert() clips 16-bit grey to 255; the high byte is the 8-bit picture.
        grey = np.asarray(image).astype(np.int64) >> 8
        return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("LA", "RGBA", "PA"):
        # Dropped, not blended: the colour channels as they are stored.
        return np.asarray(image.convert("RGBA"))[..., :3]
    return np.asarray(image.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    value = image.getexif().get(_EXIF_ORIENTATION)
    # Cameras are known to write 0, and damaged EXIF other types; the picture itself is still good.
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _orient(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored rows into an upright picture. Source: EXIF 2.3 (CIPA DC-008), tag 0x0112."""
    turned = {
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: p.transpose(1, 0, 2)[:, ::-1],
        7: lambda p: p.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda p: p.transpose(1, 0, 2)[::-1],
    }.get(orientation, lambda p: p)(pixels)
    # Without a copy of a JPEG that was not turned: its decoder's own array is all of that.
    return np.require(turned, requirements=("C", "W"))
