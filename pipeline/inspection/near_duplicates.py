"""Pairs of images that show the same picture: encoded again, made lighter, cropped a little, ...

Candidates by their perceptual hashes; most of them fall at a look at tiny thumbnails, which fit into memory; the rest
is confirmed by the correlation of the pixels, which may have to come from disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd

from pipeline.artifacts import ImageRows
from pipeline.errors import UserError

COMPARED = 1 << 20  # hashes that are compared at once: 8 MB
LOOKED_AT = 1 << 15  # pairs of thumbnails that are correlated at once: 75 MB
AHEAD = 8  # blocks of candidates that may wait, of up to 16 MB each
CONFIRMED = 1 << 25  # bytes of pixels that are looked at at once
SIDE, TINY = 32, 8  # pictures are compared at this size or less, and before that as thumbnails of that size
DOUBT = 0.1  # by which the correlation of thumbnails may be lower than that of the pictures
MOST = 50  # pairs an image, on average: beyond that the images are alike by nature
FLAT = 1.0  # grey levels: a picture with less contrast resembles any other


def find_pairs(
    hashes: np.ndarray, images: ImageRows, max_hash_distance: int, min_similarity: float, most: int = MOST
) -> pd.DataFrame:
    """All pairs of `images` that are near-duplicates: `first` < `second`, `similarity`.

    `hashes` is uint64 [N]. `similarity` is the correlation of the pixels, each channel without its mean, which changes
    of brightness and contrast do not touch. Every image is compared with every other: 60,000 take seconds, a million
    minutes. Raises UserError where there are more than `most` pairs an image, which are too many to be copies.
    """
    nothing = pd.DataFrame({"first": [], "second": [], "similarity": []}).astype({"first": int, "second": int})
    if min_similarity >= 1:  # exact copies are found by their checksum
        return nothing
    found, count = [nothing], 0
    tiny = _tiny(images)
    for left, right in _candidates(hashes, max_hash_distance):
        likely = _correlation(tiny[left], tiny[right]) >= min_similarity - DOUBT
        first, second = left[likely], right[likely]
        similarity = _similarity(images, first, second)
        sure = similarity >= min_similarity
        count += int(sure.sum())
        if count > most * len(hashes):
            raise UserError(
                f"more than {most} near-duplicates an image: these images are alike by nature, so raise "
                f"validate.min_similarity (it is {min_similarity:g}; 1 looks for exact copies only)"
            )
        found.append(pd.DataFrame({"first": first, "second": second, "similarity": similarity})[sure])
    return pd.concat(found, ignore_index=True).sort_values(["first", "second"], ignore_index=True)


def _candidates(hashes: np.ndarray, most: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some pairs at a time (first, second) whose hashes differ in at most `most` bits."""
    step = max(1, COMPARED // max(1, len(hashes)))

    def compare(start: int) -> tuple[np.ndarray, np.ndarray]:
        rows = hashes[start : start + step]
        row, column = np.nonzero(np.bitwise_count(rows[:, None] ^ hashes[None, start:]) <= most)
        later = column > row
        return row[later] + start, column[later] + start

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy lets go of the interpreter while it compares
        starts = range(0, len(hashes), step)
        for i in range(0, len(starts), AHEAD):  # `map` would compare all, however slowly they are used
            for first, second in pool.map(compare, starts[i : i + AHEAD]):
                for j in range(0, len(first), LOOKED_AT):
                    yield first[j : j + LOOKED_AT], second[j : j + LOOKED_AT]


def _similarity(images: ImageRows, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlation [len(first)] of pairs of images, block by block."""
    block = _block(images)
    parts = [
        _correlation(_thumbnails(images[first[i : i + block]], SIDE), _thumbnails(images[second[i : i + block]], SIDE))
        for i in range(0, len(first), block)
    ]
    return np.concatenate(parts) if parts else np.empty(0)


def _tiny(images: ImageRows) -> np.ndarray:
    """Thumbnails of all images, float16 [N, pixels * 3], in one pass over the file."""
    block = _block(images)
    parts = [_thumbnails(images[i : i + block], TINY).astype(np.float16) for i in range(0, len(images), block)]
    return np.concatenate(parts)


def _block(images: ImageRows) -> int:
    side = images.shape[1]
    return max(1, CONFIRMED // int(side * side * 3 * 8))


def _thumbnails(images_NHWC: np.ndarray, wanted: int) -> np.ndarray:
    """Block means at about `wanted` pixels a side, without each channel's mean: float32 [N, pixels * 3]."""
    count, side = images_NHWC.shape[:2]
    factor = max(1, side // wanted)
    kept = side // factor * factor
    small = images_NHWC[:, :kept, :kept].reshape(count, kept // factor, factor, kept // factor, factor, 3)
    pixels = small.mean(axis=(2, 4), dtype=np.float32).reshape(count, -1, 3)
    centred: np.ndarray = (pixels - pixels.mean(axis=1, keepdims=True)).reshape(count, -1)
    return centred


def _correlation(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    left, right = left.astype(np.float32), right.astype(np.float32)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    product = np.einsum("np,np->n", left, right)
    flat = lengths < FLAT**2 * left.shape[1]
    correlation: np.ndarray = np.where(flat, 0.0, product / np.where(flat, 1.0, lengths))
    return correlation
