"""One file a kind of source. Each defines `find(source, root, scratch, labels)`, as below; nothing is decoded there.

A file that serves several sources names them in `NAMES`; otherwise the source is called as the file is.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Entry:
    """One labelled image, or what was found in the place of one.

    `path` names it to people (relative, with forward slashes); `split` is "", train, val or test, as the source says;
    `content` is the file, or the pixels (uint8 [H, W, 3]) of a source that keeps no files. `group` is what it shares
    with other images (a patient, a video), or "". `fault`, where not empty, says why it cannot be an image: an empty
    class folder, a link that loops, a row without a label; `content` is not looked at then.
    """

    path: str
    label: str
    split: str
    content: Path | np.ndarray
    group: str = ""
    fault: str = ""


def sources() -> dict[str, str]:
    """What `ingest.source` may be, and the module of this package that serves it."""
    modules = sorted(file.stem for file in Path(__file__).parent.glob("[a-z]*.py"))
    loaded = {module: importlib.import_module(f"pipeline.datasets.{module}") for module in modules}
    return {name: stem for stem, module in loaded.items() for name in getattr(module, "NAMES", (stem,))}


def find(source: str, root: Path, scratch: Path, labels: str = "labels.csv") -> list[Entry]:
    """The images of a source, sorted by path.

    `scratch` is an empty folder for files that are needed until they are decoded; the caller deletes it. `labels` is
    the table of the source `csv`. Raises ValueError naming the folder and the mend.
    """
    module = importlib.import_module(f"pipeline.datasets.{sources()[source]}")
    entries: list[Entry] = module.find(source, root, scratch, labels)
    _can_be_learned(root, entries)
    return sorted(entries, key=lambda entry: (entry.path, entry.label))


def _can_be_learned(root: Path, entries: list[Entry]) -> None:
    sound = [entry for entry in entries if not entry.fault]
    classes = {entry.label for entry in sound}
    if len(classes) < 2:
        faults = next((f" ({entry.path}: {entry.fault})" for entry in entries if entry.fault), "")
        raise ValueError(
            f"{root}: a classifier needs at least 2 classes, found {sorted(classes)}{faults}: add another one"
        )
    known = {entry.label for entry in sound if entry.split in ("", "train")}
    for entry in sound:
        if entry.label not in known:
            raise ValueError(
                f"{root}: class {entry.label!r} of {entry.split}/ has no images in train/: add some or remove the class"
            )
