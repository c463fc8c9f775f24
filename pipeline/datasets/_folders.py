"""Walking through folders of images: links are followed, since people link their data, but no folder is read twice."""

import os
from pathlib import Path

from pipeline.errors import UserError

# Left by file managers, by macOS's zip, by file servers (Synology, QNAP, NetApp) and by Python
LITTER = {
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini", "icon\r", ".ds_store", "__macosx"),
    *("@eadir", "@recycle", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found"),
    *("thumbs.db:encryptable", "zbthumbnail.info", "network trash folder", "temporary items", "__pycache__"),
}
# Files beside images: labels, notes, edits, arrays, films, shortcuts, half downloads, coordinates, code, networks
SIDECARS = {
    *("readme", "license", ".txt", ".md", ".rst", ".pdf", ".doc", ".docx", ".html", ".log", ".ini", ".db", ".xml"),
    *(".json", ".jsonl", ".csv", ".tsv", ".xlsx", ".yaml", ".yml", ".aae", ".xmp", ".npy", ".npz", ".mat"),
    *(".mov", ".mp4", ".lnk", ".url", ".part", ".crdownload", ".jgw", ".tfw", ".pgw", ".wld"),
    *(".py", ".pyc", ".ipynb", ".sh", ".h5", ".pt", ".pth", ".onnx", ".pkl"),
}
PASSED_OVER = "passed over"  # the fault of litter: counted by kind, and no more is said
LOOP = "a link to a folder that holds it (loop)"
NOT_TEXT = "its name is not UTF-8: rename it"  # parquet and CSV hold text


def kind_of_litter(path: Path | os.DirEntry[str]) -> str:
    """Under which name it is counted, or "" if it may be an image, a class or what holds them."""
    name = path.name.lower()
    if name in LITTER:
        return path.name.strip()
    if name[0] == ".":
        return "._*" if name.startswith("._") else "hidden"
    kind = name[max(0, name.rfind(".")) :]
    return kind if kind in SIDECARS and not is_folder(path) else ""


def listing(folder: Path) -> list[os.DirEntry[str]]:
    """All that it holds, sorted; entries know their kind for nothing, and asking for that of 60,000 takes a second."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}): check its permissions") from None


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, linked ones too; litter aside."""
    return [folder / entry.name for entry in listing(folder) if is_folder(entry) and not kind_of_litter(entry)]


def is_folder(path: Path | os.DirEntry[str]) -> bool:
    return os.path.isdir(path)  # noqa: PTH112  # Path.is_dir raises where permissions are missing


def lineage(folder: Path) -> frozenset[Path]:
    """A folder and all that hold it, without links: a link to one of them, somewhere below, is a loop."""
    real = folder.resolve()
    return frozenset((real, *real.parents))


def files(folder: Path, above: frozenset[Path]) -> list[tuple[Path, str]]:
    """Every file below a folder, and links that are not followed; and why each cannot be an image, or "".

    `above` is the lineage of what the folder stands in. Links wait until all real folders are read, so that of two ways
    to a folder the link is the one at fault."""
    found: list[tuple[Path, str]] = []
    entered: set[Path] = set()
    real, links = [(folder, above)], list[tuple[Path, frozenset[Path]]]()
    while real or links:
        here, above = (real or links).pop(0)
        me = here.resolve()
        if me in above or me in entered:
            found.append((here, LOOP if me in above else "a link to a folder that was read already"))
            continue
        entered.add(me)
        above = above | lineage(here)
        for entry in listing(here):
            path = here / entry.name
            if kind_of_litter(entry):
                found.append((path, PASSED_OVER))
            elif not entry.is_file(follow_symlinks=False) and is_folder(entry):
                (links if entry.is_symlink() else real).append((path, above))
            else:
                found.append((path, "" if printable(entry.name) == entry.name else NOT_TEXT))
    return found


def printable(name: str) -> str:
    """A path or a part of it; bytes that are not UTF-8 as \\xNN."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")
