"""One file a source of labelled images. Each defines `find(root) -> list[Entry]`; nothing is decoded there."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Entry:
    """One labelled image.

    `path` names it to people (relative, with forward slashes); `split` is "", train, val or test, as the source says;
    `content` is the file, or the pixels (uint8 [H, W, 3]) of a source that keeps no files.
    """

    path: str
    label: str
    split: str
    content: Path | np.ndarray


def find(source: str, root: Path) -> list[Entry]:
    """The images of a source, sorted by path. Raises ValueError naming the folder and the mend."""
    module = importlib.import_module(f"pipeline.datasets.{source}")
    entries: list[Entry] = module.find(root)
    classes = {entry.label for entry in entries}
    if len(classes) < 2:
        raise ValueError(f"{root}: a classifier needs at least 2 classes, found {sorted(classes)}: add another folder")
    return entries
