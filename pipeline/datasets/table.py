"""`csv`: a table with a row an image, in the folder that its paths start from. UTF-8; commas, semicolons or tabs. Other
columns than COLUMNS are passed over. Values are text: the label 001 stays 001, and NA is a label."""

import csv
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from difflib import get_close_matches
from io import StringIO
from pathlib import Path, PurePosixPath

from pipeline.datasets import Entry, Found
from pipeline.datasets._folders import files
from pipeline.datasets.image_folder import SPLITS
from pipeline.errors import UserError

NAMES = ("csv",)
COLUMNS = dict.fromkeys(("path", "file", "filename", "image"), "path")
COLUMNS |= {**dict.fromkeys(("label", "class", "target"), "label"), "split": "split", "group": "group"}
TABLES = {".csv", ".tsv"}
OUTSIDE = "it lies outside {}, which DVC watches"


def find(source: str, root: Path, scratch: Path, labels: str) -> Found:
    table = root / labels
    if not table.is_file():
        raise UserError(f"{table} is not a file: ingest.root is the table's folder, ingest.labels its name")
    entries = list(dict.fromkeys(_entry(root, table, line, row) for line, row in _rows(table)))  # each row once
    if not entries:
        raise UserError(f"{table} has a header but no rows: write one for each image")
    written = [entry.path for entry in entries if entry.fault in ("", OUTSIDE.format(root))]
    lost = [path for path in written if not os.path.exists(root / path)]  # noqa: PTH110  # Path raises at long names
    if len(lost) > len(entries) / 2:
        stem = PurePosixPath(lost[0]).stem.casefold()  # of one in another folder, of another kind, in capitals
        there = [file for file, fault in files(root, frozenset()) if not fault and file.stem.casefold() == stem]
        alike = get_close_matches(lost[0], [str(file.relative_to(root)) for file in there], n=1, cutoff=0)
        said = f"{table}: {len(lost):,} of {len(entries):,} files are not there; the first was looked for at "
        said += f"{root / lost[0]}{f', but {alike[0]} is' if alike else ''}"
        raise UserError(f"{said}: correct the table's paths, which start from its folder")
    return Found(entries)


def tables_in(folder: Path) -> dict[Path, str]:
    """The tables in a folder, and why one cannot be a list of images, or ""."""
    tables = {}
    for table in sorted(path for path in folder.glob("[!.]*") if path.suffix.lower() in TABLES and path.is_file()):
        try:
            _read(table)
            tables[table] = ""
        except UserError as error:
            tables[table] = str(error)
    return tables


def _read(table: Path) -> tuple[str, str, list[str]]:
    """Its text, its delimiter, and its columns by the names that the values of COLUMNS give them."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{table} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from None
    widest: list[str] = []
    for delimiter in ",;\t":
        header = next(csv.reader(StringIO(text), delimiter=delimiter, skipinitialspace=True), [])
        names = [name.strip().lower() for name in header]
        columns = [COLUMNS.get(name, "") for name in names]
        known = Counter(filter(None, columns))
        if {"path", "label"} <= set(known) and max(known.values()) == 1:
            return text, delimiter, columns
        widest = max(widest, names, key=len)
    said = f"{table} has the columns {', '.join(widest) or '(none)'}: one has to be path (or file, filename, image)"
    raise UserError(f"{said} and one label (or class, target); there may be one split and one group")


def _rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The number of each line, and its values by column; `more` is what stands after the last column."""
    text, delimiter, columns = _read(table)
    reader = csv.reader(StringIO(text), delimiter=delimiter, strict=True, skipinitialspace=True)
    try:
        next(reader)
        for values in reader:
            if any(values):
                row = {name: value.strip() for name, value in zip(columns, values, strict=False)}
                yield reader.line_num, {**row, "more": "".join(values[len(columns) :])}
    except csv.Error as error:
        raise UserError(f"{table}, line {reader.line_num} cannot be read ({error}): fix its quotes") from None


def _entry(root: Path, table: Path, line: int, row: dict[str, str]) -> Entry:
    split = row.get("split", "").lower()
    if split and split not in SPLITS:
        raise UserError(f"{table}, line {line} has the split {row['split']!r}: it can be train, val or test, or empty")
    path, label = row.get("path", ""), row.get("label", "")
    entry = Entry(path or f"line {line}", label, SPLITS.get(split, ""), root, row.get("group", ""))
    if not (path and label):
        return replace(entry, fault=f"no {'label' if path else 'path'} in line {line}")
    if row["more"]:
        return replace(entry, fault=f"line {line} has more values than there are columns: quote what holds a delimiter")
    if "\\" in path and not os.path.exists(root / path):  # noqa: PTH110  # written on Windows
        path = path.replace("\\", "/")
    for folder in (Path.cwd() / root, root.resolve()):
        inside = Path(os.path.relpath(folder / path, folder))
        if ".." not in inside.parts:
            return replace(entry, path=inside.as_posix(), content=root / inside)
    return replace(entry, fault=OUTSIDE.format(root))
