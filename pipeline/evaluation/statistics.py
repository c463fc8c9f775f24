"""How sure a number is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927); sound near 0 and 1 and for few trials."""
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of a few measurements (Student 1908), e.g. of trainings with several seeds.

    Raises ValueError for less than two values, which say nothing about their spread.
    """
    from scipy.stats import t

    if len(values) < 2:
        raise ValueError(f"an interval of a mean needs 2 or more values, not {len(values)}: raise train.seeds")
    spread = float(t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    centre = float(np.mean(values))
    return centre - spread, centre + spread


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of several tests, raised so that the chance of any false alarm stays at the level (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


@dataclass(frozen=True)
class PairedTest:
    """Two classifiers on the same images: how many only the first, only the second got right, and the p-value."""

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first_right: np.ndarray, second_right: np.ndarray) -> PairedTest:
    """Exact two-sided McNemar test (McNemar 1947) on boolean arrays [N]."""
    from scipy.stats import binomtest

    only_first = int((first_right & ~second_right).sum())
    only_second = int((~first_right & second_right).sum())
    differing = only_first + only_second
    p_value = float(binomtest(only_first, differing).pvalue) if differing else 1.0
    return PairedTest(only_first, only_second, p_value)
