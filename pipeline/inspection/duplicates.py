"""Which images are copies or near-duplicates of which: one table of pairs for `validate`, `split` and people."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pipeline.artifacts import ImageRows
from pipeline.inspection.near_duplicates import find_pairs

PAIR_COLUMNS = ["first", "second", "similarity", "exact", "first_path", "second_path"]


def alike(
    manifest: pd.DataFrame, images_NHWC: np.ndarray, max_hash_distance: int, min_similarity: float
) -> pd.DataFrame:
    """A row per pair of rows of the manifest: `first` < `second`, `similarity`, `exact` (the same bytes), both paths.

    Copies of a file are tied to the first of them alone, near-duplicates each to each, a copy to the first of others.
    The table's attrs hold both bounds: `split` starts anew when they change.
    """
    rows = pd.Series(np.arange(len(manifest)))
    first_copy = rows.groupby(manifest["sha256"].to_numpy()).transform("min")
    copies = pd.DataFrame({"first": first_copy, "second": rows, "similarity": 1.0, "exact": True})
    copies = copies[copies["first"] < copies["second"]]
    distinct = np.flatnonzero(first_copy == rows)
    near = find_pairs(
        manifest["phash"].to_numpy()[distinct], ImageRows(images_NHWC, distinct), max_hash_distance, min_similarity
    )
    ends = pd.DataFrame({"a": distinct[near["first"]], "b": distinct[near["second"]], "similarity": near["similarity"]})
    # What is true of a file is true of its copies: those of either with the first of the other, not each with each
    of = pd.DataFrame({"original": first_copy, "row": rows})
    ends = pd.concat([
        ends.merge(of, left_on="a", right_on="original").assign(a=lambda t: t["row"]),
        ends.merge(of, left_on="b", right_on="original").assign(b=lambda t: t["row"]),
    ])  # fmt: skip
    both = np.sort(ends[["a", "b"]].to_numpy(dtype=np.int64), axis=1)
    near = pd.DataFrame({
        "first": both[:, 0], "second": both[:, 1], "similarity": ends["similarity"].to_numpy(), "exact": False,
    })  # fmt: skip
    pairs = pd.concat([copies, near.drop_duplicates()]).sort_values(["first", "second"], ignore_index=True)
    paths = manifest["path"].to_numpy()
    pairs = pairs.assign(first_path=paths[pairs["first"]], second_path=paths[pairs["second"]])[PAIR_COLUMNS]
    pairs.attrs = {"max_hash_distance": max_hash_distance, "min_similarity": min_similarity}
    return pairs


def partners(pairs: pd.DataFrame, count: int, differ: np.ndarray | None = None) -> np.ndarray:
    """Of each of `count` rows, in how many pairs it stands; with `differ` [count], of those that differ there."""
    if differ is not None:
        first, second = differ[pairs["first"]], differ[pairs["second"]]
        pairs = pairs[first != second]
    return np.bincount(pairs["first"], minlength=count) + np.bincount(pairs["second"], minlength=count)
