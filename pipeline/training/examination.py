"""What `train` asks of the network that it keeps, after the fit: diagnosis.json."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from pipeline.artifacts import Dataset, ImageRows, ModelCard
from pipeline.config import Train
from pipeline.evaluation.diagnosis import Kept, diagnose
from pipeline.evaluation.metrics import accuracy
from pipeline.training.activity import watched
from pipeline.training.deployable import probabilities

IMAGES = 2_000  # of the training split: the accuracy is sure to about 2 points, in seconds


def examine(
    network: nn.Module,
    card: ModelCard,
    history: pd.DataFrame,
    best_epoch: int,
    val_accuracy: float,
    dataset: Dataset,
    rows: np.ndarray,
    recipe: Train,
    device: torch.device,
    by_gradients: bool,
) -> dict[str, Any]:
    """diagnosis.json of the fitted `network`, which is that of `best_epoch` (1-based).

    `history` is of its own seed, see `diagnose`; `val_accuracy` is its accuracy on the whole validation split; `rows`
    are those that it was trained on, some of which are looked at again, without augmentation. Not `by_gradients`: there
    are no findings, whose remedies are all keys of a training by gradients.
    """
    drawn = np.sort(np.random.default_rng(recipe.seed).permutation(np.unique(rows))[:IMAGES])
    with watched(network) as watch:
        scores = probabilities(network, card, ImageRows(dataset.images_NHWC, drawn), device)
    silent = watch.table()
    kept = Kept(
        best_epoch=best_epoch,
        train_accuracy=accuracy(scores, dataset.labels[drawn]),
        val_accuracy=val_accuracy,
        val_images=len(dataset.rows("val")),
        classes=len(card.class_names),
        train_images=len(drawn),
    )
    findings = diagnose(history, recipe, kept, silent) if by_gradients else []
    return {
        "findings": [asdict(finding) for finding in findings],
        "train_accuracy_plain": kept.train_accuracy,
        "train_images": len(drawn),
        "silent_units": silent.to_dict("records"),
    }
