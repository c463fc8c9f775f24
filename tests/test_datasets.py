"""Folders of images and the embedded digits: what is found, and what is said when it is not."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets import Entry, find
from tests.conftest import touch, write_digits

NOWHERE = Path("no scratch folder is needed")


def folder_entries(root: Path) -> list[Entry]:
    return find("image_folder", root, NOWHERE).entries


def notes(root: Path) -> list[str]:
    return find("image_folder", root, NOWHERE).notes


def faults(root: Path) -> dict[str, str]:
    """Path to fault, of the entries that have one."""
    return {entry.path: entry.fault for entry in folder_entries(root) if entry.fault}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of three scans, to be damaged."""
    return write_digits(tmp_path / "images", classes=2, per_class=3)


def test_digits_are_all_there() -> None:
    """1,797 real scans in 10 classes, without a file or a network."""
    entries = find("digits", Path("nowhere"), NOWHERE).entries
    assert len(entries) == 1797
    assert {entry.label for entry in entries} == set("0123456789")
    pixels = entries[0].content
    assert isinstance(pixels, np.ndarray)
    assert pixels.shape == (8, 8, 3)
    assert pixels.max() > 200


def test_a_folder_per_class_is_found(digit_folder: Path) -> None:
    """Paths are relative and sorted; no split is claimed, nothing is at fault."""
    entries = folder_entries(digit_folder)
    assert len(entries) == 120
    assert entries[0] == Entry("digit-0/000.png", "digit-0", "", digit_folder / "digit-0" / "000.png")
    assert [entry.path for entry in entries] == sorted(entry.path for entry in entries)
    assert {(entry.split, entry.fault) for entry in entries} == {("", "")}


def test_train_val_and_test_folders_are_splits(tmp_path: Path, digit_folder: Path) -> None:
    """`valid` means val; litter and hidden files are passed over; folders in folders are searched."""
    for split in ("train", "valid", "test"):
        shutil.copytree(digit_folder, tmp_path / split)
    zero = tmp_path / "train" / "digit-0"
    for litter in ("Thumbs.db", ".hidden", ".DS_Store"):
        (zero / litter).write_text("x")
    (tmp_path / "__MACOSX").mkdir()
    (zero / "more").mkdir()
    (zero / "000.png").rename(zero / "more" / "000.png")
    entries = folder_entries(tmp_path)
    assert [sum(e.split == s for e in entries) for s in ("train", "val", "test")] == [120, 120, 120]
    assert "train/digit-0/more/000.png" in {e.path for e in entries}


def test_a_class_may_be_called_train(root: Path) -> None:
    """Trains and cars: without folders in it, `train` is a class."""
    (root / "digit-0").rename(root / "train")
    assert {(e.label, e.split) for e in folder_entries(root)} == {("train", ""), ("digit-1", "")}


def test_an_empty_class_is_a_fault(root: Path) -> None:
    """A folder, whose path ends with a slash, and no file; it does not stop the rest. Litter makes it no fuller."""
    (root / "empty").mkdir()
    touch(root / "litter", "Thumbs.db", "@eaDir/a.jpg", "readme.md")
    said = "the class folder holds no image"
    assert faults(root) == {"empty/": said, "litter/": said}
    assert len(folder_entries(root)) == 8


def test_litter_is_counted_by_kind_and_passed_over(root: Path) -> None:
    """What file managers, servers and labelling tools leave, at each level, is neither image nor class nor fault."""
    for folder in ("", "digit-0", "digit-0/more"):
        touch(root / folder, "@eaDir/a/THUMB_M.jpg", "Icon\r", "ehthumbs.db", "desktop.ini", ".DS_Store")
        touch(root / folder, "Thumbs.db", "__MACOSX/x.png", "._x.png", "x.xml", "x.TXT", "x.json", "x.csv", "README")
        touch(root / folder, "notes.md", "x.aae", "x.xmp", "x.MOV", "x.npy", "x.mat", ".hidden/a.png", "#recycle/a.png")
        touch(
            root / folder, "Thumbs.db:encryptable", "ZbThumbnail.info", "Network Trash Folder/a.png", "x.lnk", "x.url"
        )
        touch(root / folder, "x.jpg.part", "x.crdownload", "x.jgw", "x.tfw", "x.py", "__pycache__/x.pyc")
    touch(root / "digit-0", "more/good.png", "unknown.xyz")
    assert {entry.path for entry in folder_entries(root)} == {
        *(f"digit-{digit}/00{number}.png" for digit in (0, 1) for number in (0, 1, 2)),
        *("digit-0/more/good.png", "digit-0/unknown.xyz"),
    }
    (note,) = [note for note in notes(root) if note.startswith("passed over: ")]
    kinds = "@eaDir Icon ehthumbs.db desktop.ini .DS_Store Thumbs.db __MACOSX ._* .xml .txt .json .csv readme .md .aae"
    kinds = f"{kinds} .xmp .mov .npy .mat hidden #recycle Thumbs.db:encryptable ZbThumbnail.info .lnk .url .part"
    kinds = f"{kinds} .crdownload .jgw .tfw .py __pycache__ Network_Trash_Folder"
    note = note.replace("Network Trash Folder", "Network_Trash_Folder")
    counted = [kind.split(" ") for kind in note.removeprefix("passed over: ").split(", ")]
    assert sorted(counted) == [["3", kind] for kind in sorted(kinds.split())]


def test_a_class_may_be_called_like_a_sidecar(root: Path) -> None:
    """Extensions tell of files; a folder, or a link to one, is a class whatever its name ends in."""
    (root / "digit-0").rename(root / "a.txt")
    (root / "b.xml").symlink_to("digit-1")
    assert {entry.label for entry in folder_entries(root)} == {"a.txt", "b.xml", "digit-1"}
    assert notes(root) == []


def test_a_clean_folder_has_no_notes(root: Path) -> None:
    """Nothing is passed over, nothing is doubtful."""
    assert notes(root) == []


def test_a_name_that_is_no_text_is_a_fault(root: Path) -> None:
    """A file or class in an old encoding could not be written to the manifest: it is named in a readable way."""
    folder = os.fsencode(root)
    for name in (b"digit-0/caf\xe9.png", b"th\xe9/a.png"):
        path = Path(os.fsdecode(folder + b"/" + name))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
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
        assert faults(root) == {link: "a link to a folder that holds it (loop)"}
        assert len(folder_entries(root)) == 7


def test_links_to_each_other_end(root: Path, tmp_path: Path) -> None:
    """Two folders outside that link to each other: each is read once."""
    for name, other in (("a", "b"), ("b", "a")):
        shutil.copytree(root / "digit-0", tmp_path / name)
        (tmp_path / name / "other").symlink_to(tmp_path / other)
    (root / "linked").symlink_to(tmp_path / "a")
    assert faults(root) == {"linked/other/other": "a link to a folder that holds it (loop)"}


def test_a_folder_is_read_once_a_class(root: Path) -> None:
    """The real folder is read, whatever the order of names; the links to it are at fault."""
    (root / "digit-0" / "real").mkdir()
    (root / "digit-0" / "real" / "x.png").write_bytes(b"x")
    for name in ("a", "z"):
        (root / "digit-0" / name).symlink_to("real")
    said = "a link to a folder that was read already"
    assert faults(root) == {"digit-0/a": said, "digit-0/z": said}
    assert "digit-0/real/x.png" in {entry.path for entry in folder_entries(root)}


def test_splits_may_loop_too(tmp_path: Path, digit_folder: Path) -> None:
    """A link back stands for a split, or for a class of train/: neither swallows the rest."""
    shutil.copytree(digit_folder, tmp_path / "train")
    (tmp_path / "val").symlink_to(tmp_path)
    (tmp_path / "train" / "all").symlink_to(tmp_path / "train")
    loop = "a link to a folder that holds it (loop)"
    assert faults(tmp_path) == {"val": loop, "train/all": loop}
    assert len(folder_entries(tmp_path)) == 122


def test_links_to_nothing_do_not_stop(root: Path) -> None:
    """A file's is a plain entry, as reading it says why; in the place of a class it is a fault."""
    (root / "gone").symlink_to("nowhere")
    for name in ("gone.png", "self.png"):
        (root / "digit-0" / name).symlink_to("self.png")
    assert faults(root) == {"gone": "a link to nothing that is there"}
    assert {"digit-0/gone.png", "digit-0/self.png"} <= {entry.path for entry in folder_entries(root)}


def test_what_is_no_file_is_never_opened(root: Path) -> None:
    """Reading a FIFO would wait for ever."""
    os.mkfifo(root / "digit-0" / "fifo.png")
    (root / "digit-0" / "link.png").symlink_to("fifo.png")
    with socket.socket(socket.AF_UNIX) as server, tempfile.TemporaryDirectory() as short:  # at most 108 bytes of path
        server.bind(f"{short}/s.png")
        (root / "digit-1" / "socket.png").symlink_to(f"{short}/s.png")
        said = "not a regular file"
        assert faults(root) == {"digit-0/fifo.png": said, "digit-0/link.png": said, "digit-1/socket.png": said}


@pytest.fixture
def not_root() -> Iterator[Path]:
    """A folder to work in, as a user whom permissions bind."""
    with tempfile.TemporaryDirectory() as folder:
        if os.geteuid() != 0:
            yield Path(folder)
            return
        os.chown(folder, 65534, -1)
        os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            os.seteuid(0)


def test_a_folder_that_may_not_be_read_is_named(not_root: Path) -> None:
    """Its images would be missing in silence."""
    root = write_digits(not_root / "images", classes=2, per_class=1)
    (root / "digit-0").chmod(0)
    with pytest.raises(ValueError, match=r"digit-0 cannot be read \(Permission denied\): check its permissions"):
        folder_entries(root)
    (root / "digit-0").chmod(0o700)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("mv images moved", "is not a folder"),
        ("rm -r images/digit-0 images/digit-1", "holds no sub-folder"),
        ("mv images/*/*.png images; rm -r images/digit-*", "put them into one folder per class, .*/images/CLASS/"),
        ("rm -r images/digit-1", "at least 2 classes"),
        ("rm images/digit-1/*", r"found \['digit-0'\] \(digit-1/: the class folder holds no image\)"),
        ("mkdir -p up && mv images up/photos && mv up images", "images/photos alone"),
        ("mkdir -p up/a && mv images up/a/photos && mv up images && touch images/a/x.png", "images/a alone"),
        *[
            (
                f"mkdir up up/{one} up/{two} && cp -r images/* up/{one} && cp -r images/* up/{two} && "
                f"mv images up/train && mv up images",
                f"{one} and {two}, which both mean {one}",
            )
            for one, two in (("val", "valid"), ("test", "testing"))
        ],
        ("mkdir images/train && cp -r images/digit-1 images/train", "digit-0 stands beside train/"),
        ("mkdir images/val images/test && mv images/digit-0 images/val && mv images/digit-1 images/test", "no train/"),
        ("mkdir images/train images/val && mv images/digit-* images/train", "val holds no class folder: move its"),
    ],
)
def test_a_folder_that_cannot_serve_is_named(root: Path, damage: str, said: str) -> None:
    """Missing, flat, one class, half a layout: each names the folder and the mend."""
    subprocess.run(damage, shell=True, cwd=root.parent, check=True)
    with pytest.raises(ValueError, match=said):
        folder_entries(root)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ("train/1.jpg test/2.jpg", r"test, train.*train/CLASS/"),
        ("train/1.jpg test/2.jpg sample/3.jpg", r"test, train"),
        ("train/1.jpg val/cat/2.jpg val/dog/3.jpg", r"train, val"),
        ("train_images/1.jpg test_images/2.jpg train.csv", "test_images, train_images"),
        ("train2017/1.jpg val2017/2.jpg", "train2017, val2017"),
        ("train_images/cat/1.jpg train_images/dog/1.jpg test_images/cat/1.jpg", "train_images.*their sub-folders"),
        ("images/cat/1.jpg images/dog/1.jpg masks/cat/1.png masks/dog/1.png", "cat, dog.*/images alone"),
        ("images/1.jpg masks/1.png", "images, masks"),
        ("images/train/1.jpg images/val/2.jpg labels/train/1.txt labels/val/2.txt", "images.*labels"),
        ("train/images/1.jpg train/labels/1.txt valid/images/2.jpg valid/labels/2.txt", "images, labels"),
        ("cat/train/1.jpg cat/test/2.jpg dog/train/1.jpg dog/test/2.jpg", "sub-folders.*test, train.*train/CLASS/"),
        ("cat/trainA/1.jpg cat/testA/2.jpg dog/trainA/1.jpg dog/testA/2.jpg", "sub-folders.*testA, trainA"),
        ("seg_train/seg_train/cat/1.jpg seg_test/seg_test/cat/1.jpg seg_pred/1.jpg", "seg_test, seg_train,"),
        ("asl_alphabet_train/asl_alphabet_train/A/1.jpg asl_alphabet_test/2.jpg", "asl_alphabet_test, "),
        ("train_cats/1.jpg train_dogs/1.jpg test_cats/2.jpg test_dogs/2.jpg", "test_cats, test_dogs, train_cats"),
        *[
            (f"{one}/cat/1.jpg {one}/dog/1.jpg {two}/cat/1.jpg {two}/dog/1.jpg", f"{one}.*{two}.*cat, dog")
            for one, two in (
                ("TrainingSet", "ValidationSet"),
                ("testset", "trainset"),
                ("testImages", "trainImages"),
                ("x_test", "x_train"),
                ("testA", "trainA"),
                ("Test_Alphabet", "Train_Alphabet"),
                ("fruits_test", "fruits_train"),
                ("test", "trainval"),
                ("evaluation-data", "training-data"),
                ("dev", "holdout"),
                ("cats_test", "train_cats"),
                ("testx", "trainx"),
            )
        ],
        ("train/images/cat/1.jpg train/images/dog/1.jpg val/images/cat/1.jpg", r"images.*cat, dog.*train/CLASS/"),
        ("cat/images/1.jpg cat/masks/1.png dog/images/1.jpg dog/masks/1.png", "masks.*images"),
        ("cat/jpg/1.jpg cat/ground_truth/1.png dog/jpg/1.jpg dog/ground_truth/1.png", "ground_truth"),
        ("test+/1.jpg test-/1.jpg", "test+.*indeed, rename them"),
        ("Mask/1.jpg Masks/1.jpg", "Mask, Masks.*indeed, rename them"),
        ("photos/a/1.jpg photos/b/1.jpg docs/a.pdf scripts/x.py models/m.h5 src/__pycache__/x.pyc", "/photos alone"),
    ],
)
def test_splits_and_parts_of_a_data_set_are_no_classes(tmp_path: Path, files: str, said: str) -> None:
    """Kaggle, COCO, YOLO, masks: it stops, as the folders' names would be learned, and says what was seen."""
    with pytest.raises(ValueError, match=said):
        folder_entries(touch(tmp_path, *files.split()))


@pytest.mark.parametrize(
    "files",
    [
        "train/1.jpg car/2.jpg",
        "mask/1.jpg no_mask/2.jpg",
        "labels/1.jpg masks/2.jpg pens/3.jpg",
        "1/1.jpg 2/1.jpg",
        "cat/day/1.jpg dog/night/1.jpg",
        "cat/images/1.jpg dog/images/1.jpg",
        "test tube/1.jpg flask/2.jpg",
        "training shoes/1.jpg boots/2.jpg test/3.jpg",
        "contest/1.jpg test/2.jpg",
        "valley/1.jpg train/2.jpg valve/3.jpg",
        "test positive/1.jpg test negative/2.jpg",
        "invalid/1.jpg valid/2.jpg",
        "with_mask/1.jpg without_mask/2.jpg",
        *[
            " ".join(f"{split}/{name}/1.jpg" for split in ("train", "val") for name in names.split())
            for names in ("train test images data masks", "train test", "data train_data")
        ],
    ],
)
def test_names_that_may_be_meant_are_classes(tmp_path: Path, files: str) -> None:
    """Locomotives, people with and without a mask, goods of a shop: nothing is said."""
    assert notes(touch(tmp_path, *files.split())) == []


def test_sub_folders_that_differ_are_noted_too(tmp_path: Path) -> None:
    """Classes that lie one level deeper, or patients: a person knows."""
    (note,) = notes(touch(tmp_path, *(f"{p}/1.jpg" for p in ("animals/cat", "animals/dog", "vehicles/car"))))
    assert "animals, vehicles" in note and "car, cat, dog" in note and "split.group_pattern" in note


def test_folders_without_images_are_noted(root: Path) -> None:
    """They may be classes that are empty, or code: they stay faults, and one sentence says what to do."""
    (note, _) = notes(touch(root, "models/m.pth", "src/x.py", "__pycache__/x.pyc", "digit-0/sub/x.py"))
    assert "models, src" in note and "move" in note
    assert list(faults(root)) == ["models/", "src/"]


@pytest.mark.parametrize("split", ["", "train/"])
def test_the_same_sub_folders_everywhere_are_noted(tmp_path: Path, split: str) -> None:
    """Sites with cats and dogs, or cats and dogs by day and night: a person knows, so both ways are told."""
    places = ("siteA/cat", "siteA/dog", "siteB/cat", "siteB/dog", "siteB/@eaDir")
    (note,) = (n for n in notes(touch(tmp_path, *(f"{split}{p}/1.jpg" for p in places))) if "passed" not in n)
    assert "siteA, siteB" in note and "cat, dog" in note and "not used" in note
    touch(tmp_path, f"{split}siteC/1.jpg")  # a class without sub-folders: the others' are no classes
    assert [n for n in notes(tmp_path) if "passed" not in n] == []


def test_a_test_class_without_training_images_is_named(tmp_path: Path, digit_folder: Path) -> None:
    """A class that stands in test/ alone could never be learned."""
    shutil.copytree(digit_folder, tmp_path / "train")
    shutil.copytree(digit_folder / "digit-0", tmp_path / "test" / "zero")
    with pytest.raises(ValueError, match="class 'zero' of test/ has no images in train/"):
        folder_entries(tmp_path)


@pytest.mark.parametrize(("here", "there"), [("Cat", "cat"), ("K\u00e4fer", "Ka\u0308fer")])
def test_a_class_that_is_written_differently_is_named(tmp_path: Path, here: str, there: str) -> None:
    """Adding images or removing the class would be the wrong advice."""
    touch(tmp_path, f"train/{here}/1.jpg", "train/dog/1.jpg", f"val/{there}/1.jpg", "val/dog/1.jpg")
    with pytest.raises(ValueError, match=rf"{there}.*val/.*{here}.*same case and Unicode"):
        folder_entries(tmp_path)


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Training", "Testing")])
def test_images_beside_class_folders_are_set_aside(tmp_path: Path, train: str, test: str) -> None:
    """Nobody knows their class; other files there are none of our business."""
    root = tmp_path / "images"
    for split in (train, test):
        write_digits(root / split, classes=2, per_class=3)
    shutil.copy(root / train / "digit-0" / "000.png", root / train / "loose.png")
    shutil.copy(root / train / "digit-0" / "000.png", root / "loose.png")
    (root / "README.md").write_text("x")
    entries = folder_entries(root)
    loose = [entry for entry in entries if entry.fault]
    assert {(entry.path, entry.label) for entry in loose} == {(f"{train}/loose.png", ""), ("loose.png", "")}
    assert {entry.split for entry in entries if not entry.fault} == {"train", "test"}
    assert "it lies in no class folder" in loose[0].fault
