"""Which images are copies or near-duplicates (the same picture: encoded again, lighter, cropped a little) of which.

Perceptual hashes give candidates; most of them fall at a look at tiny thumbnails, which fit into memory; correlation of
the pixels, which may have to come from disk, decides. By hand: 60,000 CIFAR-10 images take 8 CPU seconds; 4,000 hashes
take scikit-learn's BallTree 15 times as long.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd

from pipeline.artifacts import ImageRows
from pipeline.errors import UserError

COMPARED = 1 << 20  # hashes that are compared at once: 8 MB
LOOKED_AT = 1 << 13  # pairs of pictures that are correlated at once: at most 200 MB
AHEAD = 8  # blocks of candidates that may wait, of up to 16 MB each
READ = 1 << 22  # values of pixels that are read at once
SIDE, TINY = 32, 8  # pictures are compared at this size or less, and before that as thumbnails of that size
DOUBT = 0.1  # by which the correlation of thumbnails may be lower than that of the pictures
MOST = 50  # pairs an image, on average: beyond that the images are alike by nature
FLAT = 1.0  # grey levels: a picture with less contrast resembles any other


def find(
    manifest: pd.DataFrame, images_NHWC: np.ndarray, max_hash_distance: int, min_similarity: float
) -> pd.DataFrame:
    """A row per pair of rows of the manifest: `first` < `second`, `similarity`, `exact` (the same bytes), both paths.

    Copies of a file are tied to the first of them alone, near-duplicates each to each, a copy to the first of others.
    The table's attrs hold both bounds: `split` starts again when they change.
    """
    rows = pd.Series(np.arange(len(manifest)))
    first_copy = rows.groupby(manifest["sha256"].to_numpy()).transform("min")
    copies = pd.DataFrame({"first": first_copy, "second": rows, "similarity": 1.0, "exact": True})
    copies = copies[copies["first"] < copies["second"]]
    distinct = np.flatnonzero(first_copy == rows)
    hashes = manifest["phash"].to_numpy()[distinct]
    near = near_pairs(hashes, ImageRows(images_NHWC, distinct), max_hash_distance, min_similarity)
    near = near.assign(first=distinct[near["first"]], second=distinct[near["second"]], exact=False)
    # What is true of a file is true of its copies: those of either with the first of the other, not each with each
    of = pd.DataFrame({"original": first_copy, "copy": rows})
    near = pd.concat([near.merge(of, left_on=end, right_on="original").assign(**{end: lambda t: t["copy"]})
                      for end in ("first", "second")])  # fmt: skip
    near[["first", "second"]] = np.sort(near[["first", "second"]].to_numpy(dtype=np.int64), axis=1)
    pairs = pd.concat([copies, near[copies.columns].drop_duplicates()])
    pairs = pairs.sort_values(["first", "second"], ignore_index=True)
    paths = manifest["path"].to_numpy()
    pairs = pairs.assign(first_path=paths[pairs["first"]], second_path=paths[pairs["second"]])
    pairs.attrs = {"max_hash_distance": max_hash_distance, "min_similarity": min_similarity}
    return pairs


def partners(pairs: pd.DataFrame, count: int, differ: np.ndarray | None = None) -> np.ndarray:
    """Of each of `count` rows, in how many pairs it stands; with `differ` [count], of those that differ there."""
    if differ is not None:
        pairs = pairs[differ[pairs["first"]] != differ[pairs["second"]]]
    return np.bincount(pairs["first"], minlength=count) + np.bincount(pairs["second"], minlength=count)


def near_pairs(
    hashes: np.ndarray, images: ImageRows, max_hash_distance: int, min_similarity: float, most: int = MOST
) -> pd.DataFrame:
    """All pairs of `images` that are near-duplicates: `first` < `second`, `similarity`.

    `hashes` is uint64 [N]. `similarity` is the correlation of the pixels, each channel without its mean, which changes
    of brightness and contrast do not touch. Raises UserError where there are more than `most` pairs an image.
    """
    found = [pd.DataFrame({"first": [], "second": [], "similarity": []}).astype({"first": int, "second": int})]
    if min_similarity >= 1:  # exact copies are found by their checksum
        return found[0]
    count = 0
    tiny = _thumbnails(images, np.arange(len(images)), TINY).astype(np.float16)
    for left, right in _candidates(hashes, max_hash_distance):
        likely = _correlation(tiny[left], tiny[right]) >= min_similarity - DOUBT
        if not likely.any():
            continue
        first, second = left[likely], right[likely]
        similarity = _correlation(_thumbnails(images, first, SIDE), _thumbnails(images, second, SIDE))
        block = pd.DataFrame({"first": first, "second": second, "similarity": similarity})
        found.append(block[similarity >= min_similarity])
        count += len(found[-1])
        if count > most * len(hashes):
            alike = f"more than {most} near-duplicates an image: these images are alike by nature"
            raise UserError(f"{alike}, so raise validate.min_similarity (1 looks for exact copies only)")
    return pd.concat(found).sort_values(["first", "second"], ignore_index=True)


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


def _thumbnails(images: ImageRows, rows: np.ndarray, wanted: int) -> np.ndarray:
    """Block means at about `wanted` pixels a side, without each channel's mean: float32 [len(rows), pixels * 3]."""
    side = images.shape[1]
    factor = max(1, side // wanted)
    small = side // factor
    block, parts = max(1, READ // (side * side * 3)), []
    for start in range(0, len(rows), block):
        pixels_NHWC = images[rows[start : start + block]][:, : small * factor, : small * factor]
        blocks = pixels_NHWC.reshape(-1, small, factor, small, factor, 3)
        pixels = blocks.mean(axis=(2, 4), dtype=np.float32).reshape(-1, small * small, 3)
        parts.append((pixels - pixels.mean(axis=1, keepdims=True)).reshape(len(pixels), -1))
    return np.concatenate(parts)


def _correlation(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    left, right = left.astype(np.float32), right.astype(np.float32)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    product = np.einsum("np,np->n", left, right)
    flat = lengths < FLAT**2 * left.shape[1]
    return np.asarray(np.where(flat, 0.0, product / np.where(flat, 1.0, lengths)))
