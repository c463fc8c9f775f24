"""Every kind of image file becomes RGB the way a person would expect."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import zlib
from io import BytesIO
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pillow_heif
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import image_files
from pipeline.bit_depth import UNDECIDED, whites
from pipeline.image_files import content_of, load, read
from pipeline.preprocessing import Preprocessing, UnreadableImage, to_array
from tests import dirty

LARGE = Preprocessing(64, "crop", (255, 0, 0))
PLAIN = Preprocessing(8, "crop", (255, 0, 0))
FIRST_LOOK = Preprocessing(8, "crop", (255, 0, 0), UNDECIDED)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(values: np.ndarray, **options: object) -> bytes:
    buffer = BytesIO()
    kind = "rgb" if values.ndim == 3 else "minisblack"
    tifffile.imwrite(buffer, values, **{"photometric": kind, **options})  # type: ignore[arg-type]
    return buffer.getvalue()


def png(values: np.ndarray) -> bytes:
    """16 bits a channel, grey or with 3 or 4 channels, which Pillow cannot write."""
    colours = {1: 0, 3: 2, 4: 6}[1 if values.ndim == 2 else values.shape[2]]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    return dirty.png(values.shape[1], values.shape[0], 16, colours, zlib.compress(lines))


def pages(*kinds: int) -> bytes:
    """A TIFF with a page of each NewSubfileType; full ones are white, all others black."""
    buffer = BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for kind in kinds:
            side, grey = (64, 32)[kind & 1], 0 if kind else 255
            writer.write(np.full((side, side), grey, np.uint8), subfiletype=kind, photometric="minisblack")
    return buffer.getvalue()


def pixels(content: bytes, **white: int) -> np.ndarray:
    return read(content, Preprocessing(8, "crop", (255, 0, 0), white)).pixels_HWC


def white_of(content: bytes) -> dict[str, int]:
    """As `ingest` finds it, if the data set is this file."""
    peak = read(content, FIRST_LOOK).peak
    assert peak is not None
    return whites([("one.tif", *peak)])[0]


JPEG = encoded(Image.effect_noise((64, 64), 80).convert("RGB"), "JPEG")
PNG = encoded(Image.effect_noise((64, 64), 80), "PNG")
CMYK = encoded(Image.merge("CMYK", [Image.effect_noise((64, 64), 80)] * 4), "JPEG")
RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16)  # black to white
COLOURS = np.stack([RAMP, RAMP.T, RAMP[::-1]], axis=2)
DEFLATED: dict[str, object] = {"byteorder": ">", "compression": "zlib"}
WRITERS = {
    "PNG, grey": lambda full: png((RAMP * (full / 255)).astype(np.uint16)),
    "PNG, colours": lambda full: png((COLOURS * (full / 255)).astype(np.uint16)),
    "TIFF, grey": lambda full: tiff((RAMP * (full / 255)).astype(np.uint16)),
    "TIFF, colours": lambda full: tiff((COLOURS * (full / 255)).astype(np.uint16)),
    "TIFF, compressed": lambda full: tiff((COLOURS * (full / 255)).astype(np.uint16), compression="zlib", predictor=2),
    "TIFF, big-endian": lambda full: tiff((COLOURS * (full / 255)).astype(">u2"), byteorder=">"),
    "TIFF, 32 bits": lambda full: tiff((RAMP * (full / 255)).astype(np.int32)),
    "TIFF, floats": lambda full: tiff((RAMP * (full / 255)).astype(np.float32)),
    "TIFF, 64-bit floats": lambda full: tiff(RAMP * (full / 255)),
    "TIFF, big-endian floats, deflated": lambda full: tiff((RAMP * (full / 255)).astype(">f4"), **DEFLATED),
    "TIFF, big-endian 64-bit floats, deflated": lambda full: tiff((RAMP * (full / 255)).astype(">f8"), **DEFLATED),
    "TIFF, big-endian 32 bits, deflated": lambda full: tiff((RAMP * (full / 255)).astype(">i4"), **DEFLATED),
    "TIFF, white is zero": lambda full: tiff((full - RAMP * (full / 255)).astype(np.uint16), photometric="miniswhite"),
}


@pytest.mark.parametrize("full", [255, 1023, 4095, 16383, 65535])
@pytest.mark.parametrize("written", WRITERS)
def test_a_picture_is_the_same_in_any_number_of_bits(written: str, full: int) -> None:
    """White is told by the brightest values of the data set, so that 12 bits in 16 are not nearly black."""
    content = WRITERS[written](full)
    white = white_of(content)
    assert list(white.values()) == [full]
    wanted = COLOURS if "colours" in written or written.endswith(("compressed", "endian")) else RAMP[..., None]
    assert np.abs(pixels(content, **white).astype(int) - wanted).max() <= 1


@settings(deadline=None)
@given(st.lists(st.floats(0.2, 1.9), min_size=1, max_size=60), st.integers(0, 1), st.floats(3, 255))
def test_floats_a_hair_above_one_are_clipped(reached: list[float], others: int, bright: float) -> None:
    """Interpolation overshoots, noise too: white stays 1; a file of 0-255 among many others is set aside."""
    many = [(f"{i}.tif", "float32", peak) for i, peak in enumerate([*reached, *[1.0] * 60])]
    assert whites(many + [("bright.tif", "float32", bright)] * others) == (
        {"float32": 1}, {"bright.tif": ANY} if others else {},
    )  # fmt: skip
    shown = pixels(tiff((RAMP / 255 * max(1, reached[0])).astype(np.float32)), float32=1)
    assert shown[0, 0].max() == 0 and (shown[-1, -1] == 255).all()


def peaks_of(reached: np.ndarray, name: str) -> list[tuple[str, str, float]]:
    return [(f"{name}{i}", "uint16", float(peak)) for i, peak in enumerate(reached)]


@settings(deadline=None)
@given(
    st.sampled_from([(255, 4095), (255, 16383), (255, 65535), (1023, 16383), (1023, 65535), (4095, 65535)]),
    st.integers(10, 60), st.integers(0, 60), st.integers(0, 999),
)  # fmt: skip
def test_files_on_two_scales_are_told_apart(scales: tuple[int, int], few: int, more: int, seed: int) -> None:
    """The larger group says what is white, wherever it is; each file of the other has a reason, and none is dark."""
    draw = np.random.default_rng(seed)
    for low_count, high_count in ((few + more, more), (few, few + more + 1)):
        low = peaks_of(draw.uniform(scales[0] / 2 + 1, scales[0], low_count).round(), "low")
        high = peaks_of(draw.uniform(scales[1] / 2 + 1, scales[1], high_count).round(), "high")
        white, misfits = whites([*low, *high])
        kept, aside = (low, high) if low_count >= high_count else (high, low)
        assert white == {"uint16": scales[kept is high]}
        assert set(misfits) == {path for path, _, _ in aside}


def test_natural_images_with_dark_ones_are_not_torn_apart() -> None:
    """Exposures that vary, in 16 bits: a dark image stays dark, also where most are, and where two groups differ; two
    scales are mostly found also where each has dark images."""
    draw = np.random.default_rng(0)
    torn = found = 0
    for _ in range(1_000):
        count, spread = draw.integers(20, 400), draw.uniform(0.5, 2)
        middle = draw.choice(np.geomspace(500, 65535, 20), 2)[draw.integers(0, draw.integers(1, 3), count)]
        reached = (middle * np.exp(draw.normal(0, spread, count))).clip(0, 65535)
        reached[:5] = draw.uniform(40_000, 65535, 5)
        torn += whites(peaks_of(reached, "")) != ({"uint16": 65535}, {})
        low, high = draw.uniform(0.2, 1, count) * 4095, draw.uniform(0.05, 1, count) * 65535
        found += whites([*peaks_of(low, "low"), *peaks_of(high, "high")])[1] != {}
    assert torn <= 5 and found >= 850


@pytest.mark.parametrize(("kind", "full"), [(np.int8, 127), (np.int16, 32767), (np.int16, 4095)])
def test_signed_values_are_as_bright_as_unsigned_ones(kind: type[np.generic], full: int) -> None:
    """Their sign bit is no bit of the brightness."""
    values = (RAMP * (full / 255)).astype(kind)
    for content in (tiff(values), *([tiff(values, **DEFLATED)] if kind is np.int16 else [])):
        assert np.abs(pixels(content, **white_of(content))[..., 0] - RAMP.astype(int)).max() <= 2


def test_half_floats_are_read() -> None:
    """Which have no mode in Pillow."""
    for content in (tiff((RAMP / 255).astype("f2")), tiff((RAMP / 255).astype(">f2"), **DEFLATED)):
        assert np.abs(pixels(content)[..., 0] - RAMP.astype(int)).max() <= 1


@settings(deadline=None)
@given(st.sampled_from([np.uint16, np.int32, np.float32]), st.integers(2, 4095), st.integers(4096, 65535))
def test_one_pixel_does_not_change_what_is_white(kind: type[np.generic], peak: int, hot: int) -> None:
    """Neither in a data set nor in the picture of a client: a hot pixel is white, and all others stay as they were."""
    values = (RAMP * (peak / 255)).astype(kind)
    values[0] = peak
    with_hot = values.copy()
    with_hot[3, 4] = hot
    white = white_of(tiff(values))
    assert white == white_of(tiff(with_hot))
    before, after = pixels(tiff(values), **white).astype(int), pixels(tiff(with_hot), **white).astype(int)
    assert (after[3, 4] == 255).all()
    after[3, 4] = before[3, 4]
    assert (after == before).all()


def test_the_format_tells_white_where_no_data_set_does() -> None:
    """16 bits are all used, PGM states its maximum, a TIFF of 12 bits has 12; floats end at 1."""
    values = np.full((8, 8), 2048, np.uint16)
    assert (pixels(png(values)) == 8).all()
    assert (pixels(b"P5 8 8 4095\n" + values.astype(">u2").tobytes()) == 128).all()
    assert (pixels(b"P5 8 8 4095\n" + values.astype(">u2").tobytes(), int32=1023) == 128).all()
    assert (pixels(twelve_bits(values)) == 128).all()
    assert (pixels(tiff((values / 4096).astype(np.float32))) == 128).all()


def twelve_bits(values: np.ndarray) -> bytes:
    """A TIFF that packs two values into three bytes, as scanners and microscopes write it."""
    packed = int("".join(f"{value:012b}" for value in values.ravel()), 2).to_bytes(values.size * 12 // 8)
    tags = {256: values.shape[1], 257: values.shape[0], 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + directory


def test_sixteen_bits_have_transparency() -> None:
    """Also where colours use 12 of them, and full opacity 12 or 16."""
    for opaque in (4095, 65535):
        colours = np.full((8, 8, 4), 4095, np.uint16)
        colours[..., 3] = opaque
        colours[0, 0] = 0
        shown = pixels(png(colours), uint16=4095)
        assert shown[0, 0].tolist() == [255, 0, 0] and shown[4, 4].tolist() == [255, 255, 255]


HALF = np.full((8, 8), 0.5, np.float32)
HALF_BUT_ONE = [np.where(np.eye(8) * np.arange(8) == 3, wrong, HALF) for wrong in (np.nan, np.inf, -1.0, 1e6)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        *((tiff(values.astype(np.float32)), "its values run from") for values in HALF_BUT_ONE),
        *((tiff((RAMP.astype(int) - 100).astype(kind)), "its values run from") for kind in (np.int8, np.int16)),
        (png(RAMP * 256), "reach 65024"),  # white all over, for a model that has learned from 12 bits
        (tiff(RAMP.astype(np.int32)), "32-bit"),
        (tiff(np.moveaxis(COLOURS, 2, 0), planarconfig="separate"), "separate planes"),  # Pillow reads noise
        (pages(0, 1, 0), "several pages"),
        (CMYK[:3000] + bytes(range(210, 240)) + CMYK[3030:], "damaged"),  # Pillow says nothing of it
        (PNG[:200] + bytes([PNG[200] ^ 1]) + PNG[201:], "damaged"),  # Pillow loads it without a word
    ],
)
def test_what_has_no_meaning_is_refused(content: bytes, reason: str) -> None:
    """Instead of a wrong picture; of other files see tests/test_dirty_folder.py."""
    with pytest.raises(UnreadableImage, match=reason):
        pixels(content, uint16=4095)


def test_models_of_before_are_read() -> None:
    """Their cards say nothing of white, which was 65,535 of 16 bits; what only one side has met is no difference."""
    old = Preprocessing.from_record({"size": 8, "resize": "crop", "background": [255, 0, 0]})
    assert Preprocessing.from_record(old.record()) == old and Preprocessing.from_record(PLAIN.record()) == PLAIN
    of_12, of_16, floats = (
        Preprocessing(8, "crop", (255, 0, 0), white) for white in ({"uint16": 4095}, {"uint16": 65535}, {"float32": 1})
    )
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


NOISE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (47, 61, 3), np.uint8))  # no scan ends with a zero
SMOOTH = Image.radial_gradient("L").resize((90, 70)).convert("RGB")
WAYS: list[dict[str, object]] = [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}]
JPEGS = [encoded(image, "JPEG", **way) for image in (NOISE, SMOOTH, NOISE.convert("L")) for way in WAYS]


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
    image = Image.new("RGB", (40, 30))
    exif = image.getexif()
    exif[0x0112], exif[0x010E] = 6, "hello world"
    content = bytearray(encoded(image, "JPEG", exif=exif))
    content[41] = 0
    assert read(bytes(content), LARGE).pixels_HWC.shape in ((30, 40, 3), (40, 30, 3))


@pytest.mark.parametrize("good", JPEGS)
def test_a_jpeg_that_every_viewer_shows_is_read_with_a_note(good: bytes) -> None:
    """Padding before the end marker, none, or bytes between the segments: all the picture is there."""
    junk = good.replace(b"\xff\xdb", b"\0junk\xff\xdb", 1)
    padded = (
        good[:-2] + padding for padding in (bytes(300), bytes(9) + good[-2:], b"\xff\xff" + bytes(30) + good[-2:])
    )
    for content in (good[:-2], good[:-1], *padded, junk, junk[:-2] + bytes(9)):
        decoded = read(content, LARGE)
        assert decoded.note and (decoded.pixels_HWC == read(good, LARGE).pixels_HWC).all()
    for harmless in (good, good + b"trailing", good[:-2] + b"\xff\xff" + good[-2:]):
        assert not read(harmless, LARGE).note


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
    monkeypatch.setattr(image_files, "MOST_PIXELS", 64 * 64 - 1)
    for content in (JPEG, PNG):
        with pytest.raises(UnreadableImage, match="bomb"):
            read(content, PLAIN)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    """200 GB (of holes) that begin like an image."""
    (tmp_path / "huge.jpg").write_bytes(JPEG)
    os.truncate(tmp_path / "huge.jpg", 200 << 30)
    with pytest.raises(UnreadableImage, match="more than any image"):
        content_of(tmp_path / "huge.jpg")


def test_what_is_no_file_is_never_opened(tmp_path: Path) -> None:
    """A FIFO would wait for ever, and /dev/zero never ends."""
    os.mkfifo(tmp_path / "fifo.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.jpg"))
    for path in (tmp_path / "fifo.jpg", tmp_path / "socket.jpg", Path("/dev/zero"), tmp_path):
        with pytest.raises(ValueError, match=f"{path}: it is not a regular file"):
            load(path, PLAIN)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """The sentence holds the path and what to do."""
    with pytest.raises(ValueError, match=r"gone\.png: it cannot be opened: No such file"):
        load(tmp_path / "gone.png", PLAIN)
