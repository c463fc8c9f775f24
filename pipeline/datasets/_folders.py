"""Walking through folders of images: links are followed, since people link their data, but no folder is read twice."""

from __future__ import annotations

import os
import stat
from pathlib import Path

LITTER = {"thumbs.db", "desktop.ini", "__macosx"}  # left by file managers and by macOS's zip
LOOP = "a link to a folder that holds it (loop)"
TWICE = "a link to a folder that was read already"
NOT_REGULAR = "not a regular file"  # a FIFO, a socket, a device: opening one can wait for ever
NOT_TEXT = "its name is not UTF-8: rename it"  # parquet and CSV hold text

Identity = tuple[int, int]  # device and inode: the same whatever links lead there


def listing(folder: Path) -> list[Path]:
    """What a folder holds, sorted; hidden names and litter aside. Raises ValueError if it cannot be read."""
    return [folder / entry.name for entry in _scan(folder)]


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    """The same with what the operating system says of each for nothing: asking for 60,000 files takes a second."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(f"{folder} cannot be read ({error.strerror}): check its permissions") from None
    return [entry for entry in found if entry.name[0] != "." and entry.name.lower() not in LITTER]


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, linked ones too."""
    return [path for path in listing(folder) if is_folder(path)]


def is_folder(path: Path) -> bool:
    """Whether it is a folder or a link to one; what cannot be asked is left to who opens it, who is told why."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError:
        return False


def identity(folder: Path) -> Identity:
    status = folder.stat()
    return status.st_dev, status.st_ino


def lineage(folder: Path) -> frozenset[Identity]:
    """A folder and all that hold it: a link to one of them, somewhere below, is a loop."""
    real = folder.resolve()
    return frozenset(identity(path) for path in (real, *real.parents))


def files(folder: Path, above: frozenset[Identity]) -> list[tuple[Path, str]]:
    """Every file below a folder, and why it cannot be an image, or "". Links that are not followed stand among them.

    `above` is the lineage of what the folder stands in. Links wait until all real folders are read, so that it is
    always the link that is told to be the second way to a folder.
    """
    found: list[tuple[Path, str]] = []
    entered: set[Identity] = set()
    real, links = [(folder, above)], list[tuple[Path, frozenset[Identity]]]()
    while real or links:
        here, above = (real or links).pop(0)
        me = identity(here)
        if me in above or me in entered:
            found.append((here, LOOP if me in above else TWICE))
            continue
        entered.add(me)
        above = above | lineage(here)
        for entry in _scan(here):
            path = here / entry.name
            if entry.is_file(follow_symlinks=False):
                found.append((path, "" if printable(entry.name) == entry.name else NOT_TEXT))
            elif not is_folder(path):
                found.append((path, fault(path)))
            else:
                (links if entry.is_symlink() else real).append((path, above))
    return found


def fault(file: Path) -> str:
    """Why a file must not be opened or cannot be named, or ""."""
    if printable(file.name) != file.name:
        return NOT_TEXT
    try:
        regular = stat.S_ISREG(file.stat().st_mode)
    except OSError:
        return ""  # a missing file, a link to nothing: who reads it is told why
    return "" if regular else NOT_REGULAR


def printable(name: str) -> str:
    """A path or a part of it; bytes that are not UTF-8 as \\xNN."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")
