"""One file a kind of source. Each defines `find(source, root, scratch, labels)`, as below; nothing is decoded there.

A file that serves several sources names them in `NAMES`; otherwise the source is called as the file is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np

from pipeline.errors import UserError


@dataclass(frozen=True)
class Entry:
    """One labelled image, or what was found in its place: a class folder without images has a path that ends with `/`.

    `path` names it to people (relative, with forward slashes); `split` is "", train, val or test; `content` is the file
    or the pixels (uint8 [H, W, 3]); `group` is what it shares with other images (a patient, a video), or ""; `fault`,
    where not empty, says why it cannot be an image, and then `content` is not looked at.
    """

    path: str
    label: str
    split: str
    content: Path | np.ndarray
    group: str = ""
    fault: str = ""


@dataclass(frozen=True)
class Found:
    """What a source holds; `notes` are sentences for people: what was passed over, which names are not used."""

    entries: list[Entry]
    notes: list[str] = field(default_factory=list)


def sources() -> dict[str, ModuleType]:
    """What `ingest.source` may be, and the module of this package that serves it."""
    modules = [import_module(f"{__name__}.{file.stem}") for file in sorted(Path(__file__).parent.glob("[a-z]*.py"))]
    return {name: one for one in modules for name in getattr(one, "NAMES", (one.__name__.rpartition(".")[2],))}


def find(source: str, root: Path, scratch: Path, labels: str = "labels.csv") -> Found:
    """The images of a source, sorted by path.

    `scratch` is an empty folder for files that are needed until they are decoded; the caller deletes it. `labels` is
    the table of the source `csv`. Raises UserError naming the folder and the fix.
    """
    found: Found = sources()[source].find(source, root, scratch, labels)
    can_be_learned(root, found.entries)
    return Found(sorted(found.entries, key=lambda entry: (entry.path, entry.label)), found.notes)


def can_be_learned(root: Path, entries: list[Entry]) -> None:
    """Raises UserError if there are not two classes, or not all of them have training images."""
    classes = {entry.label for entry in entries if not entry.fault}
    if len(classes) < 2:
        faults = next((f" ({entry.path}: {entry.fault})" for entry in entries if entry.fault), "")
        raise UserError(
            f"{root}: a classifier needs at least 2 classes, found {sorted(classes)}{faults}: put the images of each "
            f"class into a folder named after it, or their labels into a table"
        )
    trained = {entry.label for entry in entries if not entry.fault and entry.split in ("", "train")}
    for entry in entries:
        if not entry.fault and entry.label not in trained:
            near = get_close_matches(entry.label, trained, n=3, cutoff=0)
            raise UserError(
                f"{root}: class {entry.label!r} of {entry.split}/ has no images in train/ (but {', '.join(near)}): "
                f"add some, remove it, or write both names alike"
            )
