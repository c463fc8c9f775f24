"""Every kind of image file becomes RGB the way a person would expect."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.preprocessing import Preprocessing, UnreadableImage, load, read, to_array

PLAIN = Preprocessing(8, "crop", (255, 0, 0))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    """Pillow's own conversion would make everything above 255 white."""
    wide = Image.fromarray(np.full((8, 8), 32896, np.uint16))
    assert to_array(read(encoded(wide, "PNG"), PLAIN).image, PLAIN).tolist() == [[[128, 128, 128]] * 8] * 8


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_shows_the_background(mode: str) -> None:
    """A fully transparent pixel is the stated background, whatever colour hides under it."""
    image = Image.new("RGBA", (8, 8), (0, 255, 0, 0)).convert(mode)
    assert to_array(read(encoded(image, "PNG"), PLAIN).image, PLAIN)[0, 0].tolist() == [255, 0, 0]


def test_cmyk_becomes_rgb() -> None:
    """A CMYK JPEG, as print shops deliver it."""
    image = Image.new("CMYK", (8, 8), (0, 0, 0, 255))
    assert to_array(read(encoded(image, "JPEG"), PLAIN).image, PLAIN).max() < 10


def test_exif_orientation_is_applied() -> None:
    """A photo taken sideways stands upright, and its size is that of the upright picture."""
    image = Image.new("RGB", (20, 10))
    exif = image.getexif()
    exif[0x0112] = 6
    decoded = read(encoded(image, "JPEG", exif=exif), PLAIN)
    assert (decoded.width, decoded.height) == (10, 20)
    assert decoded.image.size == (10, 20)


def test_the_whole_image_survives_padding_and_the_middle_survives_cropping() -> None:
    """A wide image: `pad` keeps both ends above background, `crop` keeps the middle."""
    image = Image.new("RGB", (16, 8), (0, 0, 255))
    padded = to_array(image, Preprocessing(8, "pad", (255, 0, 0)))
    assert padded[0, 0].tolist() == [255, 0, 0]
    assert padded[4, 0].tolist() == padded[4, 7].tolist() == [0, 0, 255]
    assert (to_array(image, PLAIN) == (0, 0, 255)).all()


JPEG = encoded(Image.effect_noise((64, 64), 80).convert("RGB"), "JPEG")
PNG = encoded(Image.effect_noise((64, 64), 80), "PNG")
GIF = encoded(Image.new("L", (8, 8)), "GIF", save_all=True, append_images=[Image.new("L", (8, 8), 255)])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"hello, I am text", "not an image"),
        (JPEG[: len(JPEG) // 2], "damaged"),
        (PNG[:200] + bytes([PNG[200] ^ 1]) + PNG[201:], "damaged"),
        (GIF, "animated"),
    ],
)
def test_what_is_no_image_has_a_reason(content: bytes, reason: str) -> None:
    """Empty, foreign, truncated, bit-flipped and animated files are refused, not guessed at."""
    with pytest.raises(UnreadableImage, match=reason):
        read(content, PLAIN)


def test_a_decompression_bomb_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow only warns between one and two times its limit; we stop."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 - 1)
    with pytest.raises(UnreadableImage, match="bomb"):
        read(JPEG, PLAIN)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """The sentence holds the path and what to do."""
    with pytest.raises(ValueError, match=r"gone\.png: cannot be read \(No such file"):
        load(tmp_path / "gone.png", PLAIN)
