"""Images of more than 8 bits: which value is white, and how they come to 0-255."""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bit_depth import UNDECIDED, whites
from pipeline.image_files import read
from pipeline.preprocessing import Preprocessing, UnreadableImage
from tests import dirty


def tiff(values: np.ndarray, **options: object) -> bytes:
    buffer = BytesIO()
    kind = "rgb" if values.ndim == 3 else "minisblack"
    tifffile.imwrite(buffer, values, **{"photometric": kind, **options})  # type: ignore[arg-type]  # of several types
    return buffer.getvalue()


def png(values: np.ndarray) -> bytes:
    """16 bits a channel, grey or with 3 or 4 channels, which Pillow cannot write."""
    colours = {1: 0, 3: 2, 4: 6}[1 if values.ndim == 2 else values.shape[2]]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    return dirty.png(values.shape[1], values.shape[0], 16, colours, zlib.compress(lines))


def pixels(content: bytes, **white: int) -> np.ndarray:
    return read(content, Preprocessing(8, "crop", (255, 0, 0), white)).pixels_HWC


def white_of(content: bytes) -> dict[str, int]:
    """As `ingest` finds it, if the data set is this file."""
    peak = read(content, Preprocessing(8, "crop", (255, 0, 0), UNDECIDED)).peak
    assert peak is not None
    return whites([("one.tif", *peak)])[0]


RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16)  # black to white
COLOURS = np.stack([RAMP, RAMP.T, RAMP[::-1]], axis=2)
DEFLATED: dict[str, object] = {"byteorder": ">", "compression": "zlib"}


@pytest.mark.parametrize("full", [255, 1023, 4095, 16383, 65535])
@pytest.mark.parametrize(
    ("write", "picture", "kind", "options"),
    [
        *((write, picture, "u2", {}) for write in (png, tiff) for picture in (RAMP, COLOURS)),
        (tiff, COLOURS, "u2", {"compression": "zlib", "predictor": 2}),
        (tiff, COLOURS, ">u2", {"byteorder": ">"}),
        *((tiff, RAMP, kind, {}) for kind in ("i4", "f4", "f8")),
        *((tiff, RAMP, kind, DEFLATED) for kind in (">i4", ">f4", ">f8")),
    ],
)
def test_a_picture_is_the_same_in_any_number_of_bits(
    write: Callable[..., bytes], picture: np.ndarray, kind: str, options: dict[str, object], full: int
) -> None:
    """White is told by the brightest values of the data set, so that 12 bits in 16 are not nearly black."""
    content = write((picture * (full / 255)).astype(kind), **options)
    white = white_of(content)
    assert list(white.values()) == [full]
    assert np.abs(pixels(content, **white).astype(int) - picture.reshape(16, 16, -1)).max() <= 1


@pytest.mark.parametrize(
    ("kind", "full", "options"),
    [("i1", 127, {}), ("i2", 32767, {}), ("i2", 4095, DEFLATED), ("f2", 1, {}), (">f2", 1, DEFLATED)],
)
def test_signed_values_and_half_floats_are_read(kind: str, full: int, options: dict[str, object]) -> None:
    """Pillow has no modes for them; a sign bit is no bit of the brightness."""
    content = tiff((RAMP * (full / 255)).astype(kind), **options)
    assert np.abs(pixels(content, **white_of(content))[..., 0] - RAMP.astype(int)).max() <= 2


@settings(deadline=None)
@given(st.lists(st.floats(0.2, 1.9), min_size=1, max_size=60), st.integers(0, 1), st.floats(3, 255))
def test_floats_a_hair_above_one_are_clipped(reached: list[float], others: int, bright: float) -> None:
    """Interpolation overshoots, noise too: white stays 1; a file of 0-255 among many others is set aside."""
    many = [(f"{i}.tif", "float32", peak) for i, peak in enumerate([*reached, *[1.0] * 60])]
    white, misfits = whites(many + [("bright.tif", "float32", bright)] * others)
    assert white == {"float32": 1} and list(misfits) == ["bright.tif"] * others
    shown = pixels(tiff((RAMP / 255 * max(1, reached[0])).astype(np.float32)), float32=1)
    assert shown[0, 0].max() == 0 and (shown[-1, -1] == 255).all()


def peaks_of(reached: np.ndarray, name: str) -> list[tuple[str, str, float]]:
    return [(f"{name}{i}", "uint16", float(peak)) for i, peak in enumerate(reached)]


TWO_SCALES = [(255, 4095), (255, 16383), (255, 65535), (1023, 16383), (1023, 65535), (4095, 65535)]


@settings(deadline=None)
@given(st.sampled_from(TWO_SCALES), st.integers(10, 60), st.integers(0, 60), st.integers(0, 999))
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


@settings(deadline=None)
@given(st.sampled_from([np.uint16, np.int32, np.float32]), st.integers(2, 4095), st.integers(4096, 65535))
def test_one_pixel_does_not_change_what_is_white(kind: type[np.generic], peak: int, hot: int) -> None:
    """Neither in a data set nor in the picture of a client: a hot pixel is white, and all others stay as they were."""
    values = (RAMP * (peak / 255)).astype(kind)
    values[0] = peak
    white, before = white_of(tiff(values)), pixels(tiff(values), **white_of(tiff(values)))
    values[3, 4] = hot
    assert white == white_of(tiff(values))
    after = pixels(tiff(values), **white)
    assert np.argwhere((after != before).any(axis=2)).tolist() == [[3, 4]] and (after[3, 4] == 255).all()


def test_the_format_tells_white_where_no_data_set_does() -> None:
    """16 bits are all used, PGM states its maximum, a TIFF of 12 bits has 12; floats end at 1; white may be zero."""
    values = np.full((8, 8), 2048, np.uint16)
    assert (pixels(png(values)) == 8).all()
    assert (pixels(tiff(65535 - values, photometric="miniswhite")) == 8).all()
    for white in ({}, {"int32": 1023}):
        assert (pixels(b"P5 8 8 4095\n" + values.astype(">u2").tobytes(), **white) == 128).all()
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
        colours = np.full((8, 8, 4), (4095, 4095, 4095, opaque), np.uint16)
        colours[0, 0] = 0
        shown = pixels(png(colours), uint16=4095)
        assert shown[0, 0].tolist() == [255, 0, 0] and shown[4, 4].tolist() == [255, 255, 255]


HALF_BUT_ONE = [np.where(np.eye(8) * np.arange(8) == 3, wrong, 0.5) for wrong in (np.nan, np.inf, -1.0, 1e6)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        *((tiff(values.astype(np.float32)), "its values run from") for values in HALF_BUT_ONE),
        *((tiff((RAMP.astype(int) - 100).astype(kind)), "its values run from") for kind in (np.int8, np.int16)),
        (png(RAMP * 256), "reach 65024"),  # white all over, for a model that has learned from 12 bits
        (tiff(RAMP.astype(np.int32)), "32-bit"),
        (tiff(np.moveaxis(COLOURS, 2, 0), planarconfig="separate"), "separate planes"),  # Pillow reads noise
    ],
)
def test_what_has_no_meaning_is_refused(content: bytes, reason: str) -> None:
    """Instead of a wrong picture."""
    with pytest.raises(UnreadableImage, match=reason):
        pixels(content, uint16=4095)
