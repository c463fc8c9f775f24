"""`init`: write a params.yaml that fits the data."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.commands.options import DEFAULT_PARAMS, ParamsFile
from pipeline.config import check, files_of

DOWNLOADS = "data/downloads"
LOOKED_AT = 200  # image files whose size is read
# A CPU trains a few hundred images of 32 pixels a second: more than this in one epoch is not a first run
CPU_LIMIT = 10_000


@dataclass(frozen=True)
class Preset:
    """The values of params.yaml that depend on the data."""

    name: str
    source: str
    root: str
    image_size: int = 32
    policy: str = "standard"
    epochs: int = 8
    prune_epochs: int = 4
    batch_size: int = 128
    limit: int = 0
    test_share: float = 0.1
    min_images_per_class: int = 10
    min_accuracy: float = 0.3
    rounds: int = 30
    labels: str = "labels.csv"
    min_similarity: float = 0.9
    learning_rates: dict[str, float] = field(
        default_factory=lambda: {"simple_cnn": 0.05, "modern_cnn": 0.1, "simple_resnet": 0.1}
    )

    def render(self) -> str:
        from jinja2 import Environment, StrictUndefined

        template = (Path(__file__).parent.parent / "params.yaml.j2").read_text()
        environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
        # YAML is a superset of JSON: a quoted name may hold anything
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        return environment.from_string(template).render(vars(self))


def init(
    images: Annotated[Path | None, typer.Option(help="A folder of your own: CLASS/* or train/CLASS/*.")] = None,
    dataset: Annotated[str | None, typer.Option(help="A built-in dataset, e.g. digits or cifar10.")] = None,
    params: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Write params.yaml with sensible values for the data; a file that is there is kept beside it."""
    if (images is None) == (dataset is None):
        raise ValueError("give either --images DIR or --dataset NAME")
    preset = _folder(images) if images is not None else _builtin(dataset or "")
    text = preset.render()
    check(text, str(params))  # before the old file is touched
    if params.exists() and params.read_text() != text:
        backup = _free(params)
        params.rename(backup)
        print(f"kept the old {params} as {backup}")
    params.write_text(text)
    limited = f", training on {preset.limit:,} images (train.limit)" if preset.limit else ""
    print(
        f"wrote {params} for {preset.source} in {preset.root}: {preset.image_size} pixels, {preset.epochs} epochs, "
        f"augmentation {preset.policy}{limited}\nnext: dvc repro"
    )


def _free(params: Path) -> Path:
    """A name that is not taken: params.yaml.bak, .bak2, ..."""
    candidates = (params.with_name(f"{params.name}.bak{n if n > 1 else ''}") for n in range(1, 10_000))
    return next(path for path in candidates if not path.exists())


def _builtin(dataset: str) -> Preset:
    if dataset == "digits":
        return Preset(
            "digits", "digits", DOWNLOADS, image_size=16, policy="digits", epochs=10, prune_epochs=3, batch_size=64,
            test_share=0.2, min_accuracy=0.9,
            learning_rates={"simple_cnn": 0.05, "modern_cnn": 0.05, "simple_resnet": 0.05},
        )  # fmt: skip
    if dataset == "cifar10":
        return Preset("cifar10", "cifar10", DOWNLOADS, **_budget(50_000))
    built_in = [name for name in files_of("datasets") if name != "image_folder"]
    raise ValueError(f"no built-in dataset is called {dataset!r}; there are: {', '.join(built_in)}; else use --images")


def _folder(images: Path) -> Preset:
    from pipeline.datasets import find

    entries = find("image_folder", images)
    per_class: dict[str, int] = {}
    for entry in entries:
        per_class[entry.label] = per_class.get(entry.label, 0) + 1
    step = max(1, len(entries) // LOOKED_AT)
    side = _typical_side([entry.content for entry in entries[::step] if isinstance(entry.content, Path)])
    training = sum(entry.split in ("", "train") for entry in entries)
    inside = images.resolve().is_relative_to(Path.cwd())
    root = images.resolve().relative_to(Path.cwd()) if inside else images.resolve()
    smallest = min(per_class.values())
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", images.resolve().name).strip("-_") or "images"
    return Preset(
        name, "image_folder", root.as_posix(), image_size=side, min_images_per_class=min(10, max(3, smallest)),
        min_accuracy=round(min(0.9, 1.5 / len(per_class)), 3), **_budget(training),
    )  # fmt: skip


def _budget(training_images: int) -> dict[str, Any]:
    """Epochs and images that end in minutes on a CPU; on a GPU all images and a longer schedule."""
    import torch

    if torch.cuda.is_available():
        return {"epochs": 24, "prune_epochs": 8, "batch_size": 512 if training_images > 20_000 else 128}
    # A small dataset needs its epochs: no fewer images are shown to the network in all, up to a point
    epochs = 6 if training_images > 5_000 else min(60, max(15, 20_000 // training_images))
    batch = 128 if training_images > 5_000 else 32 if training_images > 500 else 16
    return {"epochs": epochs, "prune_epochs": max(2, epochs // 4), "batch_size": batch,
            "limit": CPU_LIMIT if training_images > CPU_LIMIT else 0}  # fmt: skip


def _typical_side(files: list[Path]) -> int:
    """32, 64 or 128: the largest that the median image fills; larger pictures are brought down to 128."""
    from statistics import median

    from PIL import Image

    sides = []
    for file in files:
        try:
            with Image.open(file) as image:
                sides.append(min(image.size))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            continue  # `ingest` will say what is wrong with it
    if not sides:
        raise ValueError(f"none of the first {len(files)} files is an image that can be read: look at {files[0]}")
    typical = median(sides)
    return 128 if typical >= 96 else 64 if typical >= 48 else 32
