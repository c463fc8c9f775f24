"""`ingest`: read the source, decode every image once on all cores, measure it, set aside what cannot be read."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from pipeline.artifacts import ImageArrayWriter
from pipeline.config import Ingest
from pipeline.datasets import Entry, find
from pipeline.preprocessing import Decoded, Preprocessing, UnreadableImage, read, to_array

BLOCK = 256  # images that travel between processes at once

MANIFEST_COLUMNS = [
    "path", "class", "source_split", "width", "height", "mode", "format", "bytes", "sha256", "brightness", "contrast",
]  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A run of images: `pixels` [n, size, size, 3] of the readable ones, a manifest row each, and the others."""

    pixels_NHWC: np.ndarray
    rows: list[dict[str, Any]]
    quarantined: list[dict[str, str]]


@dataclass(frozen=True)
class Ingested:
    """`manifest`: a row per image, in the order of the array. `quarantine`: path, class and reason of the others."""

    manifest: pd.DataFrame
    quarantine: pd.DataFrame


def preprocessing_of(config: Ingest) -> Preprocessing:
    red, green, blue = config.background
    return Preprocessing(config.image_size, config.resize, (red, green, blue))


def ingest(config: Ingest, images: Path) -> Ingested:
    """Write all images of the source to `images` (uint8 .npy [N, size, size, 3]) and return their manifest."""
    entries = find(config.source, Path(config.root))
    rows: list[dict[str, Any]] = []
    quarantined: list[dict[str, str]] = []
    with (
        ImageArrayWriter(images, config.image_size) as writer,
        tqdm(total=len(entries), desc="ingest", unit=" images", mininterval=1, disable=None) as bar,
    ):
        for block in _decoded(entries, preprocessing_of(config), config.workers or os.cpu_count() or 1):
            writer.append(block.pixels_NHWC)
            rows += block.rows
            quarantined += block.quarantined
            bar.update(len(block.rows) + len(block.quarantined))
    return Ingested(
        pd.DataFrame(rows, columns=MANIFEST_COLUMNS),
        pd.DataFrame(quarantined, columns=["path", "class", "reason"]),
    )


def _decoded(entries: list[Entry], preprocessing: Preprocessing, workers: int) -> Iterator[Block]:
    """Blocks in the order of `entries`, whatever the number of processes."""
    jobs = ((entries[i : i + BLOCK], preprocessing) for i in range(0, len(entries), BLOCK))
    if workers == 1 or len(entries) < 4 * BLOCK:
        yield from map(_decode_block, jobs)
        return
    # spawn: the parent may hold threads (progress bars, torch), which do not survive a fork
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(_decode_block, jobs)


def _decode_block(job: tuple[list[Entry], Preprocessing]) -> Block:
    entries, preprocessing = job
    pixels, rows, quarantined = [], [], []
    for entry in entries:
        try:
            content, decoded = _decode(entry, preprocessing)
        except UnreadableImage as reason:
            quarantined.append({"path": entry.path, "class": entry.label, "reason": str(reason)})
            continue
        pixels.append(to_array(decoded.image, preprocessing))
        rows.append({
            "path": entry.path,
            "class": entry.label,
            "source_split": entry.split,
            "width": decoded.width,
            "height": decoded.height,
            "mode": decoded.mode,
            "format": decoded.format,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        })  # fmt: skip
    side = preprocessing.size
    block_NHWC = np.stack(pixels) if pixels else np.empty((0, side, side, 3), np.uint8)
    for row, brightness, contrast in zip(rows, *_light(block_NHWC), strict=True):
        row |= {"brightness": brightness, "contrast": contrast}
    return Block(block_NHWC, rows, quarantined)


def _decode(entry: Entry, preprocessing: Preprocessing) -> tuple[bytes, Decoded]:
    if isinstance(entry.content, Path):
        try:
            content = entry.content.read_bytes()
        except OSError as error:
            raise UnreadableImage(f"it cannot be opened: {error.strerror}") from None
        return content, read(content, preprocessing)
    height, width = entry.content.shape[:2]
    image = Image.fromarray(entry.content, "RGB")
    return entry.content.tobytes(), Decoded(image, width, height, "RGB", "array")


def _light(images_NHWC: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each image's luma (ITU-R BT.601), on the 0-1 scale."""
    luma = images_NHWC @ np.array([0.299, 0.587, 0.114], np.float32) / 255
    flat = luma.reshape(len(luma), -1)
    return flat.mean(axis=1).round(5).tolist(), flat.std(axis=1).round(5).tolist()
