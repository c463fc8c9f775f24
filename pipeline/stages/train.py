"""`train@MODEL`: fit one entry of `models` on the training split, chosen by the validation split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch

from pipeline.artifacts import Dataset, ModelCard
from pipeline.config import Train
from pipeline.evaluation.metrics import accuracy
from pipeline.training.augmentation import Policy
from pipeline.training.checkpoint import fresh
from pipeline.training.deployable import probabilities
from pipeline.training.loop import Epoch, Fitted, TrainingData, fit


def train(
    card: ModelCard,
    dataset: Dataset,
    sample_index: pd.DataFrame,
    class_weights: list[float],
    policy: Policy,
    recipe: Train,
    on_epoch: Callable[[Epoch], None],
) -> tuple[Fitted, dict[str, float]]:
    """The fitted network and its metrics.json."""
    torch.manual_seed(recipe.seed)
    network = fresh(card)
    data = training_data(dataset, sample_index, class_weights, recipe)
    fitted = fit(network, card, data, recipe, policy, on_epoch)
    return fitted, metrics(fitted, card, dataset, data)


def training_data(
    dataset: Dataset, sample_index: pd.DataFrame, class_weights: list[float], recipe: Train
) -> TrainingData:
    """What a fit may see: the training rows (all, or `limit` of them) and the validation rows."""
    index = _limited(sample_index, recipe)
    weights = index["weight"].to_numpy()
    return TrainingData(
        images_NHWC=dataset.images_NHWC,
        labels=dataset.labels,
        rows=index["row"].to_numpy(),
        val_rows=dataset.rows("val"),
        class_weights=np.asarray(class_weights),
        draw_weights=None if (weights == weights[0]).all() else weights,
    )


def metrics(fitted: Fitted, card: ModelCard, dataset: Dataset, data: TrainingData) -> dict[str, Any]:
    """Facts of a fitted network; the validation accuracy is measured again in float32."""
    images, labels = dataset.images_NHWC[data.val_rows], dataset.labels[data.val_rows]
    last = fitted.history.iloc[fitted.best_epoch - 1]
    return {
        "best_val_accuracy": accuracy(probabilities(fitted.network, card, images, fitted.placement.device), labels),
        "train_accuracy_at_best": float(last["train_accuracy"]),
        "best_epoch": fitted.best_epoch,
        "parameters": sum(parameter.numel() for parameter in fitted.network.parameters()),
        "training_images": len(data.rows),
    }


def _limited(sample_index: pd.DataFrame, recipe: Train) -> pd.DataFrame:
    """About `limit` rows: the classes in their proportions, rounded, at least one image each."""
    if not recipe.limit or recipe.limit >= len(sample_index):
        return sample_index
    share = recipe.limit / len(sample_index)
    shuffled = sample_index.sample(frac=1, random_state=recipe.seed)
    place_in_class = shuffled.groupby("class").cumcount()
    class_size = shuffled.groupby("class")["row"].transform("size")
    return shuffled[place_in_class < (class_size * share).clip(lower=1).round()].sort_values("row")
