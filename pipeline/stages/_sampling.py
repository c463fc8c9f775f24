"""Which groups and single images come to one side of the split, so that it looks like the whole. Part of `split`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

BALANCED = 20  # classes of a mixture that are balanced at once: its most frequent ones
LISTED = 10  # groups whose combinations are all looked at
CERTAIN = 1e-9


def sample(sizes: np.ndarray, missing: np.ndarray, owed: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Which units [units] come to a side that lacks `missing` images of each class; `sizes` is [units, classes].

    `missing` need not be whole. Each group has the same chance, as large as the share that is missing, whatever its
    size, as far as single images can then make the count of every class right to an image. `owed` units of each class
    stay for other sides, which
    have none of it yet.
    """
    count = sizes.sum(axis=1)
    chosen = np.zeros(len(sizes), dtype=bool)
    singles = np.flatnonzero(count == 1)
    label = sizes[singles].argmax(axis=1)
    alone = np.bincount(label, minlength=len(missing))
    filled = np.zeros(len(missing), dtype=np.int64)
    # Neighbours are weighed against one another: alike in size, and the smallest, which fit best, at last
    tied = np.flatnonzero(count > 1)
    tied = tied[np.argsort(-count[tied], kind="stable")]
    # Classes that no group ties together have nothing to do with one another
    main = sizes[tied].argmax(axis=1)
    unit, beside = sizes[tied].nonzero()
    ties = coo_array((np.ones(len(unit)), (main[unit], beside)), shape=(len(missing),) * 2)
    parts, part_of = connected_components(ties, directed=False)
    for part in range(parts):
        units, here = tied[part_of[main] == part], np.flatnonzero(part_of == part)
        chosen[units], filled[here] = _of_part(sizes[np.ix_(units, here)], alone[here], missing[here], owed[here], draw)
    chosen[singles] = pd.Series(label).groupby(label).cumcount().to_numpy() < filled[label]
    return chosen


def _of_part(
    sizes: np.ndarray, alone: np.ndarray, missing: np.ndarray, owed: np.ndarray, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The chosen groups, and how many of the `alone` single images of each class fill the rest."""
    present, total = sizes > 0, sizes.sum(axis=0) + alone
    forbidden = sizes.sum() + missing.sum() + 1

    def fill(images: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Single images [..., classes] to add to so many images and groups of each class, and what is wrong then."""
        spare = present.sum(axis=0) + alone - owed - groups
        filled = np.clip(np.floor(missing - images + 0.5).astype(np.int64), 0, np.clip(spare, 0, alone))
        bad = ((missing > 0) & (groups + filled == 0)) | (spare < 0)
        beyond = np.maximum(np.abs(missing - images - filled) - 1, 0)
        return filled, (beyond + forbidden * bad).sum(axis=-1)

    chance = sizes @ np.minimum(missing / np.maximum(total, 1), 1) / np.maximum(sizes.sum(axis=1), 1)
    chance[np.maximum(sizes - missing - 1, 0).sum(axis=1) > sizes.sum(axis=1) / 2] = 0  # mostly too much
    chance = _flight(sizes[:, np.argsort(-total, kind="stable")[:BALANCED]].T, chance, draw)
    chosen, unsure = chance == 1, np.flatnonzero((chance > 0) & (chance < 1))
    added = (np.arange(2 ** len(unsure))[:, None] >> np.arange(len(unsure)) & 1).astype(bool)
    wrong = fill(
        sizes[chosen].sum(axis=0) + added @ sizes[unsure], present[chosen].sum(axis=0) + added @ present[unsure]
    )[1]
    likely = np.where(added, chance[unsure], 1 - chance[unsure]).prod(axis=1) * (wrong <= wrong.min() + CERTAIN)
    chosen[unsure] = added[draw.choice(len(added), p=likely / likely.sum())]
    while len(sizes):  # where that does not suffice, one group more or less
        sign = np.where(chosen, -1, 1)[:, None]
        images, groups = sizes[chosen].sum(axis=0), present[chosen].sum(axis=0)
        then = fill(images + sign * sizes, groups + sign * present)[1]
        if then.min() >= fill(images, groups)[1] - CERTAIN:
            break
        chosen[then.argmin()] ^= True
    return chosen, fill(sizes[chosen].sum(axis=0), present[chosen].sum(axis=0))[0]


def _flight(balanced: np.ndarray, chance: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """The chances [units] moved to 0 or 1 at random, but for a few: each keeps its mean, and the sums that `balanced`
    [rows, units] makes of them stay what they are (the cube method: Deville and Tille 2004, Biometrika 91)."""
    chance = chance.copy()
    while True:
        unsure = np.flatnonzero((chance > 0) & (chance < 1))
        if len(unsure) <= min(len(balanced), LISTED):
            return chance
        some = unsure[: len(balanced) + 1]
        way = np.linalg.svd(balanced[: len(some) - 1, some])[2][-1]  # along which no sum changes
        now = chance[some]
        with np.errstate(divide="ignore"):
            ahead = np.where(way > CERTAIN, (1 - now) / way, np.where(way < -CERTAIN, -now / way, np.inf)).min()
            back = np.where(way > CERTAIN, now / way, np.where(way < -CERTAIN, (now - 1) / way, np.inf)).min()
        now = now + way * (ahead if draw.random() < back / (ahead + back) else -back)
        chance[some] = np.where(np.abs(now - now.round()) < CERTAIN, now.round(), now)
