"""Images with more than 8 bits a channel: which value is white, and how they come to 0-255."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO

import numpy as np
from PIL import Image, ImageFile
from PIL.ExifTags import Base

from pipeline.preprocessing import UnreadableImage

WIDEST = 65535
WHITES = (1, 255, 1023, 4095, 16383, WIDEST)  # floats from 0 to 1, and 8, 10, 12, 14 and 16 bits
# While the white of a data set is looked for, nothing is too bright
UNDECIDED = dict.fromkeys(("uint16", "int32", "float32"), WIDEST)
# Where no data set says it; whole numbers of 32 bits mean nothing by themselves
USUAL = {"uint16": WIDEST, "float32": 1}
# How Pillow shall unpack the lower byte of colours with 16 bits, where it would take the upper one
LOWER = {f"{mode};16{a}": f"{mode};16{b}" for mode in ("RGB", "RGBA", "RGBX") for a, b in ("BL", "LB", "NB")}


def values_of(image: ImageFile.ImageFile, content: bytes, page: int) -> np.ndarray | None:
    """The values of an image with more than 8 bits, [height, width] or with 3 or 4 channels; None of any other."""
    if image.mode.startswith("I") or image.mode == "F":
        return np.asarray(image)
    tiles, tags = list(image.tile), getattr(image, "tag_v2", {})
    raw = [tile.args if isinstance(tile.args, str) else str((tile.args or "?")[0]) for tile in tiles]
    if raw and set(raw) <= set(LOWER):
        with Image.open(BytesIO(content)) as lower:
            lower.seek(page)
            lower.tile = [
                tile._replace(args=LOWER[name] if isinstance(tile.args, str) else (LOWER[name], *(tile.args or ())[1:]))
                for tile, name in zip(tiles, raw, strict=True)
            ]
            high_HWC, low_HWC = np.asarray(image, np.uint16), np.asarray(lower, np.uint16)
        return high_HWC << 8 | low_HWC
    if tags.get(Base.PlanarConfiguration) == 2 and tags.get(Base.BitsPerSample, (8,))[0] > 8 and "16" not in raw[0]:
        raise UnreadableImage("Pillow misreads 16 bits in separate planes: save it with its channels together")
    return None


def eight_bits(
    values: np.ndarray, image: Image.Image, known: Mapping[str, int]
) -> tuple[Image.Image, tuple[str, float] | None]:
    """An image of 0-255, and the peak of `Decoded`; `known` is the `white` of `Preprocessing`.

    Raises UnreadableImage where nobody can say what is white.
    """
    kind, tags = values.dtype.name, getattr(image, "tag_v2", {})
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise UnreadableImage("it has values that are not finite numbers")
    if low < 0 or high > WIDEST:
        raise UnreadableImage(f"its values run from {low:g} to {high:g}: bring them to 0-1, 0-255 or 0-65535")
    white, peak, reached = _declared(image), None, _reached(values)
    if white is None:
        white = known.get(kind, USUAL.get(kind))
        noted = [float(np.max(tags[tag])) for tag in (Base.MaxSampleValue, Base.SMaxSampleValue) if tag in tags]
        peak = kind, max(reached, *(value for value in noted if value <= WIDEST), 0.0)
    if white is None:
        raise UnreadableImage("nobody can say which of its 32-bit values is white: convert it to 8 bits")
    if reached > white:
        raise UnreadableImage(f"its values reach {reached:g}, where white is {white:,}: bring them to that scale")
    scaled = (values * np.float32(255 / white)).round().clip(0, 255)
    if values.ndim == 3 and (alpha := values[..., 3:]).size and alpha.max() > white:
        scaled[..., 3:] = alpha // 257  # only the colours have fewer bits than there is room for
    if tags.get(Base.PhotometricInterpretation) == 0:  # white is zero: Pillow turns it round in 8 bits only
        scaled = 255 - scaled
    return Image.fromarray(scaled.astype(np.uint8)), peak


def whites(peaks: Mapping[str, float]) -> dict[str, int]:
    """The smallest usual white that covers the largest peak of each type of values."""
    return {
        kind: next(white for white in WHITES if peak <= white and (white > 1 or kind == "float32"))
        for kind, peak in peaks.items()
    }


def _reached(values: np.ndarray) -> float:
    """The brightest value but for one hot pixel, or one in a thousand, which shall not decide what is white."""
    pixels = (values[..., :3].max(axis=2) if values.ndim == 3 else values).ravel()
    place = max(0, len(pixels) - 1 - max(1, len(pixels) // 1000))
    return float(np.partition(pixels, place)[place])


def _declared(image: Image.Image) -> int | None:
    """The white that the format or the file itself states."""
    if image.format == "PPM" and image.mode == "I":
        return WIDEST  # Pillow brings its maxval to that
    return 4095 if getattr(image, "tag_v2", {}).get(Base.BitsPerSample) == (12,) else None
