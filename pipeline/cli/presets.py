"""What `init` writes for the datasets that have a name, and how much training fits the machine."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

DOWNLOADS = "data/downloads"
# A CPU trains a few hundred images of 32 pixels a second: more than this in one epoch is not a first run
CPU_LIMIT = 10_000
EXACT = 1.0  # scans of one digit are alike by nature: only exact copies are duplicates


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

        template = (Path(__file__).parent.parent / "params.yaml.j2").read_text(encoding="utf-8")
        environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
        # YAML is a superset of JSON: a quoted name may hold anything
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        return environment.from_string(template).render(vars(self))


@dataclass(frozen=True)
class Known:
    """A downloadable dataset: training images, classes, and what suits it."""

    training_images: int
    classes: int
    image_size: int = Preset.image_size
    policy: str = Preset.policy
    min_similarity: float = Preset.min_similarity


KNOWN = {
    "cifar10": Known(50_000, 10),
    "cifar100": Known(50_000, 100),
    "eurosat": Known(27_000, 10, image_size=64),
    "fashion_mnist": Known(60_000, 10, image_size=28, policy="light", min_similarity=EXACT),
    "flowers102": Known(1_020, 102, image_size=128),
    "mnist": Known(60_000, 10, image_size=28, policy="digits", min_similarity=EXACT),
    "stl10": Known(5_000, 10, image_size=96),
    "svhn": Known(73_257, 10, policy="digits", min_similarity=EXACT),
}


def named() -> list[str]:
    """The datasets that `builtin` knows."""
    return sorted([*KNOWN, "digits"])


def builtin(dataset: str) -> Preset:
    """Raises UserError that lists the datasets there are."""
    if dataset == "digits":
        return Preset(
            "digits", "digits", DOWNLOADS, image_size=16, policy="digits", epochs=10, prune_epochs=3, batch_size=64,
            test_share=0.2, min_accuracy=0.9, min_similarity=EXACT,
            learning_rates={"simple_cnn": 0.05, "modern_cnn": 0.05, "simple_resnet": 0.05},
        )  # fmt: skip
    if dataset not in KNOWN:
        raise UserError(
            f"no built-in dataset is called {dataset!r}; there are: {', '.join(named())}; else use --images"
        )
    known = KNOWN[dataset]
    return Preset(
        dataset, dataset, DOWNLOADS, image_size=known.image_size, policy=known.policy,
        min_similarity=known.min_similarity, min_accuracy=round(3 / known.classes, 3), **budget(known.training_images),
    )  # fmt: skip


def budget(training_images: int) -> dict[str, Any]:
    """Epochs and images that end in minutes on a CPU; on a GPU all images and a longer schedule."""
    import torch

    if torch.cuda.is_available():
        return {"epochs": 24, "prune_epochs": 8, "batch_size": 512 if training_images > 20_000 else 128}
    # A small dataset needs its epochs: no fewer images are shown to the network in all, up to a point
    epochs = 6 if training_images > 5_000 else min(60, max(15, 20_000 // training_images))
    batch = 128 if training_images > 5_000 else 32 if training_images > 500 else 16
    return {"epochs": epochs, "prune_epochs": max(2, epochs // 4), "batch_size": batch,
            "limit": CPU_LIMIT if training_images > CPU_LIMIT else 0}  # fmt: skip
