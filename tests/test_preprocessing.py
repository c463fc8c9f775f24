"""Every kind of image file becomes RGB the way a person would expect."""

from __future__ import annotations

import contextlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from pipeline.preprocessing import Preprocessing, UnreadableImage, load, read, to_array

LARGE = Preprocessing(64, "crop", (255, 0, 0))
PLAIN = Preprocessing(8, "crop", (255, 0, 0))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    """Pillow's own conversion would make everything above 255 white."""
    wide = Image.fromarray(np.full((8, 8), 32896, np.uint16))
    assert to_array(read(encoded(wide, "PNG"), PLAIN).pixels_HWC, PLAIN).tolist() == [[[128, 128, 128]] * 8] * 8


@pytest.mark.parametrize(
    ("values", "grey"),
    [
        (np.full((8, 8), 0.5, np.float32), 128),
        (np.full((8, 8), 100, np.float32), 100),
        (np.full((8, 8), 32896, np.float32), 128),
        (np.full((8, 8), 200, np.int32), 200),
        (np.full((8, 8), 32896, np.int32), 128),
    ],
)
def test_the_values_of_a_tiff_tell_their_range(values: np.ndarray, grey: int) -> None:
    """0-1, 0-255 or 0-65535, of floats and whole numbers."""
    content = encoded(Image.fromarray(values), "TIFF")
    assert (to_array(read(content, PLAIN).pixels_HWC, PLAIN) == grey).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -1.0, 1e6])
def test_values_without_a_meaning_are_refused(wrong: float) -> None:
    """Instead of a black or white picture."""
    values = np.full((8, 8), 0.5, np.float32)
    values[3, 3] = wrong
    with pytest.raises(UnreadableImage, match=r"not finite|its values run from"):
        read(encoded(Image.fromarray(values), "TIFF"), PLAIN)


def test_a_colour_key_is_transparency() -> None:
    """An RGB PNG may declare one of its colours transparent."""
    image = Image.new("RGB", (8, 8), (0, 255, 0))
    content = encoded(image, "PNG", transparency=(0, 255, 0))
    assert to_array(read(content, PLAIN).pixels_HWC, PLAIN)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_shows_the_background(mode: str) -> None:
    """A fully transparent pixel is the stated background, whatever colour hides under it."""
    image = Image.new("RGBA", (8, 8), (0, 255, 0, 0)).convert(mode)
    assert to_array(read(encoded(image, "PNG"), PLAIN).pixels_HWC, PLAIN)[0, 0].tolist() == [255, 0, 0]


def test_cmyk_becomes_rgb() -> None:
    """A CMYK JPEG, as print shops deliver it."""
    image = Image.new("CMYK", (8, 8), (0, 0, 0, 255))
    assert to_array(read(encoded(image, "JPEG"), PLAIN).pixels_HWC, PLAIN).max() < 10


def test_exif_orientation_is_applied() -> None:
    """A photo taken sideways stands upright, and its size is that of the upright picture."""
    image = Image.new("RGB", (20, 10))
    exif = image.getexif()
    exif[0x0112] = 6
    decoded = read(encoded(image, "JPEG", exif=exif), PLAIN)
    assert (decoded.width, decoded.height) == (10, 20)
    assert decoded.pixels_HWC.shape == (20, 10, 3)


def test_the_whole_image_survives_padding_and_the_middle_survives_cropping() -> None:
    """A wide image: `pad` keeps both ends above background, `crop` keeps the middle."""
    image = np.full((8, 16, 3), (0, 0, 255), np.uint8)
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


def test_a_camera_file_with_a_preview_behind_the_photo_is_a_photo() -> None:
    """Many cameras write MPO under the name .jpg: two frames, not an animation."""
    photo, preview = Image.new("RGB", (40, 30), (0, 200, 0)), Image.new("RGB", (20, 15))
    decoded = read(encoded(photo, "MPO", save_all=True, append_images=[preview]), PLAIN)
    assert decoded.pixels_HWC[5, 5] == pytest.approx((0, 200, 0), abs=3)


def test_a_jpeg_has_the_pixels_that_pillow_decodes() -> None:
    """Another reader of the same library: grey and colour, all the usual subsamplings, progressive ones."""
    photo = Image.effect_noise((61, 47), 60).convert("RGB")
    for options in ({}, {"subsampling": 0}, {"subsampling": 2}, {"progressive": True}, {"quality": 30}):
        content = encoded(photo, "JPEG", **options)
        assert (read(content, LARGE).pixels_HWC == np.asarray(Image.open(BytesIO(content)))).all()
    grey = encoded(photo.convert("L"), "JPEG")
    assert (read(grey, LARGE).pixels_HWC[..., 1] == np.asarray(Image.open(BytesIO(grey)))).all()
    assert read(grey, PLAIN).mode == "L"


def test_a_far_too_large_jpeg_is_decoded_at_a_fraction_of_its_size() -> None:
    """Never under twice the side that is wanted; the manifest keeps the size of the file."""
    decoded = read(encoded(Image.new("RGB", (640, 480), (0, 200, 0)), "JPEG"), PLAIN)
    assert (decoded.width, decoded.height) == (640, 480)
    assert decoded.pixels_HWC.shape == (60, 80, 3)
    assert read(encoded(Image.new("RGB", (24, 20)), "JPEG"), PLAIN).pixels_HWC.shape == (20, 24, 3)


def test_damage_in_the_middle_of_a_jpeg_is_noticed() -> None:
    """Pillow decodes such a file without a word."""
    content = bytearray(encoded(Image.effect_noise((64, 64), 80).convert("RGB"), "JPEG"))
    content[len(content) // 2 : len(content) // 2 + 30] = bytes(range(210, 240))
    with pytest.raises(UnreadableImage, match="damaged"):
        read(bytes(content), PLAIN)


def test_a_photo_from_a_phone_is_read() -> None:
    """HEIC, upright."""
    pillow_heif.register_heif_opener()
    photo = Image.new("RGB", (64, 32), (200, 0, 0))
    decoded = read(encoded(photo, "HEIF"), PLAIN)
    assert (decoded.width, decoded.height, decoded.format) == (64, 32, "HEIF")
    assert decoded.pixels_HWC[5, 5] == pytest.approx((200, 0, 0), abs=6)


def test_damaged_exif_data_do_not_cost_the_picture() -> None:
    """Pillow's own transposition rewrites them, and raises struct.error on one wrong byte."""
    image = Image.new("RGB", (40, 30))
    exif = image.getexif()
    exif[0x0112], exif[0x010E] = 6, "hello world"
    content = bytearray(encoded(image, "JPEG", exif=exif))
    content[41] = 0
    assert read(bytes(content), LARGE).pixels_HWC.shape in ((30, 40, 3), (40, 30, 3))


def test_any_broken_file_has_a_reason_and_no_other_error() -> None:
    """Bytes of good files overwritten at random: an image or UnreadableImage, whatever Pillow raises."""
    draw = np.random.default_rng(0)
    photo = Image.effect_noise((40, 30), 80).convert("RGB")
    exif = photo.getexif()
    exif[0x0112], exif[0x010E] = 6, "hello world"
    for kind in ("JPEG", "PNG", "TIFF", "GIF", "WEBP"):
        content = encoded(photo, kind, **({"exif": exif} if kind in ("JPEG", "TIFF") else {}))
        for _ in range(60):
            broken = bytearray(content)
            for place in draw.integers(0, min(len(content), 300), 3):
                broken[place] = draw.integers(256)
            with contextlib.suppress(UnreadableImage):
                assert to_array(read(bytes(broken), PLAIN).pixels_HWC, PLAIN).shape == (8, 8, 3)


def test_a_decompression_bomb_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow only warns between one and two times its limit; we stop."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 - 1)
    with pytest.raises(UnreadableImage, match="bomb"):
        read(JPEG, PLAIN)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """The sentence holds the path and what to do."""
    with pytest.raises(ValueError, match=r"gone\.png: cannot be read \(No such file"):
        load(tmp_path / "gone.png", PLAIN)
