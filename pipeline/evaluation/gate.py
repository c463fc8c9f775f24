"""Whether a challenger becomes the champion: every check with what was measured and what it is held against."""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from pipeline.config import Registry
from pipeline.evaluation.metrics import expected_calibration_error
from pipeline.evaluation.statistics import comparison_level, difference_bound, median_bound, votes

BINS = 15  # of the expected calibration error, as in the report


@dataclass(frozen=True)
class Candidate:
    """A version as it was scored now on the compared test images."""

    version: str
    probabilities: np.ndarray
    """float32 [N, classes]"""
    size_mb: float
    latency_ms: np.ndarray
    """[rounds], one call at batch 1 each; the rounds of both versions are interleaved."""
    problems: tuple[str, ...] = ()
    """What is wrong with its lineage or its artifact, each a phrase; empty if nothing."""

    @property
    def faults(self) -> tuple[str, ...]:
        broken = () if np.isfinite(self.probabilities).all() else ("it gives probabilities that are no numbers",)
        return (*self.problems, *broken)

    def right(self, labels: np.ndarray) -> np.ndarray:
        """bool [N]; what is no number is wrong."""
        predicted = self.probabilities.argmax(axis=1)
        return np.asarray((predicted == labels) & np.isfinite(self.probabilities).all(axis=1))


class Check(NamedTuple):
    name: str
    value: float | None
    """What was measured."""
    bound: float | None
    """What it is held against."""
    passed: bool
    says: str
    """One short sentence for people, with units."""


@dataclass(frozen=True)
class Verdict:
    outcome: Literal["promoted", "refused", "undecided"]
    reason: str
    """One sentence: the failed checks, or what was won."""
    checks: tuple[Check, ...]

    def record(self) -> dict[str, Any]:
        """For JSON: numbers have six digits, and are None where there is none."""

        def number(value: float | None) -> float | None:
            return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")

        checks = [check._replace(value=number(check.value), bound=number(check.bound)) for check in self.checks]
        return {"outcome": self.outcome, "reason": self.reason, "checks": [check._asdict() for check in checks]}


def judge(
    challenger: Candidate,
    champion: Candidate | None,
    labels: np.ndarray,
    group: np.ndarray,
    class_names: tuple[str, ...],
    config: Registry,
    earlier: int,
) -> Verdict:
    """Promote, refuse, or say that these images cannot tell. `labels` and `group` are int [N]: images of one group are
    alike and have one vote. `earlier` comparisons were made on this test split.

    Without a champion only the checks of the challenger itself decide. A champion's faults are said, and it is scored
    as it is: damage costs it its lead, but a tag that is missing lets no noise through.
    """
    checks = [*_budgets(challenger, labels, config), *_floors(challenger.right(labels), labels, class_names, config)]
    if not len(labels):
        checks.append(Check("enough_images", 0, 1, False, "there is no test image to compare on"))
        return _verdict(checks, [], "")
    if champion is None:
        return _verdict(checks, [], "there was no champion, and every check of the challenger itself is passed")
    if champion.faults:
        says = f"champion version {champion.version} is scored as it is: {', '.join(champion.faults)}"
        checks.append(Check("champion", len(champion.faults), None, True, says))
    new, old = challenger.right(labels), champion.right(labels)
    wins, losses, groups = votes(new, old, group)
    by_images = accuracy_checks(wins, losses, groups, config, earlier)
    enough = _enough(votes(np.ones_like(old), old, group)[0], groups, config, earlier)
    best = -difference_bound(losses, wins, groups, comparison_level(config.alpha, earlier))
    if not enough.passed and best < (0 if config.improve == "accuracy" else -config.margin):
        enough = enough._replace(passed=True, says="these images cannot show a gain, but they show a loss")
    goal = [] if config.improve == "accuracy" else _goal(challenger, champion, config)
    changes = _changes(new, old, labels, group, class_names, config)
    return _verdict([*checks, *changes, *goal, enough], by_images, (goal or by_images)[-1].says)


def accuracy_checks(wins: int, losses: int, groups: int, config: Registry, earlier: int) -> list[Check]:
    """What the votes of the groups of images decide: that no accuracy is lost and, if asked for, that some is won."""
    from scipy.stats import binomtest

    level = comparison_level(config.alpha, earlier)
    of_these = f"comparison {earlier + 1} on this test split, confidence {1 - level:.2%}"
    bound, change, limit = difference_bound(wins, losses, groups, level), (wins - losses) / groups, -config.margin
    says = f"its accuracy changes by {change:+.2%}, at worst by {bound:+.2%} ({of_these}); allowed is {limit:.2%}"
    checks = [Check("non_inferiority", bound, limit, bound > limit, says)]
    if config.improve == "accuracy":
        p_value = float(binomtest(wins, wins + losses, alternative="greater").pvalue) if wins + losses else 1.0
        says = f"of {groups:,} images, alike ones as one, it gains {wins} and loses {losses}: p = {p_value:.2g}; "
        says += f"asked is at most {level:.2g} ({of_these})"
        checks.append(Check("improvement", p_value, level, p_value <= level, says))
    return checks


def _verdict(checks: list[Check], by_images: list[Check], won: str) -> Verdict:
    """`by_images` may fail for want of images: if that is so, and nothing else fails, nothing is decided."""
    failed = [check for check in checks if not check.passed]
    too_few = [check for check in failed if check.name in ("enough_images", "enough_rounds")]
    undecided = bool(too_few) and failed == too_few
    if not too_few:
        failed += [check for check in by_images if not check.passed]
    reason = "; ".join(check.says for check in failed if undecided or check not in too_few) or won
    return Verdict("undecided" if undecided else "refused" if failed else "promoted", reason, (*checks, *by_images))


def _budgets(challenger: Candidate, labels: np.ndarray, config: Registry) -> list[Check]:
    faults, milliseconds = challenger.faults, float(np.median(challenger.latency_ms))
    says = ", ".join(faults) or "its lineage is complete and its artifact intact"
    checks = [Check("lineage", len(faults), 0, not faults, says)]
    for name, value, bound, text in (
        ("latency", milliseconds, config.max_latency_ms, "it takes {:.2f} ms an image; allowed are {:g} ms"),
        ("size", challenger.size_mb, config.max_size_mb, "its file has {:.2f} MB; allowed are {:g} MB"),
    ):
        checks.append(Check(name, value, bound, value <= bound, text.format(value, bound)))
    if len(labels) and np.isfinite(challenger.probabilities).all():
        error, bound = expected_calibration_error(challenger.probabilities, labels, BINS), config.max_calibration_error
        says = f"its confidence is off by {error:.3f} on average (expected calibration error); allowed is {bound:g}"
        checks.append(Check("calibration", error, bound, error <= bound, says))
    return checks


def _floors(right: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...], config: Registry) -> list[Check]:
    checks = []
    for label, name in enumerate(class_names):
        of_class, floor = right[labels == label], config.min_recall
        recall = float(of_class.mean()) if len(of_class) else None
        says = f"{name} has no test image"
        if recall is not None:
            says = f"it finds {recall:.1%} of {len(of_class):,} images of {name}; asked are {floor:.1%}"
        checks.append(Check(f"recall:{name}", recall, floor, recall is None or recall >= floor, says))
    return checks


def _changes(
    new: np.ndarray, old: np.ndarray, labels: np.ndarray, group: np.ndarray, names: tuple[str, ...], config: Registry
) -> list[Check]:
    """Upper bounds of the change of every class's recall, all of them together at `alpha` (Bonferroni)."""
    checks = []
    for label in np.unique(labels):
        of_class, name, limit = labels == label, names[label], -config.max_recall_drop
        wins, losses, groups = votes(new[of_class], old[of_class], group[of_class])
        bound = -difference_bound(losses, wins, groups, config.alpha / len(names))
        says = f"its recall of {name} changes by {(wins - losses) / groups:+.1%}, at best by {bound:+.1%}; "
        says += f"allowed is {limit:.1%}"
        checks.append(Check(f"recall_change:{name}", bound, limit, bound >= limit, says))
    return checks


def _enough(wrong: int, groups: int, config: Registry, earlier: int) -> Check:
    """Whether a challenger could have passed that is right wherever the champion is, and where it is wrong too."""

    def could(wrong: int, groups: int) -> bool:
        return all(check.passed for check in accuracy_checks(wrong, 0, groups, config, earlier))

    if could(wrong, groups):
        return Check("enough_images", groups, None, True, f"{groups:,} images, alike ones as one, allow a verdict")
    sizes = (int(size) for size in np.geomspace(groups, 10_000 * groups, 2_000))
    needed = next((size for size in sizes if could(wrong * size // groups, size)), None)
    says = f"of {groups:,} test images, alike ones as one, the champion has {wrong} wrong: no challenger could pass "
    says += f"comparison {earlier + 1} on this test split; "
    says += (
        f"{needed:,} images would do, {wrong * needed // groups} of them wrong" if needed else "harder images would do"
    )
    return Check("enough_images", groups, needed, False, says)


def _goal(challenger: Candidate, champion: Candidate, config: Registry) -> list[Check]:
    """How many times as fast or as small the challenger is: of latencies the surely reached median of paired rounds."""
    checks, word = [], "small"
    ratio = champion.size_mb / challenger.size_mb
    if config.improve == "latency":
        ratios, word = champion.latency_ms / challenger.latency_ms, "fast"
        ratio, rounds = median_bound(ratios, config.alpha), len(ratios)
        least = math.floor(-math.log2(config.alpha)) + 1
        says = f"of {rounds} rounds of timing, {least} are the least for a verdict"
        checks.append(Check("enough_rounds", rounds, least, rounds >= least, says))
        if rounds < least:
            return checks
    says = f"it is {ratio:.2f} times as {word} as the champion; asked is {config.factor:g}"
    return [*checks, Check("improvement", ratio, config.factor, ratio >= config.factor, says)]
