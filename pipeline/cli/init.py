"""`init`: write a params.yaml that fits the data."""

from __future__ import annotations

import random
import re
import tempfile
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from pipeline.cli.presets import EXACT, Preset, budget, builtin, named
from pipeline.commands.options import DEFAULT_PARAMS, ParamsFile
from pipeline.config import check
from pipeline.datasets.table import TABLES, tables_in
from pipeline.errors import UserError

LOOKED_AT = 200  # image files whose size is read
COMPARED = 300  # image files that are compared with one another
ALIKE = 2.0  # near-duplicates that an image has on average, where images are alike by nature


def init(
    images: Annotated[
        Path | None, typer.Option(help="Images of your own: a folder (CLASS/* or train/CLASS/*), a CSV or an archive.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help=f"A dataset that has a name: {', '.join(named())}.")] = None,
    params: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Write params.yaml with sensible values for the data; a file that is there is kept beside it."""
    if (images is None) == (dataset is None):
        raise UserError("give either --images PATH or --dataset NAME")
    preset, notes = own(images) if images is not None else (builtin(dataset or ""), [])
    text = preset.render()
    check(text, str(params))  # before the old file is touched
    if params.exists() and params.read_bytes() != text.encode():
        backup = _free(params)
        params.rename(backup)
        print(f"kept the old {params} as {backup}")
    params.write_bytes(text.encode())
    for note in notes:
        print(f"note: {note}")
    limited = f", training on {preset.limit:,} images (train.limit)" if preset.limit else ""
    print(
        f"wrote {params} for {preset.source} in {preset.root}: {preset.image_size} pixels, {preset.epochs} epochs, "
        f"augmentation {preset.policy}{limited}\nnext: dvc repro"
    )


def _free(params: Path) -> Path:
    """A name that is not taken: params.yaml.bak, .bak2, ..."""
    candidates = (params.with_name(f"{params.name}.bak{n if n > 1 else ''}") for n in range(1, 10_000))
    return next(path for path in candidates if not path.exists())


def own(images: Path) -> tuple[Preset, list[str]]:
    """Values for a folder, a table or an archive, from what is in it, and what a person should know of it."""
    from pipeline.datasets import find

    source, root, labels = _source(images)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            found = find(source, root, Path(scratch), labels)
        except ValueError as error:
            raise UserError(f"{error}{_table_in(images)}") from None
        entries = [entry for entry in found.entries if not entry.fault]
        files = [entry.content for entry in entries if isinstance(entry.content, Path)]
        random.Random(0).shuffle(files)
        side = _typical_side(images, files)
        partners = _near_duplicates_each(files)
    notes, per_class = found.notes, Counter(entry.label for entry in entries)
    # A class of a few strays is none to fit to: `validate` will name it
    least = max(min(per_class.values()), int(median(per_class.values())) // 2)
    training = sum(entry.split in ("", "train") for entry in entries)
    stem = images.resolve().name if source == "image_folder" else images.name.split(".")[0]
    if partners > ALIKE:
        notes = [
            *notes,
            f"these images are alike by nature (an image has about {partners:,.0f} near-duplicates), so only exact "
            f"copies count as duplicates (validate.min_similarity); frames of videos: see split.group_pattern",
        ]
    preset = Preset(
        re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-_") or "images", source, _watched(root), labels=labels,
        image_size=side, min_images_per_class=min(10, max(3, least)),
        min_similarity=EXACT if partners > ALIKE else Preset.min_similarity,
        min_accuracy=round(min(0.9, 1.5 / len(per_class)), 3), **budget(training),
    )  # fmt: skip
    return preset, notes


def _source(images: Path) -> tuple[str, Path, str]:
    """Source, root and labels of params.yaml's `ingest`."""
    if images.is_dir():
        return "image_folder", images, Preset.labels
    if not images.exists():
        raise UserError(f"{images} does not exist: give a folder, a CSV file or an archive of images")
    if images.suffix.lower() in TABLES:
        return "csv", images.parent, images.name
    return "archive", images, Preset.labels


def _table_in(images: Path) -> str:
    """A hint for a folder whose labels stand in a table, or would if it had the right columns."""
    tables = tables_in(images)
    fit = [str(table) for table, unfit in tables.items() if not unfit]
    if fit:
        return f"; for the labels in its table say --images {' or '.join(fit)}"
    largest_first = sorted(tables, key=lambda table: -table.stat().st_size)[:4]
    return "".join(f"; {f'nor does {other} fit' if i else tables[other]}" for i, other in enumerate(largest_first))


def _watched(root: Path) -> str:
    """As DVC shall know it: relative where it is inside the project."""
    real, project = root.resolve(), Path.cwd()
    if project.is_relative_to(real):
        raise UserError(
            f"{root} holds the project itself, which DVC cannot watch: move the images into their own folder"
        )
    return (real.relative_to(project) if real.is_relative_to(project) else real).as_posix()


def _typical_side(images: Path, files: list[Path]) -> int:
    """32, 64 or 128: the largest that the median image fills; larger pictures are brought down to 128."""
    from io import BytesIO

    from PIL import Image
    from pillow_heif import register_heif_opener

    from pipeline.datasets import Entry
    from pipeline.decoding import decode
    from pipeline.image_files import content_of
    from pipeline.preprocessing import Preprocessing

    register_heif_opener()
    sides: list[int] = []
    for file in files:
        try:
            with Image.open(BytesIO(content_of(file))) as image:
                sides.append(min(image.size))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            continue  # `ingest` will say what is wrong with it
        if len(sides) == LOOKED_AT:
            break
    if not sides:
        block = decode([Entry(files[0].name, "", "", files[0])], Preprocessing(32, "stretch", (255, 255, 255)))
        ((name, _, reason),) = block.quarantined
        raise UserError(f"{images}: none of its {len(files)} files is an image that can be read: {name}: {reason}")
    typical = median(sides)
    return 128 if typical >= 96 else 64 if typical >= 48 else 32


def _near_duplicates_each(files: list[Path]) -> float:
    """How many near-duplicates an image has among all of them, estimated from some."""
    import numpy as np

    from pipeline.artifacts import ImageRows
    from pipeline.config import Validate
    from pipeline.datasets import Entry
    from pipeline.decoding import decode
    from pipeline.inspection.duplicates import near_pairs
    from pipeline.preprocessing import Preprocessing

    entries = [Entry(file.as_posix(), "", "", file) for file in files[:COMPARED]]
    block = decode(entries, Preprocessing(32, "stretch", (255, 255, 255)))
    _, once = np.unique(block.columns["sha256"], return_index=True)  # copies are not alike by nature
    count = len(once)
    if count < 2:  # `ingest` will say why they cannot be read
        return 0.0
    usual = Validate()
    rows = ImageRows(block.pixels_NHWC, once)
    pairs = near_pairs(block.columns["phash"][once], rows, usual.max_hash_distance, usual.min_similarity, most=count)
    return 2 * len(pairs) / count**2 * len(files)
