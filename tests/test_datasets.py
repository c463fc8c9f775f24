"""Folders of images and the embedded digits: what is found, and what is said when it is not."""

import os
import shutil
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from pipeline.datasets import Entry, find
from pipeline.datasets._folders import LOOP, listing
from pipeline.errors import UserError
from tests.conftest import touch, write_digits

# Splits, by names that differ only in the word for it
DISGUISED = ["TrainingSet ValidationSet", "x_test x_train", "testA trainA", "test trainval", "dev holdout"]
DISGUISED += ["evaluation-data training-data", "cats_test train_cats", "testx trainx"]


def folder_entries(root: Path) -> list[Entry]:
    return find("image_folder", root, Path("unused")).entries


def notes(root: Path) -> list[str]:
    return find("image_folder", root, Path("unused")).notes


def faults(root: Path) -> dict[str, str]:
    """Path to fault, of the entries that have one."""
    return {entry.path: entry.fault for entry in folder_entries(root) if entry.fault}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of three scans, to be damaged."""
    return write_digits(tmp_path / "images", classes=2, per_class=3)


def test_digits_are_all_there() -> None:
    """1,797 real scans in 10 classes, without a file or a network."""
    entries = find("digits", Path("nowhere"), Path("unused")).entries
    assert len(entries) == 1797 and {entry.label for entry in entries} == set("0123456789")
    pixels = entries[0].content
    assert isinstance(pixels, np.ndarray) and pixels.shape == (8, 8, 3) and pixels.max() > 200


def test_a_folder_per_class_is_found(digit_folder: Path) -> None:
    """Paths are relative and sorted; no split is claimed, nothing is at fault, passed over or doubtful."""
    entries = folder_entries(digit_folder)
    assert entries[0] == Entry("digit-0/000.png", "digit-0", "", digit_folder / "digit-0" / "000.png")
    assert [entry.path for entry in entries] == [f"digit-{d}/{n:03}.png" for d in range(3) for n in range(40)]
    assert {(entry.split, entry.fault) for entry in entries} == {("", "")} and notes(digit_folder) == []


def test_train_val_and_test_folders_are_splits(tmp_path: Path) -> None:
    """`valid` means val; folders in folders are searched."""
    files = ["test/a/1.jpg", "train/a/more/1.jpg", "train/b/1.jpg", "valid/b/1.jpg"]
    found = [(entry.path, entry.split) for entry in folder_entries(touch(tmp_path, *files))]
    assert found == list(zip(files, ["test", "train", "train", "val"], strict=True))


def test_litter_is_counted_by_kind_and_passed_over(root: Path) -> None:
    """What file managers, servers and labelling tools leave, at each level, is neither image nor class nor fault."""
    files = "@eaDir/a/THUMB_M.jpg ehthumbs.db .DS_Store __MACOSX/x.png ._x.png x.xml x.TXT README x.MOV .hidden/a.png"
    kinds = {"@eaDir", "ehthumbs.db", ".DS_Store", "__MACOSX", "._*", ".xml", ".txt", "readme", ".mov", "hidden"}
    for folder in ("", "digit-0", "digit-0/more"):
        touch(root / folder, *files.split(), "Icon\r", "Network Trash Folder/a.png", "x.jpg.part")
    before = {entry.path for entry in folder_entries(root)}
    touch(root / "digit-0", "more/good.png", "unknown.xyz")
    assert {entry.path for entry in folder_entries(root)} == {*before, "digit-0/more/good.png", "digit-0/unknown.xyz"}
    (note,) = notes(root)
    kinds |= {"Icon", "Network Trash Folder", ".part"}
    assert len(before) == 6 and set(note.removeprefix("passed over: ").split(", ")) == {f"3 {kind}" for kind in kinds}


def test_a_class_may_be_called_like_a_sidecar(root: Path) -> None:
    """Extensions tell of files; a folder, or a link to one, is a class whatever its name ends in."""
    (root / "digit-0").rename(root / "a.txt")
    (root / "b.xml").symlink_to("digit-1")
    assert {entry.label for entry in folder_entries(root)} == {"a.txt", "b.xml", "digit-1"}
    assert notes(root) == []


def test_a_name_that_is_no_text_is_a_fault(root: Path) -> None:
    """A file or class in an old encoding could not be written to the manifest: it is named in a readable way."""
    touch(root, os.fsdecode(b"digit-0/caf\xe9.png"), os.fsdecode(b"th\xe9/a.png"))
    said = "its name is not UTF-8: rename it"
    assert faults(root) == {"digit-0/caf\\xe9.png": said, "th\\xe9": said}


def test_linked_folders_are_read(root: Path, digit_folder: Path) -> None:
    """A class, and a folder in a class, may lie elsewhere; the paths are those of the links."""
    (root / "linked").symlink_to(digit_folder / "digit-2")
    (root / "digit-0" / "more").symlink_to(digit_folder / "digit-0")
    paths = {entry.path for entry in folder_entries(root)}
    assert len(paths) == 6 + 40 + 40
    assert {"linked/000.png", "digit-0/more/000.png"} <= paths
    assert not faults(root)


@pytest.mark.parametrize("link", ["digit-0/back", "class"])
@pytest.mark.parametrize("target", ["..", ".", "digit-0"])
def test_a_link_that_loops_is_a_fault(root: Path, link: str, target: str) -> None:
    """To what holds the link: the class, the root, a folder above the root. A class link to a class is none."""
    (root / link).symlink_to((root / target).resolve())
    if (link, target) == ("class", "digit-0"):
        assert not faults(root)
    else:
        assert faults(root) == {link: LOOP} and len(folder_entries(root)) == 7


def test_links_to_each_other_end(root: Path, tmp_path: Path) -> None:
    """Two folders outside that link to each other: each is read once."""
    for name, other in (("a", "b"), ("b", "a")):
        shutil.copytree(root / "digit-0", tmp_path / name)
        (tmp_path / name / "other").symlink_to(tmp_path / other)
    (root / "linked").symlink_to(tmp_path / "a")
    assert faults(root) == {"linked/other/other": LOOP}


def test_a_folder_is_read_once_a_class(root: Path) -> None:
    """The real folder is read, whatever the order of names; the links to it are at fault."""
    touch(root, "digit-0/real/x.png")
    for name in ("a", "z"):
        (root / "digit-0" / name).symlink_to("real")
    assert set(faults(root)) == {"digit-0/a", "digit-0/z"} and len(folder_entries(root)) == 9


def test_splits_may_loop_too(tmp_path: Path) -> None:
    """A link back stands for a split, or for a class of train/: neither swallows the rest."""
    touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg")
    (tmp_path / "val").symlink_to(tmp_path)
    (tmp_path / "train" / "all").symlink_to(tmp_path / "train")
    assert faults(tmp_path) == {"val": LOOP, "train/all": LOOP} and len(folder_entries(tmp_path)) == 4


def test_links_to_nothing_do_not_stop(root: Path) -> None:
    """A file's is a plain entry, as reading it says why; in the place of a class it is a fault."""
    (root / "gone").symlink_to("nowhere")
    for name in ("gone.png", "self.png"):
        (root / "digit-0" / name).symlink_to("self.png")
    assert faults(root) == {"gone": "a link to nothing that is there"}
    assert {"digit-0/gone.png", "digit-0/self.png"} <= {entry.path for entry in folder_entries(root)}


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its images would be missing in silence."""
    monkeypatch.setattr(os, "scandir", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(UserError, match=f"{tmp_path} .*Permission denied"):
        listing(tmp_path)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ("", "images is not a folder"),
        ("images/1.jpg images/2.jpg", "images/CLASS/"),
        ("images/a/1.jpg images/b/.hidden", r"found \['a'\] \(b/: "),
        ("images/up/photos/a/1.jpg images/up/photos/b/1.jpg images/up/x.png", "images/up alone"),
        ("images/train/a/1.jpg images/train/b/1.jpg images/val/a/1.jpg images/valid/a/1.jpg", "val, valid.* keep one"),
        ("images/train/a/1.jpg images/c/1.jpg", "images/c stands beside train/"),
        ("images/val/a/1.jpg images/test/b/1.jpg", "no train/"),
        ("images/train/a/1.jpg images/train/b/1.jpg images/test/c/1.jpg", "class 'c' of test/"),
        ("images/train/Cat/1.jpg images/train/b/1.jpg images/val/cat/1.jpg", "'cat' of val/.*Cat"),
        ("images/train/K\u00e4fer/1 images/train/b/1.jpg images/val/Ka\u0308fer/1", "Ka\u0308fer.*val/.*K\u00e4fer"),
    ],
)
def test_a_folder_that_cannot_serve_is_named(tmp_path: Path, files: str, said: str) -> None:
    """Missing, flat, one class, half a layout, classes that are never learned: each names the folder and the fix."""
    with pytest.raises(UserError, match=said):
        folder_entries(touch(tmp_path, *files.split()) / "images")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ("train/1.jpg test/2.jpg", r"test, train.*train/CLASS/"),
        ("train_images/1.jpg test_images/2.jpg train.csv", "test_images, train_images"),
        ("train_images/cat/1.jpg train_images/dog/1.jpg test_images/cat/1.jpg", "train_images.*their sub-folders"),
        ("images/cat/1.jpg images/dog/1.jpg masks/cat/1.png masks/dog/1.png", "cat, dog.*/images alone"),
        ("train/images/1.jpg train/labels/1.txt valid/images/2.jpg valid/labels/2.txt", "images, labels"),
        ("cat/train/1.jpg cat/test/2.jpg dog/train/1.jpg dog/test/2.jpg", "sub-folders.*test, train.*train/CLASS/"),
        ("seg_train/seg_train/cat/1.jpg seg_test/seg_test/cat/1.jpg seg_pred/1.jpg", "seg_test, seg_train,"),
        ("train_cats/1.jpg train_dogs/1.jpg test_cats/2.jpg test_dogs/2.jpg", "test_cats, test_dogs, train_cats"),
        *(
            (f"{one}/cat/1.jpg {one}/dog/1.jpg {two}/cat/1.jpg {two}/dog/1.jpg", f"{one}.*{two}.*cat, dog")
            for one, two in (pair.split() for pair in DISGUISED)
        ),
        ("train/images/cat/1.jpg train/images/dog/1.jpg val/images/cat/1.jpg", r"images.*cat, dog.*train/CLASS/"),
        ("cat/images/1.jpg cat/masks/1.png dog/images/1.jpg dog/masks/1.png", "masks"),
        ("test+/1.jpg test-/1.jpg", "test+"),
        ("Mask/1.jpg Masks/1.jpg", "Mask, Masks"),
        ("photos/a/1.jpg photos/b/1.jpg docs/a.pdf src/__pycache__/x.pyc", "/photos alone"),
    ],
)
def test_splits_and_parts_of_a_data_set_are_no_classes(tmp_path: Path, files: str, said: str) -> None:
    """Kaggle, COCO, YOLO, masks: it stops, as the folders' names would be learned, and says what was seen."""
    with pytest.raises(UserError, match=said):
        folder_entries(touch(tmp_path, *files.split()))


@pytest.mark.parametrize(
    "files",
    [
        "mask/1.jpg no_mask/2.jpg",
        "labels/1.jpg masks/2.jpg pens/3.jpg",
        "cat/day/1.jpg dog/night/1.jpg",
        "test tube/1.jpg flask/2.jpg",
        "training shoes/1.jpg boots/2.jpg test/3.jpg",
        "valley/1.jpg train/2.jpg valve/3.jpg",
        "invalid/1.jpg valid/2.jpg",
        "with_mask/1.jpg without_mask/2.jpg",
        *(f"train/{name}/1.jpg train/test/1.jpg val/test/2.jpg" for name in ("train", "images", "train_data")),
    ],
)
def test_names_that_may_be_meant_are_classes(tmp_path: Path, files: str) -> None:
    """People with and without a mask, goods of a shop: nothing is said."""
    assert notes(touch(tmp_path, *files.split())) == []


def test_folders_without_images_are_noted(root: Path) -> None:
    """They may be classes that are empty, or code: faults, whose path ends with a slash, and one sentence says so."""
    (root / "empty").mkdir()
    (note, _) = notes(touch(root, "litter/@eaDir/a.jpg", "src/x.py", "__pycache__/x.pyc", "digit-0/sub/x.py"))
    assert "empty, litter, src" in note and len(folder_entries(root)) == 9
    assert faults(root) == dict.fromkeys(["empty/", "litter/", "src/"], "the class folder holds no image")


@pytest.mark.parametrize("split", ["", "train/"])
@pytest.mark.parametrize("places", ["siteA/cat siteA/dog siteB/cat siteB/dog", "siteA/cat siteA/dog siteB/car"])
def test_sub_folders_everywhere_are_noted(tmp_path: Path, split: str, places: str) -> None:
    """Sites with cats and dogs, or cats and dogs by day and night: a person knows, so all ways are told."""
    (note,) = notes(touch(tmp_path, *(f"{split}{place}/1.jpg" for place in places.split())))
    assert all(said in note for said in ("siteA, siteB", "cat, dog", "not used", "split.group_pattern"))
    touch(tmp_path, f"{split}siteC/1.jpg")  # a class without sub-folders: the others' are no classes
    assert notes(tmp_path) == []


def test_images_beside_class_folders_are_set_aside(tmp_path: Path) -> None:
    """Nobody knows their class; other files there are none of our business."""
    files = [f"{split}/{label}/1.png" for split in ("Training", "Testing") for label in ("a", "b")]
    touch(tmp_path, *files, "Training/loose.png", "loose.png", "README.md")
    loose = [(entry.path, entry.label) for entry in folder_entries(tmp_path) if entry.fault]
    assert loose == [("Training/loose.png", ""), ("loose.png", "")]
