"""`image_folder`: a folder of your own images, one sub-folder a class.

Either `root/CLASS/*`, to be split, or `root/train/CLASS/*` with optional `root/val/CLASS/*` and `root/test/CLASS/*`.
Folders whose names tell of splits or of parts of a data set are no classes."""

import os
import re
from collections import Counter
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from pipeline.datasets import Entry, Found
from pipeline.datasets import _folders as folders
from pipeline.datasets._folders import LOOP, NOT_TEXT, PASSED_OVER, is_folder, lineage, printable, subfolders
from pipeline.errors import UserError

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
SPLITS |= {"test": "test", "testing": "test"}
IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif", ".ppm", ".pgm"}
# Words of folders that hold a part of a data set, whatever the classes are; the first tell of what is drawn over images
DRAWN = {"mask", "masks", "label", "labels", "annotation", "annotations", "segmentation", "groundtruth", "gt"}
DRAWN |= {"ground", "truth"}
PARTS = {"image", "images", "img", "imgs", "jpg", "jpeg", "jpegimages", "png", "data", "dataset", "set", "imagesets"}
PARTS |= DRAWN
IN_DISGUISE = re.compile("|".join(sorted({*SPLITS, "eval", "evaluation", "dev", "holdout"}, key=len, reverse=True)))
GLUED = PARTS | {"", "x", "y"}  # what may be left of a word that tells of a split: trainset, trainval, xtrain


def find(source: str, root: Path, scratch: Path, labels: str) -> Found:
    everything = _everything(root)
    entries = [entry for entry in everything if entry.fault != PASSED_OVER]
    notes = _judge_names(root, entries)
    if kinds := Counter(folders.kind_of_litter(root / one.path) for one in everything if one.fault == PASSED_OVER):
        notes.append("passed over: " + ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common()))
    return Found(entries, notes)


def _judge_names(root: Path, entries: list[Entry]) -> list[str]:
    """Raises UserError where the names that would be learned are no classes; notes where only a person can know."""
    inside: dict[str, set[str]] = {}  # the sub-folders of each class
    for entry in entries:
        if not entry.fault or entry.path.endswith("/"):
            parts = entry.path.split("/")[1 if entry.split else 0 :]
            inside.setdefault(entry.label, set()).update(parts[1:-1][:1])
    shared = {name for name, count in Counter(chain.from_iterable(inside.values())).items() if count > 1}
    real = any(entry.split for entry in entries)  # below a real train/ a class may be called test
    splits = [] if real else _splits(inside)
    told = [_told(name) for name in inside]
    if splits or 1 < len(told) == sum(rest == "" and not (real and words - PARTS) for rest, words in told):
        wrong = splits or sorted(inside)
        fix = "put the images into train/CLASS/ and test/CLASS/, or give the table of labels"
        if shared:
            images = root / max(wrong, key=lambda name: "im" in name.lower())  # image, img
            fix = "rename these to train, val, test" if splits else f"use {images} alone"
            fix = f"their sub-folders are {_listed(shared)}: if those are the classes, {fix}"
        said = f"{root}: the classes would be called {_listed(wrong)}, which are parts of a data set: {fix}"
        raise UserError(f"{said}; if they are classes indeed, rename them or write a table of labels")
    if splits := _splits(shared):
        raise UserError(f"{root}: the classes have the sub-folders {_listed(splits)}: move them to train/CLASS/, ...")
    if drawn := [name for name in shared for rest, words in [_told(name)] if rest == "" and words & DRAWN]:
        said = f"{root}: the classes have the sub-folders {_listed(shared)}"
        raise UserError(f"{said}: move {_listed(drawn)}, which are no photos, out of it, or write a table of labels")
    sound = [entry for entry in entries if not entry.fault]
    classes, places = {entry.label for entry in sound}, {entry.path.rpartition("/")[0] for entry in sound}
    below = _listed(set().union(*inside.values()))
    if len(classes) == 1 and below:
        deepest = os.path.commonpath(places) if len(places) > 1 else ""
        fix = f"use {root / deepest} alone" if deepest else "move them up, to train/CLASS/, ..."
        said = f"{root}: all images lie in {deepest or _listed(classes)}, which leads to {below}"
        raise UserError(f"{said}: if its sub-folders are the classes, {fix}")
    notes = []
    if empty := {entry.label for entry in entries if entry.path.endswith("/")} - classes:
        notes.append(f"no image lies in {_listed(empty)}: if these are no classes, move them out of {root}")
    if len(classes) > 1 and all(inside[name] for name in classes) and any(len(inside[name]) > 1 for name in classes):
        said = f"the classes are {_listed(classes)}; the names of their sub-folders, {below}, are not used"
        notes.append(f"{said}: if those are the classes, move them up; if patients or videos, see split.group_pattern")
    return notes


def _splits(names: Iterable[str]) -> list[str]:
    """Those that are alike but for the word of a split: train_cats and test_cats, trainA and valA."""
    told = {name: rest for name in sorted(names) for rest, words in [_told(name)] if words - PARTS}
    same = Counter(told.values())
    return [name for name, rest in told.items() if same[rest] > 1]


def _told(name: str) -> tuple[str, set[str]]:
    """What a name says of its images, and its words that tell of a split or a part: `train_cats`: cats, and train.
    `trainset` is such a word, `contest` and `valley` are none."""
    words = re.findall(r"[^\W\d_]+", re.sub("(?<=[a-z])(?=[A-Z])", " ", name).lower())
    known = {word for word in words if IN_DISGUISE.sub("", word) in GLUED and word not in ("x", "y")}
    return " ".join(word for word in words if word not in known) if words else name, known


def _listed(names: Iterable[str]) -> str:
    several = sorted(names)
    return ", ".join(several if len(several) <= 10 else [*several[:10], "..."])


def _everything(root: Path) -> list[Entry]:
    if not is_folder(root) or not (parts := subfolders(root)):
        raise UserError(f"{root} is not a folder with sub-folders: put the images of each class into {root}/CLASS/")
    above = lineage(root)
    named = [part for part in parts if part.name.lower() in SPLITS]  # a `train` without folders is a class
    splits = {part: SPLITS[part.name.lower()] for part in named if part.resolve() not in above and subfolders(part)}
    if "train" not in splits.values():
        if len(splits) == len(parts):
            raise UserError(f"{root} has {', '.join(part.name for part in parts)} but no train/: add it")
        return _classes(root, root, "", above)
    if len(set(splits.values())) < len(splits):
        raise UserError(f"{root} has {', '.join(part.name for part in splits)}: two of these mean the same, keep one")
    entries = _beside(root, root, "")
    for part in parts:
        if part in splits:
            entries += _classes(root, part, splits[part], above | lineage(part))
        elif part.resolve() in above:
            entries.append(_entry(root, part, part.name, "", LOOP))
        else:
            said = f"{part} stands beside train/ and is neither val nor test with class folders"
            raise UserError(f"{said}: move it away or rename it, or move its images into {part.name}/CLASS/")
    return entries


def _classes(root: Path, folder: Path, split: str, above: frozenset[Path]) -> list[Entry]:
    """What lies in the class folders of a folder, and beside them."""
    entries = _beside(root, folder, split)
    for label in subfolders(folder):
        if printable(label.name) != label.name:
            entries.append(_entry(root, label, label.name, split, NOT_TEXT))
            continue
        inside = [_entry(root, file, label.name, split, fault) for file, fault in folders.files(label, above)]
        entries += inside
        if all(entry.fault == PASSED_OVER for entry in inside):
            entries.append(_entry(root, label, label.name, split, "the class folder holds no image", "/"))
    return entries


def _beside(root: Path, folder: Path, split: str) -> list[Entry]:
    """What stands beside class folders: images, whose class nobody knows, litter, and links to what may be a class."""
    found = []
    for entry in folders.listing(folder):
        path = folder / entry.name
        if folders.kind_of_litter(entry):
            found.append(_entry(root, path, "", split, PASSED_OVER))
        elif entry.is_symlink() and not path.exists():
            found.append(_entry(root, path, path.name, split, "a link to nothing that is there"))
        elif path.suffix.lower() in IMAGES and path.is_file():
            found.append(_entry(root, path, "", split, "it lies in no class folder"))
    return found


def _entry(root: Path, file: Path, label: str, split: str, fault: str, end: str = "") -> Entry:
    path = file.as_posix().removeprefix(root.as_posix()).lstrip("/")  # relative_to takes ten times as long
    return Entry(printable(path) + end, printable(label), split, file, fault=fault)
