"""Metrics and statistics against hand-made cases and known values."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from pipeline import layout
from pipeline.artifacts import Dataset, ModelCard
from pipeline.config import Evaluate
from pipeline.errors import UserError
from pipeline.evaluation.metrics import accuracy, expected_calibration_error, per_class, summary
from pipeline.evaluation.plots import learning_curves
from pipeline.evaluation.statistics import holm, paired_test, share_interval, votes
from pipeline.networks import weights
from pipeline.networks.deployable import probabilities
from pipeline.stages.evaluate import evaluate, over_seeds
from pipeline.stages.report import differences
from tests.test_diagnosis import a_history

CPU = torch.device("cpu")


def test_summary_of_a_known_case() -> None:
    labels = np.array([0, 1, 2, 2])
    scores = np.array([[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8], [0.7, 0.2, 0.1]])
    numbers = summary(scores, labels, np.arange(4), bins=10)
    assert numbers["accuracy"] == 0.75
    assert numbers["balanced_accuracy"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert numbers["log_loss"] == pytest.approx(-np.log([0.8, 0.6, 0.8, 0.1]).mean())
    table = per_class(scores, labels, ("a", "b", "c"))
    assert (table["recall"].tolist(), table["precision"].tolist()) == ([1, 1, 0.5], [0.5, 1, 1])
    of_two = summary(scores[:2], labels[:2], np.arange(2), bins=5)
    assert of_two["accuracy"] == of_two["balanced_accuracy"] == of_two["macro_f1"] == 1, "a small split lacks a class"


def test_calibration_error_of_an_honest_and_a_boastful_model() -> None:
    """Right half of the time: at confidence 0.5 the error is nothing, at 0.9 it is 0.4."""
    labels = np.array([0, 1] * 50)
    for confidence, error in ((0.5 + 1e-9, 0), (0.9, 0.4)):
        scores = np.tile([confidence, 1 - confidence], (100, 1))
        assert expected_calibration_error(scores, labels, 10) == pytest.approx(error, abs=1e-6)


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_the_interval_of_single_images_is_wilsons(right: list[bool]) -> None:
    interval = share_interval(np.array(right), np.arange(len(right)))
    wilson = binomtest(sum(right), len(right)).proportion_ci(method="wilson")
    assert interval == pytest.approx((wilson.low, wilson.high), abs=1e-7)


def test_copies_do_not_make_an_interval_narrower() -> None:
    """Forty images, each five times: as sure as forty images; also where all are right, or all are one group."""
    for right in (np.arange(40) < 30, np.ones(40, dtype=bool)):
        interval = share_interval(np.repeat(right, 5), np.repeat(np.arange(40), 5))
        assert interval == pytest.approx(share_interval(right, np.arange(40)), abs=0.01)
    low, high = share_interval(np.ones(50, dtype=bool), np.zeros(50))
    assert low < 0.1 < high == 1


def alike_images(draw: np.random.Generator, share: float, alike: float) -> tuple[np.ndarray, np.ndarray]:
    """Single images, twins and a few large groups; a share `alike` of the groups is right or wrong as one."""
    sizes = np.repeat([1, 2, 8], [40, 25, 5])
    group = np.repeat(np.arange(len(sizes)), sizes)
    as_one = draw.random(len(sizes))[group] < alike
    return np.where(as_one, (draw.random(len(sizes)) < share)[group], draw.random(len(group)) < share), group


@pytest.mark.parametrize("alike", [0, 0.5, 1])
@pytest.mark.parametrize("share", [0.7, 0.9])
def test_the_interval_holds_the_true_share_95_times_of_100(share: float, alike: float) -> None:
    """By simulation, 92 times at least; Wilson's over images less than 85 where a group is right or wrong as one."""
    draw = np.random.default_rng(0)
    held = np.zeros(2)
    for _ in range(500):
        right, group = alike_images(draw, share, alike)
        intervals = share_interval(right, group), share_interval(right, np.arange(len(right)))
        held += [low <= share <= high for low, high in intervals]
    assert held[0] >= 0.92 * 500
    assert alike < 1 or held[1] < 0.85 * 500


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 6)), min_size=1, max_size=30))
def test_the_paired_test_is_all_signs_of_the_groups_votes(answers: list[tuple[bool, bool, int]]) -> None:
    """Enumerated; and McNemar's exact test, by scipy, where all images are single."""
    first, second, group = (np.array(column) for column in zip(*answers, strict=True))
    won = np.sign(np.bincount(group, weights=first.astype(int) - second.astype(int)))
    assert votes(first, second, group) == ((won > 0).sum(), (won < 0).sum(), len(set(group)))
    weight = [abs(sum(signs)) >= abs(won.sum()) for signs in product((-1, 1), repeat=int(np.abs(won).sum()))]
    assert paired_test(first, second, group) == pytest.approx(np.mean(weight))
    only_first, differing = int((first & ~second).sum()), int((first != second).sum())
    mcnemar = binomtest(only_first, differing).pvalue if differing else 1
    assert paired_test(first, second, np.arange(len(first))) == pytest.approx(mcnemar)


def test_twins_do_not_prove_a_difference() -> None:
    """Two models that are as good: at most 5 of 100 tests may cry wolf; over images 14 would."""
    draw = np.random.default_rng(0)
    alarms = np.zeros(2)
    for _ in range(500):
        (first, group), (second, _) = alike_images(draw, 0.8, 1), alike_images(draw, 0.8, 1)
        alarms += [paired_test(first, second, of) < 0.05 for of in (group, np.arange(len(group)))]
    assert alarms[0] < 0.075 * 500 < 0.12 * 500 < alarms[1]


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_lies_between_nothing_and_bonferroni(p_values: list[float]) -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    adjusted = holm(p_values)
    assert all(raw <= value <= min(1.0, len(p_values) * raw) for raw, value in zip(p_values, adjusted, strict=True))
    assert [adjusted[i] for i in np.argsort(p_values, kind="stable")] == sorted(adjusted)


def test_seeds_have_an_interval_only_together() -> None:
    table = pd.DataFrame({"test_accuracy": [0.90, 0.92, 0.94], "val_accuracy": [0.99, 1.0, 1.0]})
    numbers = over_seeds(table)
    assert numbers["n"] == 3 and numbers["test_accuracy_mean"] == pytest.approx(0.92)
    assert numbers["test_accuracy_high"] - 0.92 == pytest.approx(4.302653 * 0.02 / np.sqrt(3))
    assert numbers["val_accuracy_high"] == 1.0
    assert over_seeds(table.assign(val_accuracy=0.9))["val_accuracy_low"] == pytest.approx(0.9)
    assert over_seeds(table.head(1)) == {"n": 1, "test_accuracy_mean": 0.90, "val_accuracy_mean": 0.99}


def test_every_seed_is_scored_on_the_test_split(
    card: ModelCard, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    networks = {}
    for seed in (0, 1, 2):
        torch.manual_seed(seed)
        networks[seed] = weights.fresh(card).eval()
        weights.save(layout.seed_checkpoint("m", seed), networks[seed], card)
    trainings = pd.DataFrame({"seed": [1, 0, 2], "shipped": [True, False, False], "best_epoch": 3, "val_accuracy": 0.5})
    result = evaluate("m", networks[1], card, trainings, {}, dataset, Evaluate(), CPU)
    images, labels = dataset.of("test")
    wanted = {seed: accuracy(probabilities(networks[seed], card, images, CPU), labels) for seed in networks}
    assert result.seeds is not None
    assert dict(zip(result.seeds["seed"], result.seeds["test_accuracy"], strict=True)) == pytest.approx(wanted)
    assert {"sha256", "group"} <= set(result.predictions.columns)
    as_one = replace(dataset, splits=dataset.splits.assign(group=0))
    unsure = evaluate("m", networks[1], card, None, {}, as_one, Evaluate(), CPU).metrics
    assert (unsure["accuracy"], unsure["seeds"]) == (result.metrics["accuracy"], {"n": 1})
    assert unsure["accuracy_low"] < result.metrics["accuracy_low"] / 2
    assert result.metrics["seeds"]["test_accuracy_mean"] == pytest.approx(np.mean(list(wanted.values())))


def test_a_difference_is_told_only_where_it_is_proven() -> None:
    """Against the best on validation, on the same images, of which alike ones count once."""

    def tested(right: int) -> pd.DataFrame:
        predicted = ["cat"] * right + ["dog"] * (100 - right)
        return pd.DataFrame({"sha256": range(100), "group": range(100), "label": "cat", "predicted": predicted})

    tables = {"reference": tested(80), "as good": tested(81), "worse": tested(40), "better": tested(99)}
    verdicts = {name: verdict for name, (verdict, _) in differences("reference", tables).items()}
    assert verdicts == {"as good": "no proven difference", "worse": "worse", "better": "better"}
    assert differences("reference", {"reference": tested(80)}) == {}
    copies = {name: tested(right).assign(group=[*range(50), *[50] * 50]) for name, right in (("a", 100), ("b", 50))}
    assert differences("a", copies)["b"] == ("no proven difference", 1)
    with pytest.raises(UserError, match="worse and reference"):
        differences("reference", tables | {"worse": tested(40).head(50)})


def test_learning_curves_show_all_seeds() -> None:
    """A bold pair of lines for the shipped seed, a pale pair for each other one."""
    history = pd.concat([a_history(6).assign(seed=seed) for seed in (3, 0, 1)])
    seeds = pd.DataFrame({"seed": [0, 1, 3], "best_epoch": [5, 6, 4], "shipped": [False, False, True]})
    figure = learning_curves(history, seeds, "m")
    loss = figure.axes[0].lines
    widths = sorted(line.get_linewidth() for line in loss if len(np.asarray(line.get_xdata())) == 6)
    assert len(widths) == 6 and widths[3] < widths[4] == widths[5]
    assert "seed 3, best epoch 4" in figure.get_suptitle()
