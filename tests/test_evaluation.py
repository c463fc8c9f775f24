"""Metrics and statistics against hand-made cases and known values."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from pipeline.artifacts import Dataset, ModelCard, read_table, write_table
from pipeline.config import Evaluate
from pipeline.evaluation.metrics import accuracy, expected_calibration_error, per_class, summary
from pipeline.evaluation.plots import learning_curves
from pipeline.evaluation.statistics import holm, mean_interval, paired_test, share_interval, wilson_interval
from pipeline.networks import weights
from pipeline.networks.deployable import probabilities
from pipeline.networks.weights import fresh
from pipeline.stages.evaluate import evaluate, over_seeds
from pipeline.stages.report import differences
from tests.test_diagnosis import a_history


def test_summary_of_a_known_case() -> None:
    """Three of four right; the fourth class never predicted."""
    labels = np.array([0, 1, 2, 2])
    scores = np.array([[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8], [0.7, 0.2, 0.1]])
    numbers = summary(scores, labels, np.arange(4), bins=10)
    assert numbers["accuracy"] == 0.75
    assert numbers["balanced_accuracy"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert numbers["log_loss"] == pytest.approx(-np.log([0.8, 0.6, 0.8, 0.1]).mean())
    assert numbers["top5_accuracy"] == 1
    table = per_class(scores, labels, ("a", "b", "c"))
    assert table["recall"].tolist() == [1, 1, 0.5]
    assert table["precision"].tolist() == [0.5, 1, 1]


def test_a_class_that_the_split_lacks_does_no_harm() -> None:
    """A small validation split may miss a class."""
    numbers = summary(np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]]), np.array([0, 1]), np.arange(2), bins=5)
    assert numbers["accuracy"] == 1


def test_calibration_error_of_an_honest_and_a_boastful_model() -> None:
    """Right half of the time: at confidence 0.5 the error is nothing, at 0.9 it is 0.4."""
    labels = np.array([0, 1] * 50)
    honest = np.tile([0.5 + 1e-9, 0.5], (100, 1))
    boastful = np.tile([0.9, 0.1], (100, 1))
    assert expected_calibration_error(honest, labels, 10) == pytest.approx(0, abs=1e-6)
    assert expected_calibration_error(boastful, labels, 10) == pytest.approx(0.4)


def test_wilson_interval_against_published_values() -> None:
    """Newcombe 1998 (Statistics in Medicine 17, table I): 81/263, 15/148, 0/20, 1/29."""
    for successes, trials, low, high in [
        (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718),
    ]:  # fmt: skip
        assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_the_interval_of_single_images_is_wilsons(right: list[bool]) -> None:
    """None is like another."""
    interval = share_interval(np.array(right), np.arange(len(right)))
    assert interval == pytest.approx(wilson_interval(sum(right), len(right)))


def test_copies_do_not_make_an_interval_narrower() -> None:
    """Forty images, each five times: as sure as forty images; also where all are right, or all are one group."""
    for right in (np.arange(40) < 30, np.ones(40, dtype=bool)):
        low, high = share_interval(np.repeat(right, 5), np.repeat(np.arange(40), 5))
        few_low, few_high = wilson_interval(int(right.sum()), 40)
        assert low == pytest.approx(few_low, abs=0.01)
        assert high == pytest.approx(few_high, abs=0.01)
    low, high = share_interval(np.ones(50, dtype=bool), np.zeros(50))
    assert low < 0.1
    assert high == 1


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
    held = {"groups": 0, "images": 0}
    for _ in range(500):
        right, group = alike_images(draw, share, alike)
        low, high = share_interval(right, group)
        held["groups"] += low <= share <= high
        low, high = wilson_interval(int(right.sum()), len(right))
        held["images"] += low <= share <= high
    assert held["groups"] >= 0.92 * 500
    if alike == 1:
        assert held["images"] < 0.85 * 500


def test_the_paired_test_counts_only_disagreement() -> None:
    """Six against none: p = 2 / 2^6; no disagreement: p = 1; six of one group are one: p = 1."""
    first = np.array([True] * 10)
    second = np.array([True] * 4 + [False] * 6)
    assert paired_test(first, second, np.arange(10)).p_value == pytest.approx(2 / 64)
    assert paired_test(first, first, np.arange(10)).p_value == 1
    assert paired_test(first, second, np.array([0, 1, 2, 3, *[4] * 6])).p_value == 1


PAIRS_OF_ANSWERS = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 6)), min_size=1, max_size=30)


@given(PAIRS_OF_ANSWERS)
def test_the_paired_test_is_all_signs_of_the_groups_differences(answers: list[tuple[bool, bool, int]]) -> None:
    """Enumerated; and McNemar's exact test, by scipy, where all images are single."""
    first, second, group = (np.array(column) for column in zip(*answers, strict=True))
    differences = np.bincount(group, weights=first.astype(int) - second.astype(int))
    sums = [sum(signs) for signs in product(*({d, -d} for d in differences if d))]
    weight = [abs(total) >= abs(differences.sum()) for total in sums]
    assert paired_test(first, second, group).p_value == pytest.approx(np.mean(weight))
    single = paired_test(first, second, np.arange(len(first)))
    differing = single.only_first + single.only_second
    assert single.p_value == pytest.approx(binomtest(single.only_first, differing).pvalue if differing else 1)


def test_twins_do_not_prove_a_difference() -> None:
    """Two models that are as good: at most 5 of 100 tests may cry wolf; over images 14 would."""
    draw = np.random.default_rng(0)
    alarms = {"groups": 0, "images": 0}
    for _ in range(500):
        (first, group), (second, _) = alike_images(draw, 0.8, 1), alike_images(draw, 0.8, 1)
        alarms["groups"] += paired_test(first, second, group).p_value < 0.05
        alarms["images"] += paired_test(first, second, np.arange(len(group))).p_value < 0.05
    assert alarms["groups"] < 0.075 * 500 < 0.12 * 500 < alarms["images"]


def test_the_interval_of_a_mean_against_a_textbook() -> None:
    """Ten values of mean 20.2 and standard deviation 2.0976: 20.2 plus or minus 2.262 x 2.0976 / sqrt(10)."""
    values = [17, 18, 19, 19, 20, 20, 21, 21, 23, 24]
    spread = 2.262157 * np.std(values, ddof=1) / np.sqrt(10)
    assert mean_interval(values) == pytest.approx((20.2 - spread, 20.2 + spread), abs=1e-5)
    assert mean_interval([0.9, 0.9, 0.9]) == pytest.approx((0.9, 0.9))


@pytest.mark.parametrize("values", [[], [0.9]])
def test_one_value_has_no_interval(values: list[float]) -> None:
    """Nothing is made up."""
    with pytest.raises(ValueError, match=r"needs 2 or more values, not \d: raise train\.seeds"):
        mean_interval(values)


def test_holm_against_a_published_case() -> None:
    """p = 0.01, 0.04, 0.03, 0.005 become 0.03, 0.06, 0.06, 0.02."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_lies_between_nothing_and_bonferroni(p_values: list[float]) -> None:
    """It keeps the order, and is never below the p-value nor above Bonferroni's."""
    adjusted = holm(p_values)
    for raw, value in zip(p_values, adjusted, strict=True):
        assert raw <= value <= min(1.0, len(p_values) * raw)
    assert [adjusted[i] for i in np.argsort(p_values, kind="stable")] == sorted(adjusted)


def test_seeds_have_an_interval_only_together() -> None:
    """Mean and interval of both splits; of a single training the mean alone."""
    table = pd.DataFrame({"test_accuracy": [0.90, 0.92, 0.94], "val_accuracy": [0.99, 1.0, 1.0]})
    numbers = over_seeds(table)
    assert numbers["n"] == 3
    assert numbers["test_accuracy_mean"] == pytest.approx(0.92)
    assert numbers["test_accuracy_high"] - 0.92 == pytest.approx(4.302653 * 0.02 / np.sqrt(3))
    assert numbers["val_accuracy_high"] == 1.0
    assert over_seeds(table.head(1)) == {"n": 1, "test_accuracy_mean": 0.90, "val_accuracy_mean": 0.99}


def test_every_seed_is_scored_on_the_test_split(card: ModelCard, dataset: Dataset, tmp_path: Path) -> None:
    """The shipped network and the checkpoints of the others, each by its own weights."""
    networks, files = {}, {}
    for seed in (0, 1, 2):
        torch.manual_seed(seed)
        networks[seed] = fresh(card).eval()
        files[seed] = tmp_path / f"seed-{seed}.safetensors"
        weights.save(files[seed], networks[seed], card)
    trainings = pd.DataFrame({
        "seed": [1, 0, 2], "best_epoch": [3, 4, 5], "val_accuracy": [0.5, 0.4, 0.3], "shipped": [True, False, False],
    })  # fmt: skip
    others = {seed: files[seed] for seed in (0, 2)}
    result = evaluate("m", networks[1], card, trainings, others, {}, dataset, Evaluate(), torch.device("cpu"))
    images, labels = dataset.of("test")
    wanted = {
        seed: accuracy(probabilities(network, card, images, torch.device("cpu")), labels)
        for seed, network in networks.items()
    }
    assert result.seeds is not None
    assert dict(zip(result.seeds["seed"], result.seeds["test_accuracy"], strict=True)) == pytest.approx(wanted)
    assert result.metrics["accuracy"] == pytest.approx(wanted[1])
    assert {"sha256", "group"} <= set(result.predictions.columns)
    as_one = Dataset(dataset.images_NHWC, dataset.labels, dataset.splits.assign(group=0), dataset.class_names)
    unsure = evaluate("m", networks[1], card, None, {}, {}, as_one, Evaluate(), torch.device("cpu")).metrics
    assert unsure["accuracy"] == result.metrics["accuracy"]
    assert unsure["accuracy_low"] < result.metrics["accuracy_low"] / 2
    assert result.metrics["seeds"]["test_accuracy_mean"] == pytest.approx(np.mean(list(wanted.values())))


def test_a_difference_is_told_only_where_it_is_proven(tmp_path: Path) -> None:
    """Against the best on validation, on the same images: one model as good, one worse, one better."""
    names = {"reference": 80, "as good": 81, "worse": 40, "better": 99}
    for name, right in names.items():
        predicted = ["cat"] * right + ["dog"] * (100 - right)
        content = {"sha256": [str(i) for i in range(100)], "group": range(100)}
        table = pd.DataFrame({"path": name, **content, "label": "cat", "predicted": predicted})
        write_table(tmp_path / name / "predictions.parquet", table)
    tested = {name: tmp_path / name for name in names}
    verdicts = differences("reference", tested)
    assert {name: verdict for name, (verdict, _) in verdicts.items()} == {
        "as good": "no proven difference", "worse": "worse", "better": "better",
    }  # fmt: skip
    assert differences("reference", {"reference": tmp_path / "reference"}) == {}
    write_table(tmp_path / "worse" / "predictions.parquet", table.head(50))
    with pytest.raises(ValueError, match="worse and reference were tested on other images"):
        differences("reference", tested)
    # Fifty of the images are copies of one
    for name in ("reference", "worse"):
        alone = read_table(tmp_path / "reference" / "predictions.parquet")
        answers = ["cat"] * 100 if name == "reference" else ["cat"] * 50 + ["dog"] * 50
        alone = alone.assign(group=[*range(50), *[50] * 50], predicted=answers)
        write_table(tmp_path / name / "predictions.parquet", alone)
    assert differences("reference", {name: tmp_path / name for name in ("reference", "worse")})["worse"][1] == 1


def test_learning_curves_show_all_seeds_and_fits_without_gradients() -> None:
    """A bold pair of lines for the shipped seed, a pale pair for each other one; missing norms are no error."""
    history = pd.concat([a_history(6).assign(seed=seed) for seed in (3, 0, 1)])
    seeds = pd.DataFrame({"seed": [0, 1, 3], "best_epoch": [5, 6, 4], "shipped": [False, False, True]})
    figure = learning_curves(history, seeds, "m")
    loss = figure.axes[0].lines
    widths = sorted(line.get_linewidth() for line in loss if len(np.asarray(line.get_xdata())) == 6)
    assert len(widths) == 6
    assert widths[3] < widths[4] == widths[5]
    title = figure.get_suptitle()
    assert "seed 3, best epoch 4" in title
    assert "2 other seeds" in title
    single = a_history(1, gradient_norm=[np.nan], gradient_norm_max=[np.nan], learning_rate=[np.nan])
    learning_curves(single, pd.DataFrame({"seed": [0], "best_epoch": [1], "shipped": [True]}), "m").canvas.draw()
