"""Images with more than 8 bits a channel: which value is white, and how they come to 0-255."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile
from PIL.ExifTags import Base
from PIL.TiffImagePlugin import II, MM, OPEN_INFO

from pipeline.preprocessing import UnreadableImage

Peak = tuple[str, float]  # type and brightest of the values
WIDEST = 65535
BITS = (255, 1023, 4095, 16383)  # 8, 10, 12 and 14
WHITES = {"int8": (127,), "int16": (*BITS, 32767), "uint16": (*BITS, WIDEST)}  # what may be white
WHITES |= {"int32": (*BITS, WIDEST), "float32": (1, *BITS, WIDEST)}
OVERSHOOT = 1.25  # so far beyond white reach interpolation and noise, which is clipped and no other scale
UNDECIDED = dict.fromkeys(WHITES, WIDEST)  # while the white of a data set is looked for, nothing is too bright
USUAL = {"int8": 127, "int16": 32767, "uint16": WIDEST, "float32": 1}  # where no data set says it
# How Pillow should unpack the lower byte of colours with 16 bits, where it would take the upper one
LOWER = {f"{mode};16{a}": f"{mode};16{b}" for mode in ("RGB", "RGBA", "RGBX") for a, b in ("BL", "LB", "NB")}
FLOATS, SIGNED = (3,), (2,)
# TIFF files of floats that Pillow has no mode for are opened in the mode that holds their bytes
for _order, _end in ((II, ""), (MM, "B")):
    OPEN_INFO[_order, 1, FLOATS, 1, (16,), ()] = f"I;16{_end}", f"I;16{_end}"
    OPEN_INFO[_order, 1, FLOATS, 1, (64,), ()] = "F", f"F;64{_end}F"


def values_of(image: ImageFile.ImageFile, content: bytes) -> np.ndarray | None:
    """The values of an image with more than 8 bits, [height, width] or with 3 or 4 channels; None of any other."""
    tags, tiles = getattr(image, "tag_v2", {}), list(image.tile)
    raw = [tile.args if isinstance(tile.args, str) else str((tile.args or "?")[0]) for tile in tiles]
    meaning, bits = tags.get(Base.SampleFormat, ())[:1], tags.get(Base.BitsPerSample, (8,))
    if image.mode == "L" and meaning == SIGNED:
        return np.asarray(image).view(np.int8)
    if image.mode == "F" or image.mode.startswith("I"):
        if tiles and tiles[0].codec_name == "libtiff":  # it gives native order, which Pillow knows of uint16 alone
            image.tile = [_unpacked(tiles[0], raw[0].replace("B", "N"))]
        values = np.asarray(image)
        if bits == (16,) and meaning == FLOATS:
            return values.astype(np.uint16).view(np.float16).astype(np.float32)
        return values.astype(np.int16) if bits == (16,) and meaning == SIGNED else values
    if raw and set(raw) <= set(LOWER):
        with Image.open(BytesIO(content)) as lower:
            lower.seek(image.tell())
            lower.tile = [_unpacked(tile, LOWER[name]) for tile, name in zip(tiles, raw, strict=True)]
            return np.asarray(image, np.uint16) << 8 | np.asarray(lower, np.uint16)
    if tags.get(Base.PlanarConfiguration) == 2 and bits[0] > 8 and "16" not in raw[0]:
        raise UnreadableImage("Pillow misreads 16 bits in separate planes: save it with its channels together")
    return None


def _unpacked(tile: Any, name: str) -> Any:  # by another of Pillow's unpackers
    return tile._replace(args=name if isinstance(tile.args, str) else (name, *(tile.args or ())[1:]))


def eight_bits(values: np.ndarray, image: Image.Image, known: Mapping[str, int]) -> tuple[Image.Image, Peak | None]:
    """An image of 0-255, and the peak of `Decoded`; `known` is the `white` of `Preprocessing`.
    Raises UnreadableImage where the white level is unknown."""
    kind, tags = values.dtype.name, getattr(image, "tag_v2", {})
    low, high, reached = float(values.min()), float(values.max()), _reached(values)
    if not (low >= 0 and high <= WIDEST):  # nor is a value that is no number
        raise UnreadableImage(f"its values run from {low:g} to {high:g}: bring them to 0-1, 0-255 or 0-65535")
    declared = 4095 if tags.get(Base.BitsPerSample) == (12,) else None
    if image.format == "PPM" and image.mode == "I":
        declared = WIDEST  # Pillow brings its maxval to that
    white = declared or known.get(kind, USUAL.get(kind))
    if white is None:
        raise UnreadableImage("the white level of its 32-bit values is unknown: convert it to 8 bits")
    if reached > OVERSHOOT * _most(white):
        raise UnreadableImage(f"its values reach {reached:g}, where white is {white:,}: bring them to that scale")
    scaled = (values * np.float32(255 / white)).round().clip(0, 255)
    if tags.get(Base.PhotometricInterpretation) == 0:  # white is zero: Pillow turns it round in 8 bits only
        scaled = 255 - scaled
    return Image.fromarray(scaled.astype(np.uint8)), None if declared else (kind, reached)


def whites(peaks: Sequence[tuple[str, str, float]]) -> tuple[dict[str, int], dict[str, str]]:
    """From path, type and peak of each image: what is white in each type, and by path why a file is on another scale.
    White is the smallest usual value that covers the peaks. If peaks pile up under a smaller white, and a gap follows,
    files were scaled in two ways (natural peaks thin out towards the dark), and the larger group counts."""
    white, misfits = {}, {}
    for kind in sorted({kind for _, kind, _ in peaks}):
        paths = [path for path, its, _ in peaks if its == kind]
        reached = np.array([peak for _, its, peak in peaks if its == kind])
        last = int(np.searchsorted(_most(WHITES[kind]), reached.max()))
        scales = [*(value for value in WHITES[kind][:last] if _end_there(reached, value)), WHITES[kind][last]]
        group = np.searchsorted(_most(scales), reached)
        white[kind] = its = scales[largest := int(np.bincount(group).argmax())]
        for i in np.flatnonzero((group < largest) | (reached > OVERSHOOT * _most(its))):
            own = f"its values reach {reached[i]:g}, as if white were {scales[group[i]]:,}"
            misfits[paths[i]] = f"{own}; in the other {kind} images it is {its:,}: bring all to one scale"
    return white, misfits


def _end_there(peaks: np.ndarray, white: int) -> bool:
    """Whether many peaks, and most of all below, lie in the upper half below a white, and few just above."""
    below, above = (int((peaks <= factor * _most(white)).sum()) for factor in (1, 2))
    filling = below - int((peaks <= white / 2).sum())
    # Ten that fill these bits, to one that needs one more, are chance in less than one of a hundred natural sets
    return filling >= min(10, 0.8 * len(peaks)) and 2 * filling >= below and 6 * (above - below) <= filling


def _most(white: npt.ArrayLike) -> np.ndarray:
    return np.maximum(2, white)  # the brightest peak that speaks for a white: floats from 0 to 1 have no other one near


def _reached(values: np.ndarray) -> float:
    """The brightest value but for one hot pixel, or one in a thousand, which should not decide what is white."""
    pixels = (values[..., :3].max(axis=2) if values.ndim == 3 else values).ravel()
    place = max(0, len(pixels) - 1 - max(1, len(pixels) // 1000))
    return float(np.partition(pixels, place)[place])
