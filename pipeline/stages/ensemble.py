"""`ensemble@NAME`: one network that averages the probabilities of several trained ones, whole and pruned.

From there on it goes the way of every model: export, quantize, evaluate.
"""

from __future__ import annotations

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
from pipeline.networks.architectures.ensemble import Ensemble, Normalized
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
        raise UserError(f"params.yaml has no ensemble {name!r}; it has: {', '.join(config.ensembles) or 'none'}")

    def members(stage: str) -> dict[str, Member]:
        return {
            member: Member(*weights.load(layout.checkpoint(stage, member)), read_json(layout.metrics(stage, member)))
            for member in config.ensembles[name].members
        }

    dataset, device = read_dataset(), choose_device(config.device(name))
    checkpoint = layout.checkpoint("ensemble", name)
    whole, narrow = members("train"), members("prune")
    network, card = combine(whole)
    weights.save(checkpoint, network, card)
    measured = metrics(network, card, whole, dataset, device)
    network, card = combine(narrow)
    weights.save(layout.pruned_ensemble(name), network, card)
    measured["prune"] = pruned_metrics(network, card, narrow, dataset, device)
    write_metrics("ensemble", name, measured, checkpoint, splits=sha256(layout.SPLITS))
    return [
        f"{len(whole)} members",
        f"val accuracy {measured['best_val_accuracy']:.4f}",
        f"pruned {measured['prune']['best_val_accuracy']:.4f}",
    ]


def combine(members: dict[str, Member]) -> tuple[nn.Module, ModelCard]:
    """The mean of the members, and its card. Raises UserError where they are of different data."""
    (first, card), *others = [(name, member.card) for name, member in members.items()]
    for name, other in others:
        if (other.class_names, other.preprocessing) != (card.class_names, card.preprocessing):
            raise UserError(f"{name} was trained on other classes or images than {first}: run `dvc repro` first")
    cards = [member.card for member in members.values()]
    records = [
        Record(architecture=c.architecture, options=dict(c.options), mean=list(c.mean), std=list(c.std)) for c in cards
    ]
    networks = [member.network for member in members.values()]
    network = Ensemble([Normalized(net, r.mean, r.std) for net, r in zip(networks, records, strict=True)])
    combined = replace(
        card,
        architecture="ensemble",
        mean=(0.0,) * len(card.mean),  # each member normalizes the images itself
        std=(1.0,) * len(card.std),
        options={"members": [record.model_dump() for record in records]},
    )
    return network.eval(), combined


def metrics(
    network: nn.Module, card: ModelCard, members: dict[str, Member], dataset: Dataset, device: torch.device
) -> dict[str, Any]:
    """Facts of an ensemble of trained networks, under the names that a trained network's have."""
    images, labels = dataset.of("val")
    return {
        "best_val_accuracy": accuracy(probabilities(network, card, images, device), labels),
        "parameters": sum(member.metrics["parameters"] for member in members.values()),
        # Of the member that saw the most of them
        "training_images": max(member.metrics["training_images"] for member in members.values()),
        "members": list(members),
        "by_gradients": False,
    }


def pruned_metrics(
    network: nn.Module, card: ModelCard, members: dict[str, Member], dataset: Dataset, device: torch.device
) -> dict[str, Any]:
    """The same of an ensemble of pruned networks, and what is left of the work of the whole ones."""
    found = [member.metrics for member in members.values()]
    parameters, macs = sum(m["parameters"] for m in found), sum(m["macs"] for m in found)
    return metrics(network, card, members, dataset, device) | {
        "macs": macs,
        "parameters_kept": parameters / sum(m["parameters"] / m["parameters_kept"] for m in found),
        "macs_kept": macs / sum(m["macs"] / m["macs_kept"] for m in found),
    }
