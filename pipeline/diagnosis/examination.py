"""What `train` measures of the network that it keeps, after the fit; evaluation/diagnosis.py says what it means."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.artifacts import Dataset, ImageRows, ModelCard
from pipeline.diagnosis.activity import watched
from pipeline.evaluation.metrics import accuracy
from pipeline.networks.deployable import probabilities

IMAGES = 2_000  # of the training split: the accuracy is sure to about 2 points, in seconds


def examine(
    network: nn.Module,
    card: ModelCard,
    best_epoch: int,
    val_accuracy: float,
    dataset: Dataset,
    rows: np.ndarray,
    seed: int,
    device: torch.device,
) -> dict[str, Any]:
    """examined.json of the fitted `network`, which is that of `best_epoch` (1-based): `kept` are the fields of
    evaluation/diagnosis.py's Kept.

    `val_accuracy` is its accuracy on the whole validation split; `rows` are those that it was trained on, some of which
    are looked at again, without augmentation.
    """
    drawn = np.sort(np.random.default_rng(seed).permutation(np.unique(rows))[:IMAGES])
    with watched(network) as watch:
        scores = probabilities(network, card, ImageRows(dataset.images_NHWC, drawn), device)
    return {
        "kept": {
            "best_epoch": best_epoch,
            "train_accuracy": accuracy(scores, dataset.labels[drawn]),
            "val_accuracy": val_accuracy,
            "val_images": len(dataset.rows("val")),
            "classes": len(card.class_names),
            "train_images": len(drawn),
        },
        "silent_units": watch.table().to_dict("records"),
    }
