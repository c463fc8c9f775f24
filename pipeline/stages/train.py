"""`train@MODEL`: fit one entry of `models` on the training split, chosen by the validation split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pipeline.architectures import find
from pipeline.artifacts import Dataset, ModelCard
from pipeline.config import Train
from pipeline.evaluation.metrics import accuracy
from pipeline.training.balance import Balance, limited
from pipeline.training.checkpoint import fresh
from pipeline.training.closed_form import fit_closed_form
from pipeline.training.deployable import probabilities
from pipeline.training.device import choose_device
from pipeline.training.loop import Epoch, Fitted, TrainingData, fit
from pipeline.training.policy import Policy


def train(
    card: ModelCard,
    dataset: Dataset,
    balance: Balance,
    policy: Policy,
    recipe: Train,
    on_epoch: Callable[[Epoch], None],
) -> tuple[Fitted, dict[str, Any]]:
    """The fitted network and its metrics.json."""
    torch.manual_seed(recipe.seed)
    network = fresh(card)
    data = training_data(dataset, balance, recipe)
    solve = getattr(find(card.architecture), "solve", None)
    if solve is None:
        fitted = fit(network, card, data, recipe, policy, on_epoch)
    else:
        fitted = fit_closed_form(network, solve, card, data, recipe, choose_device(recipe.device), on_epoch)
    return fitted, metrics(fitted, card, dataset, data) | {"by_gradients": solve is None}


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
        "parameters": sum(parameter.numel() for parameter in fitted.network.parameters()),
        "training_images": len(np.unique(data.rows)),
    }
