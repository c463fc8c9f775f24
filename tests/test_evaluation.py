"""Metrics and statistics against hand-made cases and known values."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation.metrics import expected_calibration_error, per_class, summary
from pipeline.evaluation.statistics import mcnemar, wilson_interval


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
