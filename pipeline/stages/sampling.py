"""Which groups and single images come to one side of the split, so that it looks like the whole. Part of `split`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

COMPARED = 1_000_000  # numbers that are compared at once to find an exchange: 8 MB


def sample(sizes: np.ndarray, missing: np.ndarray, owed: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Which units [units] come to a side that lacks `missing` images of each class; `sizes` is [units, classes].

    Systematic sampling (Madow 1949) over strata of like classes and sizes: each group has the same chance, as large as
    the share that is missing, whatever its size. Only where single images cannot make up for what the groups are too
    many or too few, groups are exchanged. `owed` units of each class stay for other sides, which have none of it yet.
    """
    rate = np.minimum(missing / np.maximum(sizes.sum(axis=0), 1), 1)
    count = sizes.sum(axis=1)
    chosen = np.zeros(len(sizes), dtype=bool)
    tied = np.flatnonzero(count > 1)
    mixture = np.unique(sizes[tied] > 0, axis=0, return_inverse=True)[1].ravel()
    tied = tied[np.lexsort((tied, np.log2(count[tied]).astype(int), mixture))]
    reached = np.floor(draw.random() + np.cumsum(sizes[tied] @ rate / count[tied]))
    chosen[tied] = np.diff(reached, prepend=0) > 0
    singles = np.flatnonzero(count == 1)
    label = sizes[singles].argmax(axis=1)
    alone = np.bincount(label, minlength=len(missing))
    filled = np.zeros(len(missing), dtype=np.int64)
    # Classes that no group ties together have nothing to do with one another
    main = sizes[tied].argmax(axis=1)
    unit, beside = sizes[tied].nonzero()
    ties = coo_array((np.ones(len(unit)), (main[unit], beside)), shape=(len(missing),) * 2)
    parts, part_of = connected_components(ties, directed=False)
    for part in range(parts):
        units, here = tied[part_of[main] == part], np.flatnonzero(part_of == part)
        chosen[units], filled[here] = _exchange(
            chosen[units], sizes[np.ix_(units, here)], alone[here], missing[here], owed[here], draw
        )
    chosen[singles] = pd.Series(label).groupby(label).cumcount().to_numpy() < filled[label]
    return chosen


def _exchange(
    chosen: np.ndarray, sizes: np.ndarray, alone: np.ndarray, missing: np.ndarray, owed: np.ndarray,
    draw: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """`chosen` groups with as few exchanges as make the counts fit, and how many of the `alone` single images of each
    class fill the rest."""
    chosen, sizes = np.append(chosen, False), np.vstack([sizes, np.zeros_like(missing)])  # the last: none in exchange
    present = sizes > 0
    fair = alone * np.minimum(missing / np.maximum(sizes.sum(axis=0) + alone, 1), 1)
    forbidden = sizes.sum() + missing.sum() + 1

    def fill(images: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Single images [..., classes] to add to so many images and groups of each class, and what is wrong then."""
        spare = present.sum(axis=0) + alone - owed - groups
        filled = np.clip(missing - images, 0, np.clip(spare, 0, alone))
        bad = ((missing > 0) & (groups + filled == 0)) | (spare < 0)
        unlike = np.maximum(np.abs(filled - fair) - np.sqrt(fair), 0)  # beyond chance
        return filled, (np.abs(missing - images - filled) + unlike / 2 + forbidden * bad).sum(axis=-1)

    most = int(np.sqrt(COMPARED / len(missing)))
    while True:
        images, groups = sizes[chosen].sum(axis=0), present[chosen].sum(axis=0)
        filled, wrong = fill(images, groups)
        if wrong == 0:
            return chosen[:-1], filled
        leave, enter = (
            np.append(draw.permutation(np.flatnonzero(chosen[:-1] == now))[:most], -1) for now in (True, False)
        )
        step = sizes[enter] - sizes[leave][:, None], present[enter].astype(int) - present[leave][:, None]
        then = fill(images + step[0], groups + step[1])[1]
        best = np.unravel_index(then.argmin(), then.shape)
        if then[best] >= wrong:
            return chosen[:-1], filled
        chosen[[leave[best[0]], enter[best[1]]]] ^= True
