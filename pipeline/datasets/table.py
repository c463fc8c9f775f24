"""`csv`: a table with a row an image, in the folder that its paths start from.

Columns, in any order: path (or file, filename, image) and label (or class, target), if wanted split and group; others
are passed over. UTF-8; commas, semicolons or tabs. Values are text: the label 001 stays 001, and NA is a label.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pipeline.datasets import Entry, Found
from pipeline.datasets._folders import fault
from pipeline.datasets.image_folder import SPLITS

NAMES = ("csv",)
COLUMNS = {
    "path": ("path", "file", "filename", "image"),
    "label": ("label", "class", "target"),
    "split": ("split",),
    "group": ("group",),
}
DELIMITERS = ",;\t"


def find(source: str, root: Path, scratch: Path, labels: str) -> Found:
    table = root / labels
    if not table.is_file():
        raise ValueError(f"{table} is not a file: ingest.root is the table's folder, ingest.labels its name")
    unique: dict[tuple[str, ...], Entry] = {}
    for line, row in _rows(table):
        entry = _entry(root, f"{table}, line {line}", line, row)
        unique.setdefault(
            (entry.path, entry.label, entry.split, entry.group, entry.fault), entry
        )  # a repeated row is one image
    return Found(list(unique.values()))


def describes_images(table: Path) -> bool:
    """Whether it has the columns that are needed."""
    try:
        _header(table, _text(table))
    except ValueError:
        return False
    return True


def _text(table: Path) -> str:
    try:
        text = table.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{table} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from None
    if "\0" in text:
        raise ValueError(f"{table} is not a text: save it as CSV in UTF-8")
    return text


def _header(table: Path, text: str) -> tuple[str, dict[str, int]]:
    """The delimiter, and where each of COLUMNS stands."""
    found: list[str] = []
    for delimiter in DELIMITERS:
        first = next(csv.reader(text.splitlines(), delimiter=delimiter, skipinitialspace=True), [])
        names = [name.strip().lower() for name in first]
        places = {
            column: next(names.index(name) for name in aliases if name in names)
            for column, aliases in COLUMNS.items()
            if any(name in names for name in aliases)
        }
        if "path" in places and "label" in places:
            return delimiter, places
        found = max(found, names, key=len)
    raise ValueError(
        f"{table} has the columns {', '.join(found) or '(none)'}: in its first line there must be path (or file, "
        f"filename, image) and label (or class, target), and there may be split and group"
    )


def _rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The number of each line, and its values by column; `more` is what stands after the last column."""
    text = _text(table)
    delimiter, places = _header(table, text)
    lines = io.StringIO(text.replace("\r\n", "\n").replace("\r", "\n"), newline="")  # old spreadsheets write \r alone
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
    try:
        width = len(next(reader))
        for values in reader:
            if any(values):
                row = {name: values[i].strip() for name, i in places.items() if i < len(values)}
                yield reader.line_num, {**row, "more": "".join(values[width:])}
    except csv.Error as error:
        raise ValueError(f"{table}, line {reader.line_num} cannot be read ({error}): mend its quotes") from None


def _entry(root: Path, where: str, line: int, row: dict[str, str]) -> Entry:
    split = row.get("split", "").lower()
    if split and split not in SPLITS:
        raise ValueError(f"{where} has the split {row['split']!r}: it can be train, val or test, or empty")
    path, label = row.get("path", ""), row.get("label", "")
    entry = Entry(path or f"line {line}", label, SPLITS.get(split, ""), root, row.get("group", ""))
    if not path:
        return replace(entry, fault=f"no path in line {line}")
    if not label:
        return replace(entry, fault=f"no label in line {line}")
    if row["more"]:
        return replace(entry, fault=f"line {line} has more values than there are columns: quote what holds a delimiter")
    if "\\" in path and not (root / path).exists():  # written on Windows
        path = path.replace("\\", "/")
    inside = _inside(root, path)
    if inside is None:
        return replace(entry, fault=f"it lies outside {root}, which DVC watches")
    return replace(entry, path=inside.as_posix(), content=root / inside, fault=fault(root / inside))


def _inside(root: Path, path: str) -> Path | None:
    """The path relative to `root`; None if it leads out of it."""
    for folder in (Path.cwd() / root, root.resolve()):
        inside = Path(os.path.relpath(folder / path, folder))
        if ".." not in inside.parts:
            return inside
    return None
