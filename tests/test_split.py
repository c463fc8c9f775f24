"""`split`: properties that hold for any data set (hypothesis), and the cases that people ask about."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifacts import read_table, write_table
from pipeline.config import Split
from pipeline.errors import UserError
from pipeline.inspection.duplicates import find
from pipeline.stages.split import split
from tests.conftest import NO_PAIRS

COUNTS = st.lists(st.integers(3, 60), min_size=2, max_size=5)
SHARES = st.sampled_from([(0.1, 0.1), (0.15, 0.15), (0.2, 0.3), (0.1, 0.0001)])


def manifest_of(counts: list[int], start: int = 0) -> pd.DataFrame:
    """`counts[i]` images of class i, numbered from `start`; all contents differ."""
    names = [(f"class-{label}", number) for label, count in enumerate(counts) for number in range(start, start + count)]
    return pd.DataFrame({
        "path": [f"{label}/{number:04d}.png" for label, number in names],
        "class": [label for label, _ in names],
        "source_split": "",
        "group": "",
        "sha256": [f"{label}-{number}" for label, number in names],
    })  # fmt: skip


def pairs_of(ties: list[tuple[int, int]]) -> pd.DataFrame:
    first, second = zip(*(sorted(tie) for tie in ties), strict=True)
    return pd.DataFrame({"first": first, "second": second, "exact": False})


def of_groups(sizes_by_class: list[list[int]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A manifest of near-duplicate groups of these sizes, and their pairs; size 1 is a single image."""
    sizes = np.concatenate([np.array(of_class, dtype=int) for of_class in sizes_by_class])
    pairs = pd.DataFrame({"first": np.repeat(np.cumsum(sizes) - sizes, sizes), "second": np.arange(sizes.sum())})
    pairs = pairs[pairs["first"] != pairs["second"]].assign(exact=False)
    return manifest_of([sum(sizes) for sizes in sizes_by_class]), pairs


@given(COUNTS, SHARES, st.integers(0, 5))
@settings(deadline=None, max_examples=60)
def test_every_class_has_its_shares_within_one_image(counts: list[int], shares: tuple[float, float], seed: int) -> None:
    validation, test = shares
    table = split(manifest_of(counts), NO_PAIRS, None, Split(validation=validation, test=test, seed=seed))
    found, count = pd.crosstab(table["class"], table["split"]), np.array(counts)
    assert (abs(found["test"] - np.maximum(1, test * count)) <= 1).all()
    assert (abs(found["val"] - np.maximum(1, validation * count)) <= 1).all()
    assert (found["train"] >= 1).all()


@given(COUNTS, st.data())
@settings(deadline=None, max_examples=60)
def test_groups_are_never_cut(counts: list[int], data: st.DataObject) -> None:
    manifest = manifest_of([count + 30 for count in counts])
    rows = st.integers(0, len(manifest) - 1)
    ties = data.draw(st.lists(st.tuples(rows, rows).filter(lambda tie: tie[0] != tie[1]), min_size=1, max_size=25))
    manifest.loc[data.draw(st.lists(rows, max_size=12)), "group"] = "p1"
    manifest.loc[data.draw(st.lists(rows, max_size=12)), "group"] = "p2"
    table = split(manifest, pairs_of(ties), None, Split(validation=0.1, test=0.2))
    assert all(table["split"].iloc[a] == table["split"].iloc[b] for a, b in ties)
    for _, members in table.groupby("group"):
        assert members["split"].nunique() == 1


@given(COUNTS, st.lists(st.integers(9, 60), min_size=2, max_size=5), st.data())
@settings(deadline=None, max_examples=60)
def test_growth_moves_no_old_image(counts: list[int], more: list[int], data: st.DataObject) -> None:
    """New images, new classes, near-duplicates of old ones, one of two old ones too: it is left out then."""
    old = manifest_of(counts)
    config = Split(validation=0.1, test=0.2)
    before = split(old, NO_PAIRS, None, config)
    grown = pd.concat([manifest_of(more, start=1000), old], ignore_index=True)
    rows = st.integers(0, len(grown) - 1)
    new_rows = st.integers(0, sum(more) - 1)
    ties = data.draw(st.lists(st.tuples(new_rows, rows).filter(lambda tie: tie[0] != tie[1]), max_size=6))
    after = split(grown, pairs_of(ties) if ties else NO_PAIRS, before, config)
    assert after["split"].iloc[sum(more) :].tolist() == before["split"].tolist()
    sides = after["split"].to_numpy()
    assert all(sides[a] == sides[b] or "left_out" in (sides[a], sides[b]) for a, b in ties)
    assert (after[sides != "left_out"].groupby("group")["split"].nunique() == 1).all()
    if not ties:
        found = pd.crosstab(after["class"], after["split"])
        assert (abs(found["test"] - 0.2 * found.sum(axis=1)) <= 2).all()
        assert (abs(found["val"] - (0.1 * found.sum(axis=1)).clip(lower=1)) <= 2).all()


@given(st.lists(st.integers(12, 60), min_size=2, max_size=4), st.integers(2, 10))
@settings(deadline=None, max_examples=40)
def test_folds_are_stratified_and_disjoint(counts: list[int], folds: int) -> None:
    asked = [Split(test=0.1, folds=folds, fold=fold) for fold in range(folds)]
    tables = [split(manifest_of(counts), NO_PAIRS, None, config) for config in asked]
    sides = np.array([table["split"] for table in tables])
    assert ((sides == "val").sum(axis=0) == (sides[0] != "test")).all()
    assert ((sides == "test") == (sides[0] == "test")).all()
    for label, count in enumerate(counts):
        fold = tables[0]["fold"][tables[0]["class"] == f"class-{label}"].tolist()
        assert all(abs(fold.count(number) - 0.9 * count / folds) <= 1 for number in range(folds))


def test_neither_order_nor_names_matter_but_the_seed_does() -> None:
    manifest, config = manifest_of([80, 80]), Split(validation=0.1, test=0.2)
    manifest["group"] = [f"p{i % 80 // 5}" if i % 80 < 40 and i % 9 else "" for i in range(160)]
    table = split(manifest, NO_PAIRS, None, config)
    shuffled = manifest.sample(frac=1, random_state=1).assign(path=lambda t: "x" + t["path"])
    again = split(shuffled.reset_index(drop=True), NO_PAIRS, None, config)
    assert again.set_index("sha256")["split"].to_dict() == table.set_index("sha256")["split"].to_dict()
    assert not split(manifest, NO_PAIRS, None, Split(validation=0.1, test=0.2, seed=1))["split"].equals(table["split"])


def test_another_share_for_validation_leaves_the_test_split_alone() -> None:
    """Otherwise a champion would be tested on what it was trained on."""
    manifest, pairs = of_groups([[1] * 20 + [2] * 10 + [7, 9, 12], [3] * 20])
    small, large = (split(manifest, pairs, None, Split(validation=share, test=0.2)) for share in (0.1, 0.3))
    assert (small["split"] == "test").equals(large["split"] == "test")


def test_an_earlier_split_counts_as_long_as_the_rules_are_the_same(tmp_path: Path) -> None:
    """It survives the file. Another seed, a lower validate.min_similarity or a first `group` deals again."""
    manifest = manifest_of([40, 40]).assign(phash=np.arange(80, dtype=np.uint64))
    pixels = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 3), dtype=np.uint8)

    def written(table: pd.DataFrame) -> pd.DataFrame:
        write_table(tmp_path / "table.parquet", table)
        return read_table(tmp_path / "table.parquet")

    strict, lax = (written(find(manifest, pixels, 10, similarity)) for similarity in (0.95, 0.8))
    usual = split(manifest, strict, None, Split())
    assert split(manifest, strict, written(usual), Split()).equals(usual)
    # The sides of another seed, as if by these rules: whether they are heeded can be seen
    moved = written(usual.assign(split=split(manifest, strict, None, Split(seed=1))["split"]))
    assert split(manifest, strict, moved, Split())["split"].equals(moved["split"])
    named = manifest.assign(group=["a", *[""] * 79])
    for now, pairs, config in ((manifest, lax, Split()), (named, strict, Split()), (manifest, strict, Split(seed=2))):
        assert split(now, pairs, moved, config)["split"].equals(split(now, pairs, None, config)["split"])


def test_the_sources_own_test_split_is_kept_unless_told() -> None:
    manifest = manifest_of([40, 40, 40])
    own = manifest.assign(source_split=["test" if i % 4 == 0 else "train" for i in range(120)])
    kept = split(own, NO_PAIRS, None, Split(validation=0.1, test=0.2))
    assert ((kept["split"] == "test") == (own["source_split"] == "test")).all()
    assert (kept["split"] == "val").sum() == 9
    recut = split(own, NO_PAIRS, None, Split(validation=0.1, test=0.2, keep_source_splits=False))
    assert (recut["split"] == "test").sum() == 24


def test_folds_of_large_groups_are_as_even_as_these_allow() -> None:
    manifest = manifest_of([300, 300]).assign(group=[f"p{i // 20}" for i in range(600)])
    sizes = split(manifest, NO_PAIRS, None, Split(folds=5))["fold"].value_counts().drop(-1)
    assert len(sizes) == 5 and sizes.max() - sizes.min() <= 40


def test_a_side_whose_images_are_gone_is_named() -> None:
    """Somebody has deleted all test images of a class: it is not evaluated on the others without a word."""
    manifest = manifest_of([20, 20])
    before = split(manifest, NO_PAIRS, None, Split())
    left = manifest[(before["split"] != "test") | (before["class"] == manifest["class"].iloc[0])].reset_index(drop=True)
    with pytest.raises(UserError, match=r"no image left for test.*splits\.parquet"):
        split(left, NO_PAIRS, before, Split())
    assert split(left, NO_PAIRS, None, Split())["split"].nunique() == 3


def test_what_is_like_an_image_of_the_sources_test_split_is_left_out() -> None:
    """The official test split is not touched; its near-duplicates teach nobody, and theirs neither."""
    manifest = manifest_of([40, 40])
    manifest["source_split"] = ["test" if i % 4 == 0 else "train" for i in range(80)]
    table = split(manifest, pairs_of([(1, 4), (1, 2), (5, 6)]), None, Split(validation=0.1))
    assert table["split"].iloc[[4, 1, 2]].tolist() == ["test", "left_out", "left_out"]
    assert table["split"].iloc[5] == table["split"].iloc[6] != "left_out"
    assert table["alike"].iloc[[4, 1, 2]].nunique() == 1 != table["group"].iloc[[4, 1]].nunique()


@pytest.mark.parametrize(("folds", "sides"), [(0, ["test", "val", "train"]), (3, ["test", "1"]), (3, ["0", "1", "2"])])
def test_old_images_of_several_sides_that_are_one_group_now_do_not_leak(folds: int, sides: list[str]) -> None:
    """Somebody gave them one group: the side that is named first keeps its image, the others are left out."""
    old, config = manifest_of([40, 40]).assign(group=["a", "a", *[""] * 78]), Split(folds=folds)
    before = split(old, NO_PAIRS, None, config)
    side = before["split"].where(before["fold"] < 0, before["fold"].astype(str))
    rows = [int(np.flatnonzero(side == name)[-1]) for name in sides]
    now = old.copy()
    now.loc[rows, "group"] = "b"
    after = split(now, NO_PAIRS, before, config)
    assert after["split"].iloc[rows].tolist() == [before["split"].iloc[rows[0]], *["left_out"] * (len(rows) - 1)]
    assert after["split"].drop(rows).equals(before["split"].drop(rows))


def test_a_pattern_on_the_path_makes_groups() -> None:
    manifest = manifest_of([60, 60])
    manifest["path"] = [f"class-{i // 60}/video{i % 60 // 3:02d}_{i % 3}.png" for i in range(120)]
    table = split(manifest, NO_PAIRS, None, Split(validation=0.1, test=0.2, group_pattern=r"(class-\d/video\d+)_"))
    assert table.groupby(manifest["path"].str[:15])["split"].nunique().max() == 1
    assert 22 <= (table["split"] == "test").sum() <= 26
    with pytest.raises(UserError, match=r"split\.group_pattern '\(clip\)' .* class-0/video00_0"):
        split(manifest, NO_PAIRS, None, Split(group_pattern="(clip)"))


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (manifest_of([40, 2]), "has 2 "),
        (manifest_of([40, 50]).assign(group=[""] * 40 + ["p"] * 50), "has 1 "),
        (manifest_of([20, 20]).assign(source_split=[""] * 20 + ["test"] * 20), ".* train"),
    ],
)
def test_a_class_without_enough_images_is_named(manifest: pd.DataFrame, said: str) -> None:
    with pytest.raises(UserError, match=f"'class-1' {said}"):
        split(manifest, NO_PAIRS, None, Split())
