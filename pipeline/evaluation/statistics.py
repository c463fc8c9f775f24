"""How sure a number is. By hand is what scipy lacks: Wilson's interval of a number that is no integer, a sign test of
groups of different sizes, Holm's correction."""

import math
from collections.abc import Sequence

import numpy as np


def share_interval(right: np.ndarray, group: np.ndarray) -> tuple[float, float]:
    """95 % interval of the share of True in [N], where images of one group [N] are alike and do not count as several.

    Wilson's interval (1927) for the effective number of images (Korn and Graubard 1998): the number over the design
    effect, which is the variance between groups over that of as many independent images. It lies between 1, for groups
    whose images are right or wrong independently, and its value for groups that are right or wrong as one, which is
    taken where all are right, or all wrong, as there is no variance to measure.
    """
    from scipy.stats import t

    count, share = len(right), float(right.mean())
    group_of, sizes = np.unique(group, return_inverse=True, return_counts=True)[1:]
    sizes, groups = sizes.astype(float), len(sizes)
    as_one = effect = float((sizes**2).sum()) / count
    if 0 < share < 1 and groups > 1:
        deviations = np.bincount(group_of, weights=right - share)
        between = groups / (groups - 1) * float((deviations**2).sum()) / count**2
        effect = min(max(1.0, between * (count - 1) / (share * (1 - share))), as_one)
    # A few large groups say little of the variance (degrees of freedom: Satterthwaite 1946)
    freedom = float((sizes**2).sum()) ** 2 / float((sizes**4).sum()) - 1
    few = float(t.ppf(0.975, max(1, count - 1)) / t.ppf(0.975, max(1, freedom))) ** 2
    trials, z = count / effect * few, 1.959964
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of several tests, raised so that the chance of any false alarm stays at the level (Holm 1979)."""
    raw = np.array(p_values, dtype=float)
    order = np.argsort(raw, kind="stable")
    raised = np.empty_like(raw)
    raised[order] = np.minimum(1, np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1)))
    return [float(value) for value in raised]


def paired_test(first_right: np.ndarray, second_right: np.ndarray, group: np.ndarray) -> float:
    """p-value of an exact two-sided test of two classifiers on the same images, boolean arrays [N]; images of one
    `group` [N] are alike and vote as one.

    The difference of each group has either sign with the same chance if both classifiers are as good. Of single images
    it is McNemar's exact test (McNemar 1947).
    """
    from scipy.stats import binom

    differences = first_right.astype(int) - second_right
    by_group = np.bincount(np.unique(group, return_inverse=True)[1], weights=differences).astype(int)
    chances = np.ones(1)  # of each sum of the groups' differences, from the lowest to the highest
    for size, count in zip(*np.unique(np.abs(by_group[by_group != 0]), return_counts=True), strict=True):
        of_size = np.zeros(2 * size * count + 1)
        of_size[:: 2 * size] = binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, of_size)
    sums = np.abs(np.arange(len(chances)) - len(chances) // 2)
    return min(1.0, float(chances[sums >= abs(by_group.sum())].sum()))
