"""How an image is brought to the form that the models take; travels with every model. Imports no torch.

An image becomes a square uint8 RGB array; scaling and normalization happen inside the exported graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image, ImageOps


class UnreadableImage(ValueError):
    """A file that is not a usable image; the message is the reason, without the path."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image is brought to the model's size; travels inside the ONNX file.

    `size`: side in pixels. `resize`: crop | pad | stretch. `background`: RGB 0-255 behind transparency and padding.
    `white`: the value that is white in images of more than 8 bits, of each type of values (uint16, float32, ...) that
    the data set has; their files do not say it.
    """

    size: int
    resize: str
    background: tuple[int, int, int]
    white: dict[str, int] = field(default_factory=dict)

    def record(self) -> dict[str, object]:
        return {**asdict(self), "background": list(self.background)}

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> Preprocessing:
        red, green, blue = record["background"]
        white = record.get("white", {"uint16": 65535})  # whatever the data set, before cards said it
        return Preprocessing(record["size"], record["resize"], (red, green, blue), white)

    def agrees(self, other: Preprocessing) -> bool:
        """Whether both make the same of every image; a type of values that one of them has not met does not count."""
        alike = replace(self, white={}) == replace(other, white={})
        return alike and self.white | other.white == other.white | self.white

    def decided(self) -> list[str]:
        """A line for people on each type of values."""
        return [f"white is {white:,} in {kind} images" for kind, white in sorted(self.white.items())]


def to_array(pixels_HWC: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """An RGB image of any size, uint8 [height, width, 3], as a uint8 array [size, size, 3]."""
    side = preprocessing.size
    if pixels_HWC.shape[:2] != (side, side):
        image = Image.fromarray(pixels_HWC)
        if preprocessing.resize == "crop":
            image = ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR)
        elif preprocessing.resize == "pad":
            image = ImageOps.pad(image, (side, side), Image.Resampling.BILINEAR, color=preprocessing.background)
        else:
            image = image.resize((side, side), Image.Resampling.BILINEAR)
        pixels_HWC = np.asarray(image)
    return pixels_HWC
