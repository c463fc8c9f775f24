"""`init`: write a params.yaml that fits the data."""

import random
import re
import tempfile
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from pipeline.config import PARAMS, Ingest, Params, Validate, as_yaml
from pipeline.datasets import Entry, find
from pipeline.datasets.table import TABLES, tables_in
from pipeline.errors import UserError

LOOKED_AT = 300  # image files that are decoded, for their size and to compare them with one another
ALIKE = 2.0  # near-duplicates that an image has on average, where images are alike by nature
CPU_LIMIT = 10_000  # images an epoch of a first run: a CPU trains a few hundred of 32 pixels a second
EXACT = {"min_similarity": 1.0}  # for `validate`: scans of one digit are alike by nature, only copies are duplicates

Sections = dict[str, dict[str, Any]]  # of params.yaml: what differs from the defaults
# Training images, classes, image size, policy, and what is asked of near-duplicates
KNOWN: dict[str, tuple[int, int, int, str, dict[str, Any]]] = {
    "cifar10": (50_000, 10, 32, "standard", {}),
    "cifar100": (50_000, 100, 32, "standard", {}),
    "digits": (1_437, 10, 16, "digits", EXACT),
    "eurosat": (27_000, 10, 64, "standard", {}),
    "fashion_mnist": (60_000, 10, 28, "light", EXACT),
    "flowers102": (1_020, 102, 128, "standard", {}),
    "mnist": (60_000, 10, 28, "digits", EXACT),
    "stl10": (5_000, 10, 96, "standard", {}),
    "svhn": (73_257, 10, 32, "digits", EXACT),
}


def init(
    images: Annotated[Path | None, typer.Option(help="A folder (CLASS/* or train/CLASS/*), a CSV, an archive.")] = None,
    dataset: Annotated[str | None, typer.Option(help=f"A dataset that has a name: {', '.join(KNOWN)}.")] = None,
) -> None:
    """Write params.yaml with sensible values for the data; a file that is there is kept beside it."""
    if (images is None) == (dataset is None):
        raise UserError("give either --images PATH or --dataset NAME")
    params, notes = own(images) if images is not None else (builtin(dataset or ""), [])
    content = as_yaml(params).encode()
    if PARAMS.exists() and PARAMS.read_bytes() != content:
        backups = (Path(f"{PARAMS}.bak{number}") for number in ("", *range(2, 10_000)))
        backup = PARAMS.rename(next(path for path in backups if not path.exists()))
        print(f"kept the old {PARAMS} as {backup}")
    PARAMS.write_bytes(content)
    for note in notes:
        print(f"note: {note}")
    source, train = params.ingest, params.train
    limited = f", training on {train.limit:,} images (train.limit)" if train.limit else ""
    print(f"wrote {PARAMS} for {source.source} in {source.root}: {source.image_size} pixels, ", end="")
    print(f"{train.epochs} epochs, augmentation {params.augment.policy}{limited}\nnext: dvc repro")


def own(images: Path) -> tuple[Params, list[str]]:
    """Values for a folder, a table or an archive, from what is in it, and what a person should know of it."""
    ingest = _ingest(images)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            found = find(ingest.source, Path(ingest.root), Path(scratch), ingest.labels)
        except UserError as error:
            raise UserError(f"{error}{_table_in(images)}") from None
        entries = [entry for entry in found.entries if not entry.fault]
        image_size, partners = _looked_at(images, entries)
    notes, per_class = list(found.notes), Counter(entry.label for entry in entries)
    # A class of a few strays is none to fit to: `validate` will name it
    least = max(min(per_class.values()), int(median(per_class.values())) // 2)
    validate: dict[str, Any] = {"min_images_per_class": min(10, max(3, least))}
    if partners > ALIKE:
        validate |= EXACT
        notes.append(
            f"these images are alike by nature, with about {partners:,.0f} near-duplicates each, so only exact copies "
            f"count (validate.min_similarity); frames of videos: see split.group_pattern"
        )
    stem = images.resolve().name if ingest.source == "image_folder" else images.name.split(".")[0]
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-_") or "images"
    training = sum(entry.split in ("", "train") for entry in entries)
    accuracy = round(min(0.9, 1.5 / len(per_class)), 3)
    ingest = ingest.model_copy(update={"image_size": image_size})
    return filled(name, ingest, accuracy, {"validate": validate, **budget(training)}), notes


def _ingest(images: Path) -> Ingest:
    """Where the images are, for DVC: a path relative to the project where it is inside."""
    if not images.exists():
        raise UserError(f"{images} does not exist: give a folder, a CSV file or an archive of images")
    table = images.suffix.lower() in TABLES and not images.is_dir()
    project, root = Path.cwd(), (images.parent if table else images).resolve()
    if project.is_relative_to(root):  # DVC cannot watch it
        raise UserError(f"{root} holds the project itself: give the images a folder of their own")
    path = (root.relative_to(project) if root.is_relative_to(project) else root).as_posix()
    if table:
        return Ingest(source="csv", root=path, labels=images.name)
    return Ingest(source="image_folder" if root.is_dir() else "archive", root=path)


def _table_in(images: Path) -> str:
    """A hint for a folder whose labels stand in a table, or would if it had the right columns."""
    tables = tables_in(images)
    fit = [str(table) for table, unfit in tables.items() if not unfit]
    if fit:
        return f"; for the labels in its table say --images {' or '.join(fit)}"
    largest_first = sorted(tables, key=lambda table: -table.stat().st_size)[:4]
    return "".join(f"; {f'nor does {other} fit' if i else tables[other]}" for i, other in enumerate(largest_first))


def _looked_at(images: Path, entries: list[Entry]) -> tuple[int, float]:
    """The size to train at (32, 64 or 128) and the number of near-duplicates of an image, estimated from some."""
    import numpy as np

    from pipeline.artifacts import ImageRows
    from pipeline.decoding import decode
    from pipeline.inspection.duplicates import near_pairs
    from pipeline.preprocessing import Preprocessing

    sample = random.Random(0).sample(entries, k=min(LOOKED_AT, len(entries)))
    block = decode(sample, Preprocessing(32, "stretch", (255, 255, 255)))
    if not len(block.pixels_NHWC):
        name, _, reason = block.quarantined[0]
        raise UserError(f"{images}: none of {len(sample)} files is an image that can be read: {name}: {reason}")
    side = np.median(np.minimum(block.columns["width"], block.columns["height"]))
    _, once = np.unique(block.columns["sha256"], return_index=True)  # copies are not alike by nature
    rows, usual = ImageRows(block.pixels_NHWC, once), Validate()
    hashes = block.columns["phash"][once]
    pairs = near_pairs(hashes, rows, usual.max_hash_distance, usual.min_similarity, most=len(once))
    return 128 if side >= 96 else 64 if side >= 48 else 32, 2 * len(pairs) / len(once) ** 2 * len(entries)


def filled(name: str, ingest: Ingest, min_accuracy: float, sections: Sections, rate: float = 0.1) -> Params:
    """All parameters; `rate` is the learning rate of the two larger models."""
    rates = {"simple_cnn": 0.05, "modern_cnn": rate, "simple_resnet": rate}
    models = {model: {"architecture": model, "learning_rate": rate} for model, rate in rates.items()}
    given = {"experiment": name, "ingest": ingest, "models": models, **sections}
    given["registry"] = {"name": name, "min_accuracy": min_accuracy}
    return Params.model_validate({field.alias or key: {} for key, field in Params.model_fields.items()} | given)


def builtin(dataset: str) -> Params:
    """Raises UserError that lists the datasets there are."""
    if dataset not in KNOWN:
        raise UserError(f"no built-in dataset is called {dataset!r}; there are: {', '.join(KNOWN)}; else use --images")
    images, classes, size, policy, validate = KNOWN[dataset]
    ingest = Ingest(source=dataset, root="data/downloads", image_size=size)
    data: Sections = {"validate": validate, "augment": {"policy": policy}}
    if dataset == "digits":
        own: Sections = {"train": {"epochs": 10, "batch_size": 64}, "prune": {"epochs": 3}, "split": {"test": 0.2}}
        return filled(dataset, ingest, 0.9, data | own, rate=0.05)
    return filled(dataset, ingest, round(3 / classes, 3), data | budget(images))


def budget(training_images: int) -> Sections:
    """Epochs and images that end in minutes on a CPU; on a GPU all images and a longer schedule."""
    import torch

    if torch.cuda.is_available():
        batch_size = 512 if training_images > 20_000 else 128
        return {"train": {"epochs": 24, "batch_size": batch_size}, "prune": {"epochs": 8}}
    epochs, batch_size = 6, 128
    if training_images <= 5_000:  # a small dataset needs its epochs: no fewer images are shown in all, up to a point
        epochs, batch_size = min(60, max(15, 20_000 // training_images)), 32 if training_images > 500 else 16
    limit = CPU_LIMIT if training_images > CPU_LIMIT else 0
    train = {"epochs": epochs, "batch_size": batch_size, "limit": limit}
    return {"train": train, "prune": {"epochs": max(2, epochs // 4)}}
