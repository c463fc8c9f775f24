"""How sure a number is. By hand is what scipy lacks: Wilson's interval of a number that is no integer, Tango's
bound of a paired difference, Holm's correction."""

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


def votes(first_right: np.ndarray, second_right: np.ndarray, group: np.ndarray) -> tuple[int, int, int]:
    """Of two classifiers on the same images, boolean arrays [N]: the groups [N] in which the first has more images
    right, those in which the second has, and all groups. Images of one group are alike and have one vote."""
    differences = first_right.astype(int) - second_right
    by_group = np.bincount(np.unique(group, return_inverse=True)[1], weights=differences)
    return int((by_group > 0).sum()), int((by_group < 0).sum()), len(by_group)


def paired_test(first_right: np.ndarray, second_right: np.ndarray, group: np.ndarray) -> float:
    """p-value of an exact two-sided test of two classifiers on the same images: the sign test of the groups' `votes`.

    Of single images it is McNemar's exact test (McNemar 1947).
    """
    from scipy.stats import binomtest

    wins, losses, _ = votes(first_right, second_right, group)
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def difference_bound(wins: float, losses: float, groups: float, level: float) -> float:
    """Lower confidence bound, one-sided, of the difference of two paired shares, (wins - losses) / groups.

    Tango's score bound (1998, Statistics in Medicine 17, 891-908): the difference whose score test has p = `level`. It
    says something also of no wins and no losses. The upper bound is minus the bound of (losses, wins).
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    if losses == groups:
        return -1.0
    z = float(norm.isf(level))

    def score(difference: float) -> float:
        b = (2 * groups - wins + losses) * difference - wins - losses
        c = -losses * difference * (1 - difference)
        share = (math.sqrt(max(0.0, b * b - 8 * groups * c)) - b) / (4 * groups)  # of losses, given the difference
        variance = groups * (2 * share + difference * (1 - difference))
        return wins - losses - groups * difference - z * math.sqrt(max(0.0, variance))

    # Without losses or without wins the estimate itself is a second root, and says nothing
    return float(brentq(score, -1, (wins - losses) / groups - 1e-9))


def median_bound(values: np.ndarray, level: float) -> float:
    """Lower confidence bound, one-sided, of the median: an order statistic, whatever the distribution; minus infinity
    for too few values."""
    from scipy.stats import binom

    rank = int(binom.ppf(level, len(values), 0.5))
    return float(np.sort(values)[rank - 1]) if rank else -math.inf


def comparison_level(alpha: float, earlier: int) -> float:
    """The level of the next comparison on one test split after `earlier` ones: over all that ever follow, their sum is
    `alpha`, as the sum of 1/k^2 is pi^2/6. So is the chance of any false alarm, at most (union bound)."""
    return alpha * 6 / (math.pi * (earlier + 1)) ** 2
