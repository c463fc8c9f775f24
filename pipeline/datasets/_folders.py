"""Walking through folders of images: links are followed, since people link their data, but no folder is read twice."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pipeline.errors import UserError

# Left by file managers, by macOS's zip, by file servers (Synology, QNAP, NetApp) and by Python
LITTER = {
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini", "icon\r", ".ds_store", "__macosx"),
    *("@eadir", "@recycle", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found"),
    *("thumbs.db:encryptable", "zbthumbnail.info", "network trash folder", "temporary items", "__pycache__"),
}
# Files that stand beside images and are none: labels, notes, edits, arrays, the films of live photos, shortcuts, halves
# of downloads, coordinates of maps, code and networks
SIDECARS = {
    *("readme", "license", ".txt", ".md", ".rst", ".pdf", ".doc", ".docx", ".html", ".log", ".ini", ".db", ".xml"),
    *(".json", ".jsonl", ".csv", ".tsv", ".xlsx", ".yaml", ".yml", ".aae", ".xmp", ".npy", ".npz", ".mat"),
    *(".mov", ".mp4", ".lnk", ".url", ".part", ".crdownload", ".jgw", ".tfw", ".pgw", ".wld"),
    *(".py", ".pyc", ".ipynb", ".sh", ".h5", ".pt", ".pth", ".onnx", ".pkl"),
}
PASSED_OVER = "passed over"  # the fault of litter: counted by kind, and no more is said
LOOP = "a link to a folder that holds it (loop)"
TWICE = "a link to a folder that was read already"
NOT_REGULAR = "not a regular file"  # a FIFO, a socket, a device: opening one can wait for ever
NOT_TEXT = "its name is not UTF-8: rename it"  # parquet and CSV hold text

Identity = tuple[int, int]  # device and inode: the same whatever links lead there


def kind_of_litter(path: Path | os.DirEntry[str]) -> str:
    """Under which name it is counted, or "" if it may be an image, a class or what holds them."""
    name = path.name.lower()
    if name in LITTER:
        return path.name.strip()
    if name[0] == ".":
        return "._*" if name.startswith("._") else "hidden"
    kind = name[max(0, name.rfind(".")) :]
    return kind if kind in SIDECARS and not is_folder(Path(path)) else ""


def listing(folder: Path) -> list[Path]:
    """What a folder holds, sorted; litter aside. Raises UserError if it cannot be read."""
    return [folder / entry.name for entry in _scan(folder) if not kind_of_litter(entry)]


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    """All that it holds, and what the operating system says of each for nothing: asking for 60,000 files takes a
    second."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}): check its permissions") from None


def litter(folder: Path) -> list[Path]:
    """What `listing` leaves out."""
    return [folder / entry.name for entry in _scan(folder) if kind_of_litter(entry)]


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
            if kind_of_litter(entry):
                found.append((path, PASSED_OVER))
            elif entry.is_file(follow_symlinks=False):
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
