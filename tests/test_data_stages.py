"""ingest, validate, split: pure functions on small real data."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.artifacts import Dataset, read_dataset, read_images, read_table, write_table
from pipeline.config import Ingest, Split, Validate
from pipeline.stages.ingest import BLOCK, ingest
from pipeline.stages.split import split
from pipeline.stages.validate import raise_critical, validate


def config(root: Path, **more: object) -> Ingest:
    return Ingest.model_validate({"source": "image_folder", "root": str(root), "image_size": 16, **more})


def test_ingest_writes_a_row_and_a_picture_per_image(tmp_path: Path, digit_folder: Path) -> None:
    """The array and the manifest are in the same order, and the numbers are those of the files."""
    found = ingest(config(digit_folder), tmp_path / "images.npy")
    images = read_images(tmp_path / "images.npy")
    assert images.shape == (120, 16, 16, 3)
    assert len(found.manifest) == 120
    first = found.manifest.iloc[0]
    assert (first["path"], first["width"], first["mode"], first["format"]) == ("digit-0/000.png", 8, "L", "PNG")
    assert first["bytes"] == (digit_folder / "digit-0" / "000.png").stat().st_size
    assert first["brightness"] == pytest.approx(images[0].mean() / 255, abs=1e-3)


def test_ingest_with_many_processes_gives_the_same_bytes(tmp_path: Path, digit_folder: Path) -> None:
    """Order and content do not depend on the number of processes."""
    root = tmp_path / "images"
    for copy in range(10):  # more than the few blocks that one process keeps for itself
        shutil.copytree(digit_folder, root / "train", dirs_exist_ok=True, copy_function=_numbered(copy))
    alone = ingest(config(root, workers=1), tmp_path / "alone.npy")
    many = ingest(config(root, workers=2), tmp_path / "many.npy")
    assert len(alone.manifest) == 1200 > 4 * BLOCK
    pd.testing.assert_frame_equal(alone.manifest, many.manifest)
    assert (tmp_path / "alone.npy").read_bytes() == (tmp_path / "many.npy").read_bytes()


def _numbered(copy: int) -> Callable[[str, str], str]:
    return lambda source, target: shutil.copy2(source, str(Path(target).parent / f"{copy}-{Path(target).name}"))


def test_what_cannot_be_read_is_set_aside_with_its_reason(tmp_path: Path, digit_folder: Path) -> None:
    """The good images keep their order; the bad ones are listed."""
    root = shutil.copytree(digit_folder, tmp_path / "images")
    (root / "digit-0" / "000.png").write_bytes(b"")
    (root / "digit-1" / "note.jpg").write_text("not an image")
    found = ingest(config(root), tmp_path / "images.npy")
    assert found.quarantine["path"].tolist() == ["digit-0/000.png", "digit-1/note.jpg"]
    assert len(read_images(tmp_path / "images.npy")) == len(found.manifest) == 119


def findings(manifest: pd.DataFrame, docs: Path, quarantine: int = 0, **thresholds: object) -> dict[str, bool]:
    aside = pd.DataFrame({"path": ["x"] * quarantine, "class": "a", "reason": "?"})
    result = validate(manifest, aside, Validate.model_validate(thresholds), docs)
    return {finding.check: finding.passed for finding in result}


@pytest.fixture(scope="module")
def manifest(digit_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return ingest(config(digit_folder), tmp_path_factory.mktemp("m") / "images.npy").manifest


def test_good_data_pass_and_leave_data_docs(manifest: pd.DataFrame, tmp_path: Path) -> None:
    """Every check passes on the clean digits; the HTML is there."""
    assert all(findings(manifest, tmp_path / "docs").values())
    assert (tmp_path / "docs" / "index.html").exists()


def test_each_fault_fails_its_own_check(manifest: pd.DataFrame, tmp_path: Path) -> None:
    """One fault each: the check that is about it fails, and no other."""
    last = manifest.index[-1]
    twice = pd.concat([manifest, manifest.tail(1).assign(path="copy.png")], ignore_index=True)
    faults = {
        "one label": twice.assign(**{"class": twice["class"].where(twice["path"] != "copy.png", "digit-0")}),
        "no leakage": twice.assign(source_split=["train"] * len(manifest) + ["test"]),
        "no duplicates": twice,
        "balance": manifest[(manifest["class"] != "digit-2") | (manifest.index > last - 10)],
        "side": manifest.assign(width=4, height=4),
        "aspect": manifest.assign(width=200),
        "brightness": manifest.assign(brightness=1.0),
        "contrast": manifest.assign(contrast=0.0),
    }
    for name, table in faults.items():
        failed = [check for check, passed in findings(table, tmp_path / name, max_imbalance=3.0).items() if not passed]
        assert name in failed
        assert set(failed) <= {name, "no duplicates"}, name  # a copy in two splits is a copy too


def test_a_critical_failure_names_expectation_count_and_paths(manifest: pd.DataFrame, tmp_path: Path) -> None:
    """A warning passes, a critical failure stops with a sentence."""
    result = validate(manifest, pd.DataFrame(columns=["path", "class", "reason"]), Validate(min_side=100), tmp_path)
    raise_critical(result)
    result = validate(
        manifest, pd.DataFrame(columns=["path", "class", "reason"]), Validate(min_images_per_class=41), tmp_path
    )
    with pytest.raises(ValueError, match=r"at least 41 images', at 120 of 120 images, first: digit-0/000\.png"):
        raise_critical(result)


def test_split_is_stratified_and_blind_to_order_and_names(manifest: pd.DataFrame) -> None:
    """Each class gets its shares; shuffled or renamed files stay where they were."""
    table = split(manifest, Split(validation=0.1, test=0.2))
    counts = pd.crosstab(table["class"], table["split"])
    assert counts["test"].tolist() == [8] * 3
    assert counts["val"].tolist() == [4] * 3
    renamed = manifest.sample(frac=1, random_state=1).assign(path=lambda t: "x" + t["path"])
    again = split(renamed, Split(validation=0.1, test=0.2)).sort_index()
    assert again["split"].tolist() == table["split"].tolist()
    assert split(manifest, Split(validation=0.1, test=0.2, seed=1))["split"].tolist() != table["split"].tolist()


def test_another_share_for_validation_leaves_the_test_split_alone(manifest: pd.DataFrame) -> None:
    """Otherwise a champion would be tested on what it was trained on."""
    small, large = (split(manifest, Split(validation=share, test=0.2))["split"] == "test" for share in (0.1, 0.3))
    assert small.tolist() == large.tolist()


def test_a_class_without_training_images_is_named(manifest: pd.DataFrame) -> None:
    """All readable images of a class may stand in the source's test split."""
    own = manifest.assign(source_split=np.where(manifest["class"] == "digit-2", "test", "train"))
    with pytest.raises(ValueError, match="class 'digit-2' has no image left to train on"):
        split(own, Split(validation=0.1, test=0.2))


def test_unreadable_files_are_the_ones_that_are_named(manifest: pd.DataFrame, tmp_path: Path) -> None:
    """Not the good images beside them."""
    aside = pd.DataFrame({"path": ["bad/1.jpg", "bad/2.jpg"], "class": "bad", "reason": "empty"})
    with pytest.raises(ValueError, match=r"at 2 of 122 images, first: bad/1\.jpg, bad/2\.jpg"):
        raise_critical(validate(manifest, aside, Validate(), tmp_path))


def test_images_and_splits_of_different_runs_are_not_mixed(dataset: Dataset, tmp_path: Path) -> None:
    """Shifted labels would look like a bad model."""
    np.save(tmp_path / "images.npy", np.zeros((7, 16, 16, 3), np.uint8))
    write_table(tmp_path / "splits.parquet", dataset.splits)
    with pytest.raises(ValueError, match=r"has 7 images and .* 120: run `dvc repro` first"):
        read_dataset(tmp_path / "images.npy", tmp_path / "splits.parquet")


def test_class_names_survive_csv(tmp_path: Path) -> None:
    """001 is not 1, and NA is a class."""
    write_table(tmp_path / "t.csv", pd.DataFrame({"class": ["001", "NA"], "recall": [0.5, 1.0]}))
    assert read_table(tmp_path / "t.csv").to_dict("list") == {"class": ["001", "NA"], "recall": [0.5, 1.0]}


def test_copies_of_a_file_stay_on_one_side(manifest: pd.DataFrame) -> None:
    """Otherwise the test split would hold training images."""
    doubled = pd.concat([manifest, manifest.assign(path="copy/" + manifest["path"])], ignore_index=True)
    table = split(doubled, Split(validation=0.2, test=0.2)).assign(sha256=doubled["sha256"])
    assert table.groupby("sha256")["split"].nunique().max() == 1


def test_the_sources_own_test_split_is_kept_unless_told(manifest: pd.DataFrame) -> None:
    """`keep_source_splits` decides; the validation split is cut from the rest."""
    own = manifest.assign(source_split=["test" if i % 4 == 0 else "train" for i in range(len(manifest))])
    kept = split(own, Split(validation=0.1, test=0.2))
    assert ((kept["split"] == "test") == (own["source_split"] == "test")).all()
    assert (kept["split"] == "val").sum() == 9
    recut = split(own, Split(validation=0.1, test=0.2, keep_source_splits=False))
    assert (recut["split"] == "test").sum() == 24


def test_a_class_too_small_to_split_is_named(manifest: pd.DataFrame) -> None:
    """Two images cannot be in three splits."""
    few = manifest.groupby("class").head(2)
    with pytest.raises(ValueError, match="class 'digit-0' has 2 distinct images, too few for train"):
        split(few, Split(validation=0.1, test=0.1))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_named(tmp_path: Path, digit_folder: Path) -> None:
    """Not an empty class: a class that may not be read."""
    root = shutil.copytree(digit_folder, tmp_path / "images")
    (root / "digit-0").chmod(0)
    try:
        with pytest.raises(ValueError, match="digit-0 cannot be read"):
            ingest(config(root), tmp_path / "images.npy")
    finally:
        (root / "digit-0").chmod(0o755)
