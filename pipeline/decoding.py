"""Decode and measure one block of a source's entries: what each of the worker processes of `ingest` does.

Imports neither pandas nor torch, since every worker would pay for it.
"""

from __future__ import annotations

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
    """A run of images: `pixels_NHWC` (uint8, square) and the manifest's columns [N each] of the readable ones, and
    (path, class, reason) of the others. `peaks`: path and `Decoded.peak`."""

    pixels_NHWC: np.ndarray
    columns: dict[str, Any]
    quarantined: list[tuple[str, str, str]]
    peaks: list[tuple[str, str, float]]


def decode(entries: list[Entry], preprocessing: Preprocessing) -> Block:
    pixels: list[np.ndarray] = []
    rows: list[tuple[object, ...]] = []
    quarantined: list[tuple[str, str, str]] = []
    peaks: list[tuple[str, str, float]] = []
    for entry in entries:
        try:
            content, decoded = _decode(entry, preprocessing)
        except UnreadableImage as reason:
            quarantined.append((entry.path, entry.label, str(reason)))
            continue
        pixels.append(to_array(decoded.pixels_HWC, preprocessing))
        size = decoded.width, decoded.height
        rows.append((
            *(entry.path, entry.label, entry.split, entry.group), *size, decoded.mode, decoded.format, decoded.note,
            *(len(content), hashlib.sha256(content).hexdigest()),
        ))  # fmt: skip
        if decoded.peak:
            peaks.append((entry.path, *decoded.peak))
    side = preprocessing.size
    block_NHWC = np.stack(pixels) if pixels else np.empty((0, side, side, 3), np.uint8)
    found = dict(zip(FOUND, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(FOUND, ())
    return Block(block_NHWC, {**found, **measure(block_NHWC)}, quarantined, peaks)


def _decode(entry: Entry, preprocessing: Preprocessing) -> tuple[bytes, Decoded]:
    if entry.fault:
        raise UnreadableImage(entry.fault)
    if isinstance(entry.content, Path):
        content = content_of(entry.content)
        return content, read(content, preprocessing)
    height, width = entry.content.shape[:2]
    return entry.content.tobytes(), Decoded(entry.content, width, height, "RGB", "array")
