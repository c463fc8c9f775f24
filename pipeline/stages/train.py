"""`train@MODEL`: fit one entry of `models` on the training split, chosen by the validation split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from pipeline.artifacts import Dataset, ModelCard
from pipeline.augmentation.augmenter import Augmenter
from pipeline.augmentation.policy import Policy
from pipeline.config import Train
from pipeline.evaluation.metrics import accuracy
from pipeline.networks.architectures import checked, find, learning_rates
from pipeline.networks.deployable import probabilities
from pipeline.networks.weights import fresh, weights_hash
from pipeline.training.balance import Balance, limited
from pipeline.training.checkpointing import NOWHERE, Vault
from pipeline.training.closed_form import fit_closed_form
from pipeline.training.device import choose_device
from pipeline.training.distributed import ALONE, Team
from pipeline.training.loop import Fitted, TrainingData, fit
from pipeline.training.progress import Epoch

LOOKED_AT = 4096  # training images from which a network may be prepared


@dataclass(frozen=True)
class Trained:
    """`fitted`: of the seed with the best validation accuracy, `seed`. `networks`: of all seeds. `history`: a row per
    epoch and seed, those of `seed` first. `seeds`: a row per seed. `metrics`: metrics.json. `rows`: those that were
    trained on."""

    fitted: Fitted
    seed: int
    networks: dict[int, nn.Module]
    history: pd.DataFrame
    seeds: pd.DataFrame
    metrics: dict[str, Any]
    rows: np.ndarray


def train(
    card: ModelCard,
    dataset: Dataset,
    balance: Balance,
    policy: Policy,
    recipe: Train,
    on_epoch: Callable[[int, Epoch], None],
    vault_of: Callable[[int], Vault] = lambda seed: NOWHERE,
    team: Team = ALONE,
) -> Trained:
    """One training for each of `recipe.seeds`. `on_epoch` is told the seed; `vault_of` one is where it resumes from."""
    fits, measured = {}, {}
    # The training images are the same for all seeds, which is what is compared
    data = training_data(dataset, balance, recipe)
    by_gradients = not hasattr(find(card.architecture), "solve")
    for seed in range(recipe.seed, recipe.seed + recipe.seeds):
        seeded = recipe.model_copy(update={"seed": seed})
        if recipe.seeds > 1 and team.leads:
            print(f"seed {seed}, {seed - recipe.seed + 1} of {recipe.seeds}", flush=True)

        def told(epoch: Epoch, seed: int = seed) -> None:
            on_epoch(seed, epoch)

        fits[seed] = _fit(card, data, seeded, policy, told, vault_of(seed), team)
        measured[seed] = metrics(fits[seed], card, dataset, data) | {"by_gradients": by_gradients}
    best = max(fits, key=lambda seed: (measured[seed]["best_val_accuracy"], -seed))
    order = [best, *(seed for seed in fits if seed != best)]
    return Trained(
        fits[best],
        best,
        {seed: fits[seed].network for seed in order},
        pd.concat([_numbered(fits[seed].history, seed) for seed in order], ignore_index=True),
        pd.DataFrame([{
            "seed": seed,
            "best_epoch": fits[seed].best_epoch,
            "val_accuracy": measured[seed]["best_val_accuracy"],
            "val_loss": float(fits[seed].history["val_loss"].iloc[fits[seed].best_epoch - 1]),
            "weights": weights_hash(fits[seed].network),
            "shipped": seed == best,
        } for seed in order]),
        measured[best],
        data.rows,
    )  # fmt: skip


def _numbered(history: pd.DataFrame, seed: int) -> pd.DataFrame:
    return history.assign(seed=seed)[["seed", *history.columns]]


def _fit(
    card: ModelCard,
    data: TrainingData,
    recipe: Train,
    policy: Policy,
    on_epoch: Callable[[Epoch], None],
    vault: Vault,
    team: Team,
) -> Fitted:
    network, rates = prepared(card, data, recipe.seed)
    solve = getattr(find(card.architecture), "solve", None)
    if solve is None:
        return fit(network, card, data, recipe, policy, on_epoch, rates=rates, vault=vault, team=team)
    # Each process of a team does the same
    said = on_epoch if team.leads else lambda epoch: None
    return fit_closed_form(network, solve, card, data, recipe, choose_device(recipe.device), said)


def prepared(card: ModelCard, data: TrainingData, seed: int) -> tuple[nn.Module, dict[str, float]]:
    """A network as its training begins with it, and the factors on the learning rate of some of its parameters."""
    torch.manual_seed(seed)
    network = fresh(card)
    file, options = find(card.architecture), checked(card.architecture, card.options)
    if hasattr(file, "pretrain"):
        file.pretrain(network, options)
    if hasattr(file, "prepare"):
        some = np.random.default_rng(seed).permutation(data.rows)[:LOOKED_AT]
        plain = Augmenter(Policy(), card.mean, card.std, torch.device("cpu"), seed)
        file.prepare(network, plain(torch.from_numpy(data.images_NHWC[np.sort(some)])))
    return network, learning_rates(network, card.architecture, card.options)


def training_data(dataset: Dataset, balance: Balance, recipe: Train) -> TrainingData:
    """What a fit may see: the training rows (all, or `limit` of them) and the validation rows."""
    index = limited(balance.sample_index, recipe.limit, recipe.seed)
    weights = index["weight"].to_numpy()
    return TrainingData(
        images_NHWC=dataset.images_NHWC,
        labels=dataset.labels,
        rows=index["row"].to_numpy(),
        val_rows=dataset.rows("val"),
        class_weights=np.asarray(balance.class_weights),
        logit_offsets=np.asarray(balance.logit_offsets),
        draw_weights=None if (weights == weights[0]).all() else weights,
    )


def metrics(fitted: Fitted, card: ModelCard, dataset: Dataset, data: TrainingData) -> dict[str, Any]:
    """Facts of a fitted network; the validation accuracy is measured again in float32."""
    images, labels = dataset.of("val")
    last = fitted.history.iloc[fitted.best_epoch - 1]
    return {
        "best_val_accuracy": accuracy(probabilities(fitted.network, card, images, fitted.placement.device), labels),
        "train_accuracy_at_best": float(last["train_accuracy"]),
        "best_epoch": fitted.best_epoch,
        "epochs": len(fitted.history),
        "parameters": sum(parameter.numel() for parameter in fitted.network.parameters()),
        "training_images": len(np.unique(data.rows)),
    }
