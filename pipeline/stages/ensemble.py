"""`ensemble@NAME`: one network that averages the probabilities of several trained ones, whole and pruned.

From there on it goes the way of every model: export, quantize, evaluate.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from pipeline import layout
from pipeline.artifacts import Dataset, ModelCard, read_dataset, read_json, sha256, write_metrics
from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.evaluation.metrics import accuracy
from pipeline.networks import weights
from pipeline.networks.architectures.ensemble import Ensemble
from pipeline.networks.architectures.ensemble import Member as Record
from pipeline.networks.deployable import probabilities
from pipeline.training.device import choose_device


@dataclass(frozen=True)
class Member:
    """A network with its card, and the metrics.json of the stage that made it."""

    network: nn.Module
    card: ModelCard
    metrics: dict[str, Any]


def run(config: Params, name: str) -> list[str]:
    """Make one entry of `ensembles` from its trained and its pruned members."""
    if name not in config.ensembles:
        raise UserError(f"{name} is no entry of `ensembles`; there are: {', '.join(config.ensembles) or 'none'}")
    dataset, device = read_dataset(), choose_device(config.device(name))
    checkpoint, made = layout.checkpoint("ensemble", name), []
    for stage, path in (("train", checkpoint), ("prune", layout.pruned_ensemble(name))):
        members = {
            member: Member(*weights.load(layout.checkpoint(stage, member)), read_json(layout.metrics(stage, member)))
            for member in config.ensembles[name].members
        }
        network, card = combine(members)
        weights.save(path, network, card)
        made.append(metrics(network, card, members, dataset, device))
    whole, pruned = made
    write_metrics("ensemble", name, whole | {"prune": pruned}, checkpoint, splits=sha256(layout.SPLITS))
    accuracies = f"val accuracy {whole['best_val_accuracy']:.4f}", f"pruned {pruned['best_val_accuracy']:.4f}"
    return [f"{len(whole['members'])} members", *accuracies]


def combine(members: dict[str, Member]) -> tuple[nn.Module, ModelCard]:
    """The mean of the members, and its card. Raises UserError where they are of different data."""
    cards = {name: member.card for name, member in members.items()}
    (first, card), *others = cards.items()
    for name, other in others:
        if (other.class_names, other.preprocessing) != (card.class_names, card.preprocessing):
            raise UserError(f"{name} was trained on other classes or images than {first}: run `dvc repro` first")
    records = [
        Record(architecture=c.architecture, options=dict(c.options), mean=list(c.mean), std=list(c.std))
        for c in cards.values()
    ]
    network = Ensemble((member.network for member in members.values()), records)
    options = {"members": [record.model_dump() for record in records]}
    # Each member normalizes the images itself
    return network.eval(), replace(card, architecture="ensemble", mean=(0.0,) * 3, std=(1.0,) * 3, options=options)


def metrics(
    network: nn.Module, card: ModelCard, members: dict[str, Member], dataset: Dataset, device: torch.device
) -> dict[str, Any]:
    """What a single network's metrics.json says, under the same names; of pruned ones also what is left of the work."""
    images, labels = dataset.of("val")
    found = [member.metrics for member in members.values()]
    parameters = sum(m["parameters"] for m in found)
    made: dict[str, Any] = {
        "best_val_accuracy": accuracy(probabilities(network, card, images, device), labels),
        "parameters": parameters,
        "training_images": max(m["training_images"] for m in found),  # of the member that saw the most of them
        "members": list(members),
        "by_gradients": False,
    }
    if "macs" in found[0]:
        macs = made["macs"] = sum(m["macs"] for m in found)
        made["parameters_kept"] = parameters / sum(m["parameters"] / m["parameters_kept"] for m in found)
        made["macs_kept"] = macs / sum(m["macs"] / m["macs_kept"] for m in found)
    return made
