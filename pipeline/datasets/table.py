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
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from pipeline.datasets import Entry, Found
from pipeline.datasets._folders import fault, files
from pipeline.datasets.image_folder import SPLITS
from pipeline.errors import UserError

NAMES = ("csv",)
COLUMNS = {
    "path": ("path", "file", "filename", "image"),
    "label": ("label", "class", "target"),
    "split": ("split",),
    "group": ("group",),
}
DELIMITERS = ",;\t"
TABLES = {".csv", ".tsv"}
OUTSIDE = "it lies outside {}, which DVC watches"


def find(source: str, root: Path, scratch: Path, labels: str) -> Found:
    table = root / labels
    if not table.is_file():
        raise UserError(f"{table} is not a file: ingest.root is the table's folder, ingest.labels its name")
    unique: dict[tuple[str, ...], Entry] = {}
    for line, row in _rows(table):
        entry = _entry(root, f"{table}, line {line}", line, row)
        unique.setdefault(
            (entry.path, entry.label, entry.split, entry.group, entry.fault), entry
        )  # a repeated row is one image
    entries = list(unique.values())
    if not entries:
        raise UserError(f"{table} has a header but no rows: write one for each image")
    written = [entry for entry in entries if entry.fault in ("", OUTSIDE.format(root))]
    # Path.exists would raise where a name is too long
    lost = [entry.path for entry in written if not os.path.exists(root / entry.path)]  # noqa: PTH110
    if len(lost) > len(entries) / 2:
        raise UserError(
            f"{table}: {len(lost):,} of {len(entries):,} files are not there; the first was looked for at "
            f"{root / lost[0]}{_offer(root, PurePosixPath(lost[0]))}"
        )
    return Found(entries)


def _offer(root: Path, written: PurePosixPath) -> str:
    """The file that is likely meant, and in what its path differs."""
    there = [PurePosixPath(file.relative_to(root)) for file, why in files(root, frozenset()) if not why]
    names = {written.name.casefold(), written.stem.casefold()}
    alike = [str(file) for file in there if names & {file.name.casefold(), file.stem.casefold()}]
    for nearest in get_close_matches(str(written), alike, n=1, cutoff=0):
        file = PurePosixPath(nearest)
        parts = {"folder": (written.parent, file.parent), "extension": (written.suffix, file.suffix)}
        differ = [name for name, (one, other) in parts.items() if str(one).casefold() != str(other).casefold()]
        return f", but {file} is: correct the {' and '.join(differ) or 'upper and lower case'} in the table's paths"
    return ": paths start from the table's folder"


def tables_in(folder: Path) -> dict[Path, str]:
    """The tables in a folder, and why one cannot be a list of images, or ""."""
    tables = {}
    for table in sorted(path for path in folder.glob("[!.]*") if path.suffix.lower() in TABLES and path.is_file()):
        try:
            _header(table, _text(table))
            tables[table] = ""
        except ValueError as error:
            tables[table] = str(error)
    return tables


def _text(table: Path) -> str:
    try:
        text = table.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{table} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from None
    if "\0" in text:
        raise UserError(f"{table} is not a text: save it as CSV in UTF-8")
    return text


def _header(table: Path, text: str) -> tuple[str, dict[str, int]]:
    """The delimiter, and where each of COLUMNS stands."""
    found: list[str] = []
    for delimiter in DELIMITERS:
        first = next(csv.reader(text.splitlines(), delimiter=delimiter, skipinitialspace=True), [])
        names = [name.strip().lower() for name in first]
        places = {column: [i for i, name in enumerate(names) if name in any_of] for column, any_of in COLUMNS.items()}
        if places["path"] and places["label"]:
            for column, several in places.items():
                if len(several) > 1:
                    doubtful = ", ".join(names[i] for i in several)
                    raise UserError(f"{table} has the columns {doubtful}, each of which may be the {column}: keep one")
            return delimiter, {column: only for column, one in places.items() for only in one}
        found = max(found, names, key=len)
    raise UserError(
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
        raise UserError(f"{table}, line {reader.line_num} cannot be read ({error}): mend its quotes") from None


def _entry(root: Path, where: str, line: int, row: dict[str, str]) -> Entry:
    split = row.get("split", "").lower()
    if split and split not in SPLITS:
        raise UserError(f"{where} has the split {row['split']!r}: it can be train, val or test, or empty")
    path, label = row.get("path", ""), row.get("label", "")
    entry = Entry(path or f"line {line}", label, SPLITS.get(split, ""), root, row.get("group", ""))
    if not path:
        return replace(entry, fault=f"no path in line {line}")
    if not label:
        return replace(entry, fault=f"no label in line {line}")
    if row["more"]:
        return replace(entry, fault=f"line {line} has more values than there are columns: quote what holds a delimiter")
    if "\\" in path and not os.path.exists(root / path):  # noqa: PTH110  # written on Windows
        path = path.replace("\\", "/")
    inside = _inside(root, path)
    if inside is None:
        return replace(entry, fault=OUTSIDE.format(root))
    return replace(entry, path=inside.as_posix(), content=root / inside, fault=fault(root / inside))


def _inside(root: Path, path: str) -> Path | None:
    """The path relative to `root`; None if it leads out of it."""
    for folder in (Path.cwd() / root, root.resolve()):
        inside = Path(os.path.relpath(folder / path, folder))
        if ".." not in inside.parts:
            return inside
    return None
