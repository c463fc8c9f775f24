"""`image_folder`: a folder of your own images, one sub-folder a class.

Either `root/CLASS/*`, to be split, or `root/train/CLASS/*` with optional `root/val/CLASS/*` and `root/test/CLASS/*`.
"""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.datasets import Entry

SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
LITTER = {"thumbs.db", "desktop.ini"}  # left by file managers


def find(source: str, root: Path, scratch: Path, labels: str) -> list[Entry]:
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder: give the folder that holds one sub-folder of images a class")
    folders = _folders(root)
    if not folders:
        raise ValueError(f"{root} holds no sub-folder: put the images of each class into a folder named after it")
    # A folder `train` without folders in it is a class of locomotives
    if not any(_split(folder) == "train" and _folders(folder) for folder in folders):
        if all(_split(folder) and _folders(folder) for folder in folders):
            raise ValueError(f"{root} has {', '.join(f.name for f in folders)} but no train/: add it")
        return _entries(root, root, "")
    entries = []
    for folder in folders:
        split = _split(folder)
        if split is None:
            raise ValueError(f"{folder} stands beside train/ and is neither val nor test: move it away or rename it")
        entries += _entries(root, folder, split)
    _training_knows_all(root, entries)
    return entries


def _split(folder: Path) -> str | None:
    return SPLIT_FOLDERS.get(folder.name.lower())


def _entries(root: Path, folder: Path, split: str) -> list[Entry]:
    classes = _folders(folder)
    if not classes:
        raise ValueError(f"{folder} holds no class folder: move its images into {folder.name}/CLASS/")
    entries = []
    for label in classes:
        files = _files(label)
        if not files:
            raise ValueError(f"{label} is an empty class: put images into it or remove the folder")
        entries += [Entry(file.relative_to(root).as_posix(), label.name, split, file) for file in files]
    return entries


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise ValueError(f"{folder} cannot be read ({error.strerror}): check its permissions") from None


def _files(folder: Path) -> list[Path]:
    """All files below, hidden ones and litter aside; links to folders are not followed, as they can loop."""

    def stop(error: OSError) -> None:
        raise ValueError(f"{error.filename} cannot be read ({error.strerror}): check its permissions")

    found = []
    for parent, folders, files in os.walk(folder, onerror=stop):
        folders.sort()
        found += [Path(parent, name) for name in sorted(files) if name[0] != "." and name.lower() not in LITTER]
    for file in found:
        if not _is_text(str(file)):  # parquet and CSV hold text
            raise ValueError(f"{os.fsencode(file)!r} has a name that is not UTF-8: rename it")
    return found


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _training_knows_all(root: Path, entries: list[Entry]) -> None:
    known = {entry.label for entry in entries if entry.split == "train"}
    for entry in entries:
        if entry.label not in known:
            raise ValueError(
                f"{root}: class {entry.label!r} of {entry.split}/ has no folder in train/: add it or remove the class"
            )
