"""`image_folder`: a folder of your own images, one sub-folder a class.

Either `root/CLASS/*`, to be split, or `root/train/CLASS/*` with optional `root/val/CLASS/*` and `root/test/CLASS/*`.
Links to files and folders are followed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.datasets import Entry
from pipeline.datasets._folders import (
    LOOP,
    NOT_TEXT,
    Identity,
    files,
    identity,
    is_folder,
    lineage,
    listing,
    printable,
    subfolders,
)

SPLITS = {
    **{"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"},
    **{"test": "test", "testing": "test"},
}
IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif", ".ppm", ".pgm"}


def find(source: str, root: Path, scratch: Path, labels: str) -> list[Entry]:
    if not is_folder(root):
        raise ValueError(f"{root} is not a folder: give the folder that holds one sub-folder of images a class")
    folders = subfolders(root)
    if not folders:
        raise ValueError(_no_classes(root))
    above = lineage(root)
    layout = {folder: holds_split(folder, above) for folder in folders}
    if "train" not in layout.values():
        if all(layout.values()):
            raise ValueError(f"{root} has {', '.join(f.name for f in folders)} but no train/: add it")
        return _classes(root, root, "", above)
    entries = _loose(root, root, "")
    for folder in folders:
        if identity(folder) in above:
            entries.append(_entry(root, folder, folder, "", LOOP))
        elif not _split(folder):
            raise ValueError(f"{folder} stands beside train/ and is neither val nor test: move it away or rename it")
        elif not layout[folder]:
            raise ValueError(f"{folder} holds no class folder: move its images into {folder.name}/CLASS/")
        else:
            entries += _classes(root, folder, _split(folder), above | lineage(folder))
    return entries


def holds_split(folder: Path, above: frozenset[Identity]) -> str:
    """The split whose class folders a folder holds, or "": `train` without folders in it is a class of locomotives."""
    split = _split(folder)
    return split if split and identity(folder) not in above and subfolders(folder) else ""


def _split(folder: Path) -> str:
    return SPLITS.get(folder.name.lower(), "")


def _classes(root: Path, folder: Path, split: str, above: frozenset[Identity]) -> list[Entry]:
    entries = []
    for label in listing(folder):
        if is_folder(label):
            entries += _class(root, label, split, above)
        elif label.is_symlink() and not label.exists():  # perhaps a class: not passed over in silence
            entries.append(_entry(root, label, label, split, "a link to nothing that is there"))
    return entries + _loose(root, folder, split)


def _loose(root: Path, folder: Path, split: str) -> list[Entry]:
    """Images beside the class folders, whose class nobody knows."""
    images = [path for path in listing(folder) if path.suffix.lower() in IMAGES and path.is_file()]
    return [replace(_entry(root, path, path, split, "it lies in no class folder"), label="") for path in images]


def _class(root: Path, label: Path, split: str, above: frozenset[Identity]) -> list[Entry]:
    if printable(label.name) != label.name:
        return [_entry(root, label, label, split, NOT_TEXT)]
    found = files(label, above) or [(label, "the class folder is empty")]
    return [_entry(root, file, label, split, fault) for file, fault in found]


def _entry(root: Path, file: Path, label: Path, split: str, fault: str) -> Entry:
    path = file.as_posix().removeprefix(root.as_posix()).lstrip("/")  # relative_to takes ten times as long
    return Entry(printable(path), printable(label.name), split, file, fault=fault)


def _no_classes(root: Path) -> str:
    if any(path.suffix.lower() in IMAGES for path in listing(root)):
        return f"{root} holds images but no class folders: put them into one folder per class, {root}/CLASS/"
    return f"{root} holds no sub-folder: put the images of each class into a folder named after it"
