"""Each way of balancing, in numbers: 4 images of a cat, 16 of a dog, 20 of an eel."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipeline.training.balance import Balance, balanced, limited

NAMES = ("cat", "dog", "eel")
LABELS = np.repeat([0, 1, 2], [4, 16, 20])
ROWS = np.arange(len(LABELS)) * 3
SHARES = np.array([0.1, 0.4, 0.5])


def of(mode: str, seed: int = 0) -> Balance:
    return balanced(ROWS, LABELS, NAMES, mode, seed)


def by_class(index: pd.DataFrame, column: str, how: str) -> list[float]:
    values: list[float] = index.groupby("class")[column].agg(how).tolist()
    return values


def test_none_is_every_image_once_and_alike() -> None:
    """No mode but `none` may be without effect."""
    plain = of("none")
    assert plain.sample_index.to_dict("list") == {
        "row": ROWS.tolist(), "class": [NAMES[label] for label in LABELS], "weight": [1.0] * 40,
    }  # fmt: skip
    assert plain.class_weights == [1, 1, 1] and plain.logit_offsets == [0, 0, 0]


def test_sampler_gives_each_class_the_same_chance() -> None:
    """The weights of a class add up to the same; the mean weight is 1; the loss is left alone."""
    sampled = of("sampler")
    assert by_class(sampled.sample_index, "weight", "sum") == pytest.approx([40 / 3] * 3)
    assert sampled.sample_index["weight"].mean() == pytest.approx(1)
    assert sampled.class_weights == [1, 1, 1] and sampled.logit_offsets == [0, 0, 0]


def test_duplicates_list_rare_classes_until_they_are_as_many_as_the_largest() -> None:
    """Every image of a class the same number of times, give or take one, and the seed says which."""
    doubled = of("duplicates").sample_index
    assert by_class(doubled, "row", "count") == [20, 20, 20]
    assert by_class(doubled, "row", "nunique") == [4, 16, 20]
    times = doubled["row"].value_counts()
    assert sorted(times[ROWS[LABELS == 0]]) == [5] * 4
    assert sorted(times[ROWS[LABELS == 1]]) == [1] * 12 + [2] * 4
    assert (doubled["weight"] == 1).all()
    pd.testing.assert_frame_equal(doubled, of("duplicates").sample_index)
    assert doubled["row"].tolist() != of("duplicates", seed=1).sample_index["row"].tolist()


def test_loss_weights_weigh_a_class_up_as_it_is_rare() -> None:
    """Five times as rare weighs five times as much; the mean over the images is 1."""
    weighed = of("loss_weights")
    assert np.array(weighed.class_weights) * SHARES == pytest.approx([1 / 3] * 3)
    pd.testing.assert_frame_equal(weighed.sample_index, of("none").sample_index)


def test_logit_adjustment_is_the_log_of_the_shares() -> None:
    """Added to the logits in training."""
    adjusted = of("logit_adjustment")
    assert adjusted.logit_offsets == pytest.approx(np.log(SHARES))
    assert adjusted.class_weights == [1, 1, 1]


@pytest.mark.parametrize(
    ("mode", "limit", "counts", "distinct"),
    [
        ("none", 20, [2, 8, 10], [2, 8, 10]), ("sampler", 20, [2, 8, 10], [2, 8, 10]),
        ("loss_weights", 20, [2, 8, 10], [2, 8, 10]), ("logit_adjustment", 2, [1, 1, 1], [1, 1, 1]),
        ("duplicates", 30, [10, 10, 10], [4, 10, 10]), ("duplicates", 6, [2, 2, 2], [2, 2, 2]),
    ],
)  # fmt: skip
def test_a_limit_leaves_the_balance_as_it_is(mode: str, limit: int, counts: list[int], distinct: list[int]) -> None:
    """The classes keep their proportions; of duplicates, images come before their copies."""
    index = of(mode).sample_index
    taken = limited(index, limit, seed=0)
    assert by_class(taken, "row", "count") == counts
    assert by_class(taken, "row", "nunique") == distinct
    pd.testing.assert_frame_equal(taken, limited(index, limit, seed=0))
    assert limited(index, 0, seed=0) is index and limited(index, 1000, seed=0) is index


def test_a_class_without_training_images_is_named() -> None:
    """Rather than weighed by infinity."""
    with pytest.raises(ValueError, match="class 'eel' has no training image"):
        balanced(ROWS[:20], LABELS[:20], NAMES, "loss_weights", 0)
