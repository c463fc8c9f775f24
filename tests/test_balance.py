"""Each way of balancing, in numbers: 4 images of a cat, 16 of a dog, 20 of an eel."""

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
    return list(index.groupby("class")[column].agg(how))


def test_each_way_does_one_thing() -> None:
    """`none` does nothing; the sampler gives each class the same chance at mean weight 1; the loss weighs a class as it
    is rare, with a mean over the images of 1; the adjustment is the log of the shares."""
    plain, sampled, weighed, adjusted = (of(mode) for mode in ("none", "sampler", "loss_weights", "logit_adjustment"))
    assert plain.sample_index.to_dict("list") == {
        "row": ROWS.tolist(), "class": [NAMES[label] for label in LABELS], "weight": [1.0] * 40,
    }  # fmt: skip
    assert by_class(sampled.sample_index, "weight", "sum") == pytest.approx([40 / 3] * 3)
    for other in (weighed, adjusted):
        pd.testing.assert_frame_equal(other.sample_index, plain.sample_index)
    assert np.array(weighed.class_weights) * SHARES == pytest.approx([1 / 3] * 3)
    assert adjusted.logit_offsets == pytest.approx(np.log(SHARES))
    assert plain.class_weights == sampled.class_weights == adjusted.class_weights == [1, 1, 1]
    assert plain.logit_offsets == sampled.logit_offsets == weighed.logit_offsets == [0, 0, 0]


def test_duplicates_list_rare_classes_until_they_are_as_many_as_the_largest() -> None:
    """Every image of a class the same number of times, give or take one, and the seed says which."""
    doubled = of("duplicates").sample_index
    times = doubled["row"].value_counts()
    assert sorted(times[ROWS[LABELS == 0]]) == [5] * 4
    assert sorted(times[ROWS[LABELS == 1]]) == [1] * 12 + [2] * 4
    assert sorted(times[ROWS[LABELS == 2]]) == [1] * 20
    assert (doubled["weight"] == 1).all()
    pd.testing.assert_frame_equal(doubled, of("duplicates").sample_index)
    assert doubled["row"].tolist() != of("duplicates", seed=1).sample_index["row"].tolist()


@pytest.mark.parametrize(("mode", "limit", "counts", "distinct"), [
    ("none", 20, [2, 8, 10], [2, 8, 10]), ("sampler", 2, [1, 1, 1], [1, 1, 1]),
    ("duplicates", 30, [10, 10, 10], [4, 10, 10]), ("duplicates", 6, [2, 2, 2], [2, 2, 2]),
])  # fmt: skip
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
