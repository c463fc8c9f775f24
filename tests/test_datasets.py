"""Sources: what is found, and what is said when it is not."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets import find
from tests.conftest import write_digits


def test_digits_are_all_there() -> None:
    """1,797 real scans in 10 classes, without a file or a network."""
    entries = find("digits", Path("nowhere"))
    assert len(entries) == 1797
    assert {entry.label for entry in entries} == set("0123456789")
    pixels = entries[0].content
    assert isinstance(pixels, np.ndarray)
    assert pixels.shape == (8, 8, 3)
    assert pixels.max() > 200


def test_a_folder_per_class_is_found(digit_folder: Path) -> None:
    """Paths are relative and sorted; no split is claimed."""
    entries = find("image_folder", digit_folder)
    assert len(entries) == 120
    assert entries[0].path == "digit-0/000.png"
    assert {entry.split for entry in entries} == {""}


def test_train_val_and_test_folders_are_splits(tmp_path: Path, digit_folder: Path) -> None:
    """`valid` means val; litter and hidden files are passed over; folders in folders are searched."""
    for split in ("train", "valid", "test"):
        shutil.copytree(digit_folder, tmp_path / split)
    (tmp_path / "train" / "digit-0" / "Thumbs.db").write_text("x")
    (tmp_path / "train" / "digit-0" / ".hidden").write_text("x")
    (tmp_path / "train" / "digit-0" / "more").mkdir()
    (tmp_path / "train" / "digit-0" / "000.png").rename(tmp_path / "train" / "digit-0" / "more" / "000.png")
    entries = find("image_folder", tmp_path)
    assert [sum(e.split == s for e in entries) for s in ("train", "val", "test")] == [120, 120, 120]
    assert "train/digit-0/more/000.png" in {e.path for e in entries}


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    """Trains and cars: without folders in it, `train` is a class."""
    root = write_digits(tmp_path / "images", classes=2, per_class=3)
    (root / "digit-0").rename(root / "train")
    assert {(e.label, e.split) for e in find("image_folder", root)} == {("train", ""), ("digit-1", "")}


def test_a_name_that_is_no_text_is_named(tmp_path: Path) -> None:
    """A file name in an old encoding could not be written to the manifest."""
    root = write_digits(tmp_path / "images", classes=2, per_class=3)
    Path(os.fsdecode(os.fsencode(root / "digit-0") + b"/caf\xe9.png")).write_bytes(b"x")
    with pytest.raises(ValueError, match=r"caf\\xe9\.png' has a name that is not UTF-8: rename it"):
        find("image_folder", root)


def test_a_link_that_loops_ends(tmp_path: Path) -> None:
    """A link to a parent folder is not followed."""
    root = write_digits(tmp_path / "images", classes=2, per_class=3)
    (root / "digit-0" / "loop").symlink_to(root)
    assert len(find("image_folder", root)) == 6


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("mv images moved", "is not a folder"),
        ("rm -r images/digit-0 images/digit-1", "holds no sub-folder"),
        ("mkdir images/empty", "empty is an empty class"),
        ("rm -r images/digit-1", "at least 2 classes"),
        ("mkdir images/train && cp -r images/digit-1 images/train", "digit-0 stands beside train/"),
        ("mkdir images/val images/test && mv images/digit-0 images/val && mv images/digit-1 images/test", "no train/"),
    ],
)
def test_a_folder_that_cannot_serve_is_named(tmp_path: Path, damage: str, said: str) -> None:
    """Missing, empty, one class, half a layout: each names the folder and the mend."""
    root = write_digits(tmp_path / "images", classes=2, per_class=3)
    subprocess.run(damage, shell=True, cwd=tmp_path, check=True)
    with pytest.raises(ValueError, match=said):
        find("image_folder", root)


def test_a_test_class_without_training_images_is_named(tmp_path: Path, digit_folder: Path) -> None:
    """A class that stands in test/ alone could never be learned."""
    shutil.copytree(digit_folder, tmp_path / "train")
    shutil.copytree(digit_folder / "digit-0", tmp_path / "test" / "zero")
    with pytest.raises(ValueError, match="class 'zero' of test/ has no folder in train/"):
        find("image_folder", tmp_path)


def test_cifar10_without_network_or_archive_says_what_to_do(tmp_path: Path) -> None:
    """The sentence names the archive, its checksum and where to put it."""
    with pytest.raises(ValueError, match=r"cannot be downloaded .* put cifar-10-python\.tar\.gz \(MD5 c58f"):
        find("cifar10", tmp_path)
