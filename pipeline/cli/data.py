"""`data` and `accept`: look at a data set without training on it, and say that it is good."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.init import own
from pipeline.commands.options import DEFAULT_ARTIFACTS, DEFAULT_PARAMS, Artifacts, ParamsFile
from pipeline.config import load
from pipeline.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

BAR, SHOWN = 40, 40  # characters of the longest bar, classes that are listed


def data(
    images: Annotated[
        Path | None, typer.Argument(help="A folder, a CSV or an archive; else what params.yaml names.")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Where to write the page with thumbnails of all findings.")] = None,
    params: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Print what is in a data set: classes, counts, a histogram, and what is wrong with it, by the values of `init`."""
    from pipeline.artifacts import read_images, unreadable
    from pipeline.commands.data import say
    from pipeline.inspection import findings, gallery
    from pipeline.stages.ingest import ingest
    from pipeline.stages.validate import validate

    values, notes = (load(params), []) if images is None else own(images)
    config, asked = values.ingest, values.validate_
    with tempfile.TemporaryDirectory() as folder:
        array = Path(folder) / "images.npy"
        found = ingest(config, array)
        pixels = read_images(array)
        result = validate(found.manifest, found.quarantine, pixels, None, asked, Path(folder) / "docs")
        print(f"{config.source} {config.root}\n\n{overview(found.manifest, unreadable(found.quarantine))}\n")
        say(result.findings)
        if page is not None:
            html = gallery.page(result.findings, result.images, result.pairs, found.quarantine, pixels)
            page.write_text(html, encoding="utf-8")
            print(f"\nthumbnails of all findings: {page}")
    for note in dict.fromkeys([*notes, *found.notes]):
        print(f"note: {note}")
    findings.raise_critical(result.findings)


def overview(manifest: pd.DataFrame, quarantine: pd.DataFrame) -> str:
    """Counts, sizes and formats, and a line with a bar for each class."""
    counts = manifest["class"].value_counts().sort_index()
    splits = manifest["source_split"].replace("", "not split").value_counts()
    side = manifest[["width", "height"]]
    lines = [
        f"{len(manifest):,} images of {len(counts)} classes ({_counted(splits)}), {len(quarantine):,} files set aside",
        f"formats: {_counted(manifest['format'].value_counts())}; modes: {_counted(manifest['mode'].value_counts())}",
        f"sizes: {side['width'].min()} x {side['height'].min()} to {side['width'].max()} x {side['height'].max()}, "
        f"median {side['width'].median():.0f} x {side['height'].median():.0f}",
        "",
    ]
    width = max(len(str(name)) for name in counts.index[:SHOWN])
    for name, count in counts.head(SHOWN).items():
        bar = "█" * max(1, round(BAR * count / counts.max()))
        lines.append(f"{name!s:{width}}  {count:8,}  {bar}")
    if len(counts) > SHOWN:
        lines.append(f"... and {len(counts) - SHOWN:,} more classes, {counts.iloc[SHOWN:].sum():,} images")
    return "\n".join(lines)


def _counted(counts: pd.Series) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def accept(
    reference: Annotated[Path, typer.Option(help="The folder of the accepted profile.")] = Path("data/reference"),
    artifacts: Artifacts = DEFAULT_ARTIFACTS,
) -> None:
    """Accept the data set that was validated last: later ones are compared with it (drift)."""
    from pipeline.artifacts import PROFILE, read_json, read_table, sha256, write_json
    from pipeline.inspection.drift import profile

    validation, manifest = artifacts / "validate" / "validation.json", artifacts / "ingest" / "manifest.parquet"
    if not validation.exists() or not manifest.exists():
        raise UserError(f"{validation} is not there: run `dvc repro validate` first")
    judged = read_json(validation)
    if judged["manifest"] != sha256(manifest):
        raise UserError(f"{manifest} is newer than {validation}: run `dvc repro validate` first")
    if judged["critical_failures"]:
        raise UserError(f"the data fail a critical expectation ({validation}): mend them and run `dvc repro validate`")
    accepted = profile(read_table(manifest))
    write_json(reference / PROFILE, accepted)
    print(f"accepted {accepted['images']:,} images of {len(accepted['classes'])} classes; commit {reference / PROFILE}")
