"""Decode and measure a block of entries, as each worker process of `ingest` does. Imports neither pandas nor torch."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets import Entry
from pipeline.image_files import Decoded, content_of, read
from pipeline.inspection.measures import measure
from pipeline.preprocessing import Preprocessing, UnreadableImage, to_array

FOUND = ("path", "class", "source_split", "group", "width", "height", "mode", "format", "note", "bytes", "sha256")


@dataclass(frozen=True)
class Block:
    """`pixels_NHWC` (uint8, square) and the manifest's columns [N each] of the readable images; path, class and reason
    of the others; `peaks`: path and `Decoded.peak`."""

    pixels_NHWC: np.ndarray
    columns: dict[str, Any]
    quarantined: list[tuple[str, str, str]]
    peaks: list[tuple[str, str, float]]


def decode(entries: list[Entry], preprocessing: Preprocessing) -> Block:
    pixels = [np.empty((0, preprocessing.size, preprocessing.size, 3), np.uint8)]
    rows: list[tuple[object, ...]] = []
    quarantined, peaks = [], []
    for entry in entries:
        try:
            if entry.fault:
                raise UnreadableImage(entry.fault)
            if isinstance(entry.content, Path):
                content = content_of(entry.content)
                image = read(content, preprocessing)
            else:
                (height, width), content = entry.content.shape[:2], entry.content.tobytes()
                image = Decoded(entry.content, width, height, "RGB", "array")
        except UnreadableImage as reason:
            quarantined.append((entry.path, entry.label, str(reason)))
            continue
        pixels.append(to_array(image.pixels_HWC, preprocessing)[None])
        said = entry.path, entry.label, entry.split, entry.group
        found = image.width, image.height, image.mode, image.format, image.note
        rows.append((*said, *found, len(content), hashlib.sha256(content).hexdigest()))
        if image.peak:
            peaks.append((entry.path, *image.peak))
    block_NHWC = np.concatenate(pixels)
    columns = {name: [row[i] for row in rows] for i, name in enumerate(FOUND)}
    return Block(block_NHWC, {**columns, **measure(block_NHWC)}, quarantined, peaks)
