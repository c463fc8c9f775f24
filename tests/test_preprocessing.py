"""Every kind of image file becomes RGB the way a person would expect."""

import contextlib
import os
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import image_files
from pipeline.errors import UserError
from pipeline.image_files import load, read
from pipeline.preprocessing import Preprocessing, UnreadableImage, to_array

LARGE = Preprocessing(64, "crop", (255, 0, 0))
PLAIN = Preprocessing(8, "crop", (255, 0, 0))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pages(*kinds: int) -> bytes:
    """A TIFF with a page of each NewSubfileType; full ones are white, all others black."""
    buffer = BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for kind in kinds:
            side, grey = (64, 32)[kind & 1], 0 if kind else 255
            writer.write(np.full((side, side), grey, np.uint8), subfiletype=kind, photometric="minisblack")
    return buffer.getvalue()


NOISE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (47, 61, 3), np.uint8))  # no scan ends with a zero
SMOOTH = Image.radial_gradient("L").resize((90, 70)).convert("RGB")
WAYS: list[dict[str, object]] = [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}]
JPEGS = [encoded(image, "JPEG", **way) for image in (NOISE, SMOOTH, NOISE.convert("L")) for way in WAYS]
PNG = encoded(NOISE, "PNG")
TURNED = Image.Exif()
TURNED[0x0112], TURNED[0x010E] = 6, "hello world"
CMYK = encoded(Image.merge("CMYK", [Image.effect_noise((64, 64), 80)] * 4), "JPEG")


def test_models_of_before_are_read() -> None:
    """Their cards say nothing of white, which was 65,535 of 16 bits; what only one side has met is no difference."""
    old = Preprocessing.from_record({"size": 8, "resize": "crop", "background": [255, 0, 0]})
    assert Preprocessing.from_record(old.record()) == old and Preprocessing.from_record(PLAIN.record()) == PLAIN
    whites: list[dict[str, int]] = [{"uint16": 4095}, {"uint16": 65535}, {"float32": 1}]
    of_12, of_16, floats = (replace(PLAIN, white=white) for white in whites)
    assert Preprocessing.from_record(of_12.record()) == of_12
    assert all(old.agrees(new) and new.agrees(old) for new in (of_16, floats, PLAIN))
    assert not of_12.agrees(of_16) and not of_12.agrees(old) and not old.agrees(LARGE)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparency_shows_the_background(mode: str) -> None:
    """A fully transparent pixel is the stated background, whatever colour hides under it; RGB may have a colour key."""
    image = Image.new("RGBA", (8, 8), (0, 255, 0, 0)).convert(mode)
    key = {"transparency": (0, 255, 0)} if mode == "RGB" else {}
    assert read(encoded(image, "PNG", **key), PLAIN).pixels_HWC[0, 0].tolist() == [255, 0, 0]


def test_the_whole_image_survives_padding_and_the_middle_survives_cropping() -> None:
    """A wide image: `pad` keeps both ends above background, `crop` keeps the middle."""
    image = np.full((8, 16, 3), (0, 0, 255), np.uint8)
    padded = to_array(image, Preprocessing(8, "pad", (255, 0, 0)))
    assert padded[0, 0].tolist() == [255, 0, 0]
    assert padded[4, 0].tolist() == padded[4, 7].tolist() == [0, 0, 255]
    assert (to_array(image, PLAIN) == (0, 0, 255)).all()


def test_a_jpeg_has_the_pixels_that_pillow_decodes() -> None:
    """Another reader of the same library: grey and colour, all the usual subsamplings, progressive ones."""
    for content in JPEGS:
        with Image.open(BytesIO(content)) as image:
            assert (read(content, LARGE).pixels_HWC == np.asarray(image.convert("RGB"))).all()
            assert read(content, LARGE).mode == image.mode


def test_a_far_too_large_jpeg_is_decoded_at_a_fraction_of_its_size() -> None:
    """Never under twice the side that is wanted; the manifest keeps the size of the file."""
    decoded = read(encoded(Image.new("RGB", (640, 480), (0, 200, 0)), "JPEG"), PLAIN)
    assert (decoded.width, decoded.height) == (640, 480)
    assert decoded.pixels_HWC.shape == (60, 80, 3)
    assert read(encoded(Image.new("RGB", (24, 20)), "JPEG"), PLAIN).pixels_HWC.shape == (20, 24, 3)


def test_damaged_exif_data_do_not_cost_the_picture() -> None:
    """Pillow's own transposition rewrites them, and raises struct.error on one wrong byte."""
    content = bytearray(encoded(Image.new("RGB", (40, 30)), "JPEG", exif=TURNED))
    content[41] = 0
    assert read(bytes(content), LARGE).pixels_HWC.shape in ((30, 40, 3), (40, 30, 3))


@pytest.mark.parametrize("good", JPEGS)
def test_a_jpeg_that_every_viewer_shows_is_read_with_a_note(good: bytes) -> None:
    """Padding before the end marker, none, or bytes between the segments: all the picture is there."""
    junk = good.replace(b"\xff\xdb", b"\0junk\xff\xdb", 1)
    ends = (b"", b"\xff", bytes(300), bytes(9) + b"\xff\xd9", b"\xff\xff" + bytes(30) + b"\xff\xd9")
    for content in (*(good[:-2] + end for end in ends), junk, junk[:-2] + bytes(9)):
        decoded = read(content, LARGE)
        assert decoded.note and (decoded.pixels_HWC == read(good, LARGE).pixels_HWC).all()
    for harmless in (good, good + b"trailing", good[:-2] + b"\xff\xff" + good[-2:]):
        assert not read(harmless, LARGE).note


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pages(0, 1, 0), "several pages"),
        (CMYK[:3000] + bytes(range(210, 240)) + CMYK[3030:], "damaged"),  # Pillow says nothing of it
        (PNG[:200] + bytes([PNG[200] ^ 1]) + PNG[201:], "damaged"),  # Pillow loads it without a word
    ],
)
def test_what_has_no_picture_is_refused(content: bytes, reason: str) -> None:
    """Instead of a wrong picture; of other files see tests/test_dirty_folder.py."""
    with pytest.raises(UnreadableImage, match=reason):
        read(content, PLAIN)


@settings(deadline=None)
@given(st.sampled_from(JPEGS), st.floats(0, 1), st.sampled_from([b"", bytes(50)]))
def test_a_jpeg_without_a_part_of_its_scans_is_refused(good: bytes, place: float, end: bytes) -> None:
    """Wherever it is cut, and also where the zeros of a lost block of the disk follow."""
    cut = int(place * (len(good) - 3))
    with pytest.raises(UnreadableImage):
        read(good[:cut] + end, LARGE)


def test_damage_and_a_harmless_fault_are_damage() -> None:
    """libjpeg reports only the first of several faults."""
    for good in JPEGS:
        tables, middle = good.index(b"\xff\xdb"), len(good) - len(good) // 4
        damaged = good[:tables] + b"\0junk" + good[tables:middle] + b"\xff\xc1\xff\xc2" * 9 + good[middle + 36 :]
        for content in (damaged, damaged[:-2], damaged[:-2] + bytes(20) + damaged[-2:]):
            with pytest.raises(UnreadableImage, match="damaged"):
                read(content, LARGE)


pillow_heif.register_heif_opener()
PHOTO, SMALL = Image.new("RGB", (64, 64), "white"), Image.new("RGB", (32, 32))
BEHIND: dict[str, object] = {"save_all": True, "append_images": [SMALL]}


@pytest.mark.parametrize(
    "content",
    [
        *(pages(*kinds) for kinds in [(0, 1), (0, 1, 1, 1), (1, 0), (1, 0, 1)]),  # overviews of maps, thumbnails
        encoded(PHOTO, "MPO", **BEHIND),  # cameras write it under the name .jpg
        encoded(PHOTO, "HEIF", thumbnails=[16, 32]),
        encoded(PHOTO, "HEIF", **BEHIND, primary_index=0),
    ],
)
def test_a_picture_with_smaller_ones_around_it_is_a_picture(content: bytes) -> None:
    """And no animation."""
    decoded = read(content, PLAIN)
    assert (decoded.width, decoded.height) == (64, 64) and (decoded.pixels_HWC == 255).all()


def test_any_broken_file_has_a_reason_and_no_other_error() -> None:
    """Bytes of good files overwritten at random: an image or UnreadableImage, whatever Pillow raises."""
    draw = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "TIFF", "GIF", "WEBP"):
        content = encoded(NOISE, kind, **({"exif": TURNED} if kind in ("JPEG", "TIFF") else {}))
        for _ in range(60):
            broken = bytearray(content)
            for place in draw.integers(0, min(len(content), 300), 3):
                broken[place] = draw.integers(256)
            with contextlib.suppress(UnreadableImage):
                assert to_array(read(bytes(broken), PLAIN).pixels_HWC, PLAIN).shape == (8, 8, 3)


def test_a_decompression_bomb_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow only warns between one and two times its limit; we stop."""
    monkeypatch.setattr(image_files, "MOST_PIXELS", 47 * 61 - 1)
    for content in (JPEGS[0], PNG):
        with pytest.raises(UnreadableImage, match="bomb"):
            read(content, PLAIN)


def test_what_is_no_image_file_is_never_read(tmp_path: Path) -> None:
    """A FIFO would wait for ever, /dev/zero never ends, and 200 GB (of holes) may begin like an image."""
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "huge.jpg").write_bytes(PNG)
    os.truncate(tmp_path / "huge.jpg", 200 << 30)
    for path in (tmp_path / "fifo.jpg", tmp_path / "huge.jpg", tmp_path / "gone.jpg", tmp_path, Path("/dev/zero")):
        with pytest.raises(UserError, match=f"{path}: it "):
            load(path, PLAIN)
