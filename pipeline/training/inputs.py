"""What the data stages left for training, and the card of the network that comes of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts import Dataset, ModelCard, read_dataset, read_json, read_table
from pipeline.augmentation.policy import Policy
from pipeline.config import Model
from pipeline.networks.architectures import checked, find
from pipeline.preprocessing import Preprocessing
from pipeline.training.balance import Balance


@dataclass(frozen=True)
class Material:
    """What `augment` left for training."""

    dataset: Dataset
    policy: Policy
    balance: Balance
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def inputs(self) -> list[Any]:
        """What a training makes of all this depends on."""
        index = self.balance.sample_index
        return [self.policy, self.balance.class_weights, self.balance.logit_offsets, index.to_csv(index=False)]


def material_of(images: Path, splits: Path, augmented: Path) -> Material:
    policy, stats = read_json(augmented / "policy.json"), read_json(augmented / "norm_stats.json")
    return Material(
        read_dataset(images, splits),
        Policy(**policy["policy"]),
        Balance(read_table(augmented / "sample_index.parquet"), policy["class_weights"], policy["logit_offsets"]),
        tuple(stats["mean"]),
        tuple(stats["std"]),
    )


def card_of(model: Model, material: Material, preprocessing: Path) -> ModelCard:
    prepared = Preprocessing.from_record(read_json(preprocessing))
    file, options = find(model.architecture), checked(model.architecture, model.options)
    own = file.statistics(options) if hasattr(file, "statistics") else None
    mean, std = own or (material.mean, material.std)
    return ModelCard(model.architecture, material.dataset.class_names, prepared, mean, std, model.options)
