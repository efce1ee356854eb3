"""Image files of all kinds, made as bytes, and small data sets of them on disk."""

import io
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_ORIENTATION = 0x0112


def picture(height: int = 24, width: int = 32, seed: int = 0) -> np.ndarray:
    """A smooth random picture, (height, width, 3) uint8: no two seeds alike, and no two corners."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(pixels: np.ndarray | Image.Image, image_format: str, **options: Any) -> bytes:
    """A file as Pillow writes it."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    content = io.BytesIO()
    image.save(content, image_format, **options)
    return content.getvalue()


def jpeg(seed: int = 0, height: int = 24, width: int = 32, **options: Any) -> bytes:
    """A JPEG of `picture(height, width, seed)`."""
    return encoded(picture(height, width, seed), "JPEG", **options)


def png(seed: int = 0, height: int = 24, width: int = 32) -> bytes:
    """A PNG of `picture(height, width, seed)`."""
    return encoded(picture(height, width, seed), "PNG")


def with_orientation(pixels: np.ndarray, orientation: int, image_format: str = "JPEG", **options: Any) -> bytes:
    """A file whose EXIF says how its rows are turned."""
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    return encoded(pixels, image_format, exif=exif, **options)


def with_exif(content: bytes, payload: bytes) -> bytes:
    """A JPEG with an APP1 segment of the given bytes put first."""
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + content[2:]


def blank_png(height: int, width: int) -> bytes:
    """A black RGB PNG of any size; 20,000 x 20,000 is 1.5 MB, made at once: one compressed row, again and again."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    row = bytes(1 + 3 * width)
    # After a full flush the compressor starts afresh, so every row's bytes are the same.
    packed_row = compressor.compress(row) + compressor.flush(zlib.Z_FULL_FLUSH)
    # Adler-32 of n zeros: sums 1 and n modulo 65521 (RFC 1950, section 8.2).
    checksum = struct.pack(">HH", len(row) * height % 65521, 1)
    body = b"\x78\x9c" + packed_row * height + b"\x03\x00" + checksum
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def one_of_each_kind() -> dict[str, bytes]:
    """Name of a kind -> a small file: every format, colour mode and structure that is read."""
    rgb = Image.fromarray(picture(23, 31, seed=1))
    other = Image.fromarray(picture(23, 31, seed=2))
    grey16 = np.random.default_rng(0).integers(0, 2**16, (23, 31), dtype=np.uint16)
    return {
        "jpeg": encoded(rgb, "JPEG"),
        "jpeg progressive": encoded(rgb, "JPEG", progressive=True),
        "jpeg grey": encoded(rgb.convert("L"), "JPEG"),
        "jpeg cmyk": encoded(rgb.convert("CMYK"), "JPEG"),
        "jpeg turned": with_orientation(np.asarray(rgb), 6),
        "jpeg of several pictures": encoded(rgb, "MPO", save_all=True, append_images=[other]),
        "png": encoded(rgb, "PNG"),
        "png turned": with_orientation(np.asarray(rgb), 8, "PNG"),
        "png grey": encoded(rgb.convert("L"), "PNG"),
        "png grey 16 bits": encoded(grey16, "PNG"),
        "png grey and alpha": encoded(rgb.convert("LA"), "PNG"),
        "png bilevel": encoded(rgb.convert("1"), "PNG"),
        "png alpha": encoded(_half_transparent(rgb), "PNG"),
        "png palette": encoded(rgb.convert("P"), "PNG"),
        "png palette with transparency": encoded(rgb.convert("P"), "PNG", transparency=bytes([0, 128, 255])),
        "bmp": encoded(rgb, "BMP"),
        "bmp palette": encoded(rgb.convert("P"), "BMP"),
        "gif": encoded(rgb, "GIF"),
        "gif animated": encoded(rgb, "GIF", save_all=True, append_images=[other]),
        "webp": encoded(rgb, "WEBP"),
        "webp lossless with alpha": encoded(_half_transparent(rgb), "WEBP", lossless=True, exact=True),
        "webp animated": encoded(rgb, "WEBP", save_all=True, append_images=[other], lossless=True),
    }


def write_class_folders(folder: Path, counts: Mapping[str, int], *, first_seed: int = 0) -> Path:
    """A folder with one sub-folder per class, each with so many different JPEGs; returns it."""
    seed = first_seed
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for position in range(count):
            (folder / name / f"{position:03d}.jpg").write_bytes(jpeg(seed, 12, 16))
            seed += 1
    return folder


def _half_transparent(image: Image.Image) -> Image.Image:
    turned = image.convert("RGBA")
    turned.putalpha(Image.linear_gradient("L").resize(image.size))
    return turned


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
