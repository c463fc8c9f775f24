"""`split` deals groups so that every side looks like the whole."""

import operator

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifacts import SPLITS
from pipeline.config import Split
from pipeline.stages.split import groups, split
from tests.conftest import NO_PAIRS
from tests.test_split import SHARES, manifest_of, of_groups

TIED, SINGLE = st.lists(st.integers(2, 6), max_size=25), st.integers(40, 120).map(lambda singles: [1] * singles)
GROUPS = st.lists(st.builds(operator.add, TIED, SINGLE), min_size=2, max_size=4)


@given(GROUPS, SHARES, st.integers(0, 1000))
@settings(deadline=None, max_examples=25)
def test_each_split_looks_like_the_whole(sizes: list[list[int]], shares: tuple[float, float], start: int) -> None:
    """Class shares within an image; sizes, sources and a measure within six standard errors over ten seeds."""
    manifest, pairs = of_groups(sizes)
    size = np.concatenate([np.repeat(of_class, of_class) for of_class in sizes])
    draw = np.random.default_rng(start)
    group = groups(manifest, pairs, "")
    traits = {f"groups of {n}": size == n for n in set(size)} | {
        "source": (draw.random(len(size)) < 0.3)[group],
        "brightness": size + draw.normal(0, 1, len(size))[group],
    }
    wanted = dict(zip(("val", "test"), shares, strict=True))
    asked = [Split(validation=shares[0], test=shares[1], seed=start + i) for i in range(10)]
    tables = [split(manifest, pairs, None, config) for config in asked]
    for table in tables:
        for side, share in wanted.items():
            counts = table["class"][table["split"] == side].value_counts()
            for label, of_class in enumerate(sizes):
                assert abs(counts[f"class-{label}"] - max(1, share * sum(of_class))) <= 1
    for name, values in traits.items():
        deviations = np.bincount(group, weights=values - values.mean())
        for side in SPLITS:
            there = np.array([table["split"] == side for table in tables])
            share = there.mean()
            error = np.sqrt(share * (1 - share) * (deviations**2).sum() / len(tables))
            assert abs((values - values.mean()) @ there.mean(axis=0)) <= 6 * error + 0.5, (name, side)


@given(st.lists(st.lists(st.integers(1, 40), min_size=3, max_size=8), min_size=1, max_size=4), st.integers(0, 5))
@settings(deadline=None, max_examples=60)
def test_every_class_is_on_every_side_however_large_its_groups(sizes: list[list[int]], seed: int) -> None:
    table = split(*of_groups(sizes), None, Split(seed=seed))
    assert (pd.crosstab(table["class"], table["split"]) > 0).all(axis=None)
    assert set(table["split"]) == set(SPLITS)


def test_patients_with_images_of_all_classes_are_dealt_fairly() -> None:
    draw = np.random.default_rng(0)
    counts = draw.poisson(3, (8, 150))
    patients = [f"p{patient}" for of_class in counts for patient in np.repeat(np.arange(150), of_class)]
    manifest = manifest_of(counts.sum(axis=1).tolist()).assign(group=patients)
    table = split(manifest, NO_PAIRS, None, Split(validation=0.1, test=0.2))
    shares = pd.crosstab(table["class"], table["split"], normalize="index")
    assert np.allclose(shares[["val", "test"]], [0.1, 0.2], atol=0.01)


@pytest.mark.parametrize(("singles", "pairs_each"), [(8, 1), (4, 8), (6, 6), (20, 1)])
def test_twins_of_small_classes_come_to_every_split(singles: int, pairs_each: int) -> None:
    """Over ten seeds and 20 classes, each split has the share of twins that all have, within six standard errors."""
    manifest, pairs = of_groups([[1] * singles + [2] * pairs_each] * 20)
    twin = np.bincount(groups(manifest, pairs, ""))[groups(manifest, pairs, "")] == 2
    tables = [split(manifest, pairs, None, Split(validation=0.1, test=0.2, seed=seed)) for seed in range(10)]
    for name in SPLITS:
        there = np.concatenate([twin[table["split"] == name] for table in tables])
        error = np.sqrt(2 * twin.mean() * (1 - twin.mean()) / len(there))  # twins come in twos
        assert there.mean() == pytest.approx(twin.mean(), abs=6 * error)
