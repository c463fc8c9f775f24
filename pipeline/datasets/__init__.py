"""One file a kind of source. Each defines `find(source, root, scratch, labels)`, as below; nothing is decoded there.
A file that serves several sources names them in `NAMES`; otherwise the source is called as the file is."""

from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np

from pipeline.errors import UserError


@dataclass(frozen=True)
class Entry:
    """One labelled image, or what was found in its place. `path` is relative, with forward slashes, and one at the end
    of a class folder without images; `split` is "", train, val or test; `content` is the file or the pixels (uint8
    [H, W, 3]); `group`: a patient, a video, or ""; `fault`, if any, says why it cannot be an image."""

    path: str
    label: str
    split: str
    content: Path | np.ndarray
    group: str = ""
    fault: str = ""


@dataclass(frozen=True)
class Found:
    entries: list[Entry]
    notes: list[str] = field(default_factory=list)  # sentences for people


def sources() -> dict[str, ModuleType]:
    """What `ingest.source` may be, and the module of this package that serves it."""
    modules = [import_module(f"{__name__}.{file.stem}") for file in sorted(Path(__file__).parent.glob("[a-z]*.py"))]
    return {name: one for one in modules for name in getattr(one, "NAMES", (one.__name__.rpartition(".")[2],))}


def find(source: str, root: Path, scratch: Path, labels: str = "labels.csv") -> Found:
    """The images of a source, sorted by path. `scratch`: an empty folder, kept until they are decoded; `labels`: the
    table of `csv`. Raises UserError, also if there are not two classes, or not all have training images."""
    found: Found = sources()[source].find(source, root, scratch, labels)
    sound = [entry for entry in found.entries if not entry.fault]
    classes = sorted({entry.label for entry in sound})
    if len(classes) < 2:
        fault = next((f" ({entry.path}: {entry.fault})" for entry in found.entries if entry.fault), "")
        said = f"{root}: a classifier needs at least 2 classes, found {classes}{fault}"
        raise UserError(f"{said}: put the images of each class into a folder named after it, or give a table of labels")
    trained = {entry.label for entry in sound if entry.split in ("", "train")}
    if lost := next((entry for entry in sound if entry.label not in trained), None):
        near = ", ".join(get_close_matches(lost.label, trained, n=3, cutoff=0))
        said = f"{root}: class {lost.label!r} of {lost.split}/ has no images in train/ (but {near})"
        raise UserError(f"{said}: add some, remove it, or write both names alike")
    return Found(sorted(found.entries, key=lambda entry: (entry.path, entry.label)), found.notes)
