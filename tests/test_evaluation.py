"""Metrics and statistics against hand-made cases and known values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.artifacts import Dataset, ModelCard, write_table
from pipeline.config import Evaluate
from pipeline.evaluation.metrics import accuracy, expected_calibration_error, per_class, summary
from pipeline.evaluation.plots import learning_curves
from pipeline.evaluation.statistics import holm, mcnemar, mean_interval, wilson_interval
from pipeline.stages.evaluate import evaluate, over_seeds
from pipeline.stages.report import differences
from pipeline.training import checkpoint
from pipeline.training.checkpoint import fresh
from pipeline.training.deployable import probabilities
from tests.test_diagnosis import a_history


def test_summary_of_a_known_case() -> None:
    """Three of four right; the fourth class never predicted."""
    labels = np.array([0, 1, 2, 2])
    scores = np.array([[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8], [0.7, 0.2, 0.1]])
    numbers = summary(scores, labels, bins=10)
    assert numbers["accuracy"] == 0.75
    assert numbers["balanced_accuracy"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert numbers["log_loss"] == pytest.approx(-np.log([0.8, 0.6, 0.8, 0.1]).mean())
    assert numbers["top5_accuracy"] == 1
    table = per_class(scores, labels, ("a", "b", "c"))
    assert table["recall"].tolist() == [1, 1, 0.5]
    assert table["precision"].tolist() == [0.5, 1, 1]


def test_a_class_that_the_split_lacks_does_no_harm() -> None:
    """A small validation split may miss a class."""
    numbers = summary(np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]]), np.array([0, 1]), bins=5)
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


def test_mcnemar_counts_only_disagreement() -> None:
    """Six against none: p = 2 / 2^6; no disagreement: p = 1."""
    first = np.array([True] * 10)
    second = np.array([True] * 4 + [False] * 6)
    assert mcnemar(first, second).p_value == pytest.approx(2 / 64)
    assert mcnemar(first, first).p_value == 1


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
        checkpoint.save(files[seed], networks[seed], card)
    trainings = pd.DataFrame({
        "seed": [1, 0, 2], "best_epoch": [3, 4, 5], "val_accuracy": [0.5, 0.4, 0.3], "shipped": [True, False, False],
    })  # fmt: skip
    others = {seed: files[seed] for seed in (0, 2)}
    result = evaluate("m", networks[1], card, trainings, others, {}, dataset, Evaluate())
    images, labels = dataset.of("test")
    wanted = {
        seed: accuracy(probabilities(network, card, images, torch.device("cpu")), labels)
        for seed, network in networks.items()
    }
    assert result.seeds is not None
    assert dict(zip(result.seeds["seed"], result.seeds["test_accuracy"], strict=True)) == pytest.approx(wanted)
    assert result.metrics["accuracy"] == pytest.approx(wanted[1])
    assert result.metrics["seeds"]["test_accuracy_mean"] == pytest.approx(np.mean(list(wanted.values())))


def test_a_difference_is_told_only_where_it_is_proven(tmp_path: Path) -> None:
    """Against the best on validation, on the same images: one model as good, one worse, one better."""
    names = {"reference": 80, "as good": 81, "worse": 40, "better": 99}
    for name, right in names.items():
        predicted = ["cat"] * right + ["dog"] * (100 - right)
        table = pd.DataFrame({"path": [str(i) for i in range(100)], "label": "cat", "predicted": predicted})
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
