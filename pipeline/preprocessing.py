"""How an image becomes the square uint8 RGB array that models take; they scale and normalize it. Imports no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import numpy as np
from PIL import Image, ImageOps


class UnreadableImage(ValueError):
    """A file that is not a usable image; the message is the reason, without the path."""


@dataclass(frozen=True)
class Preprocessing:
    """Travels inside the ONNX file. `size`: side in pixels. `resize`: crop | pad | stretch. `background`: RGB 0-255
    behind transparency and padding. `white`: what is white in images of more than 8 bits, by type (uint16, ...)."""

    size: int
    resize: str
    background: tuple[int, ...]
    white: dict[str, int] = field(default_factory=dict)

    def record(self) -> dict[str, object]:
        return {**asdict(self), "background": list(self.background)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        old = {"white": {"uint16": 65535}}  # whatever the data set, before cards said it
        return cls(**{**old, **record, "background": tuple(record["background"])})

    def agrees(self, other: Self) -> bool:
        """Whether both make the same of every image; a type of values that one of them has not met does not count."""
        alike = replace(self, white={}) == replace(other, white={})
        return alike and self.white | other.white == other.white | self.white


def to_array(pixels_HWC: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """An RGB image of any size, uint8 [height, width, 3], as a uint8 array [size, size, 3]."""
    side = (preprocessing.size, preprocessing.size)
    if pixels_HWC.shape[:2] == side:
        return pixels_HWC
    image, how = Image.fromarray(pixels_HWC), Image.Resampling.BILINEAR
    if preprocessing.resize == "pad":
        return np.asarray(ImageOps.pad(image, side, how, color=preprocessing.background))
    return np.asarray(ImageOps.fit(image, side, how) if preprocessing.resize == "crop" else image.resize(side, how))
