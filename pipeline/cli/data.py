"""`data` and `accept`: look at a data set without training on it, and say that it is good."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import layout
from pipeline.cli.init import own
from pipeline.cli.table import table
from pipeline.config import load
from pipeline.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

BAR, SHOWN = 40, 40  # characters of the longest bar, classes that are listed


def data(
    images: Annotated[Path | None, typer.Argument(help="Folder, CSV or archive; else what params.yaml names.")] = None,
    page: Annotated[Path | None, typer.Option(help="A file for the page with thumbnails of all findings.")] = None,
) -> None:
    """Print what is in a data set: classes, counts, a histogram, and what is wrong with it, by the values of `init`."""
    from pipeline.artifacts import read_images
    from pipeline.inspection import gallery
    from pipeline.inspection.drift import read_profile
    from pipeline.stages.ingest import ingest
    from pipeline.stages.validate import validate

    if page is not None and (page.is_dir() or not os.access(page.parent, os.W_OK)):
        raise UserError(f"{page} cannot be written: give --page a file in a folder that exists and may be written to")
    values, notes = (load(), []) if images is None else own(images)
    with tempfile.TemporaryDirectory() as folder:
        array, docs = Path(folder) / "images.npy", Path(folder) / "docs"
        found = ingest(values.ingest, array)
        pixels = read_images(array)
        accepted = read_profile() if images is None else None  # it is of the project's own data
        result = validate(found.manifest, found.quarantine, pixels, accepted, values.validate_, docs)
        print(f"{values.ingest.source} {values.ingest.root}\n\n{overview(found.manifest, found.quarantine)}\n")
        if page is not None:
            page.write_text(gallery.page(result, found.quarantine, pixels), encoding="utf-8")
            print(f"thumbnails of all findings: {page}")
    for note in dict.fromkeys([*notes, *found.notes]):
        print(f"note: {note}")
    result.conclude()


def overview(manifest: pd.DataFrame, quarantine: pd.DataFrame) -> str:
    """Counts, sizes and formats, and a line with a bar for each class."""
    from pipeline.artifacts import unreadable

    counts = manifest["class"].value_counts().sort_index()
    splits, aside = _counted(manifest["source_split"].replace("", "not split")), len(unreadable(quarantine))
    sides = manifest[["width", "height"]].quantile([0, 0.5, 1]).itertuples(index=False)
    low, median, high = (f"{width:.0f} x {height:.0f}" for width, height in sides)
    shown, hidden = counts.head(SHOWN).items(), counts.iloc[SHOWN:]
    bars = [(str(name), f"{n:,}", "█" * max(1, round(BAR * n / counts.max()))) for name, n in shown]
    more = f"\n... and {len(hidden):,} more classes, {hidden.sum():,} images" if len(hidden) else ""
    return (
        f"{len(manifest):,} images of {len(counts)} classes ({splits}), {aside:,} files set aside\n"
        f"formats: {_counted(manifest['format'])}; modes: {_counted(manifest['mode'])}\n"
        f"sizes: {low} to {high}, median {median}\n\n{table(bars, right={1})}{more}"
    )


def _counted(values: pd.Series) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in values.value_counts().items())


def accept() -> None:
    """Accept the data set that was validated last: later ones are compared with it (drift)."""
    from pipeline.artifacts import read_json, read_table, sha256, write_json
    from pipeline.inspection.drift import PROFILE, profile

    judged = read_json(layout.VALIDATION) if layout.VALIDATION.exists() else {}
    if judged.get("manifest") != sha256(layout.MANIFEST):
        raise UserError(f"{layout.VALIDATION} is not of {layout.MANIFEST}: run `dvc repro validate` first")
    if judged["critical_failures"]:
        raise UserError(f"the data fail a critical check ({layout.VALIDATION}): fix them and run `dvc repro validate`")
    accepted = profile(read_table(layout.MANIFEST))
    write_json(PROFILE, accepted)
    print(f"accepted {accepted['images']:,} images of {len(accepted['classes'])} classes; commit {PROFILE}")
