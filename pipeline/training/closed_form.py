"""Fitting without gradients: an architecture whose file has `solve` gets its last dense layer in one go."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from pipeline.artifacts import ImageRows, ModelCard
from pipeline.config import Train
from pipeline.evaluation.metrics import accuracy
from pipeline.networks.architectures import checked
from pipeline.networks.deployable import features, last_dense, probabilities
from pipeline.training.device import Placement
from pipeline.training.loop import Fitted, TrainingData
from pipeline.training.progress import Epoch

# See pipeline/networks/architectures/__init__.py
Solve = Callable[[np.ndarray, np.ndarray, np.ndarray, Any, int], tuple[np.ndarray, np.ndarray]]


def fit_closed_form(
    network: nn.Module,
    solve: Solve,
    card: ModelCard,
    data: TrainingData,
    recipe: Train,
    device: torch.device,
    on_epoch: Callable[[Epoch], None],
) -> Fitted:
    """Give the last dense layer what `solve` finds from its inputs, which must fit into memory; the history has a row.

    The images are not augmented, and of the recipe only the seed counts. Class weights and draw weights become weights
    of the images; logit offsets are taken off afterwards (Menon et al. 2020, arXiv:2007.07314, the post-hoc way).
    """
    start = time.perf_counter()
    inputs_NF = features(network, card, ImageRows(data.images_NHWC, data.rows), device)
    weights, options = sample_weights(data), checked(card.architecture, card.options)
    weight_CF, bias_C = solve(inputs_NF, data.labels[data.rows], weights, options, recipe.seed)
    val_NF = features(network, card, ImageRows(data.images_NHWC, data.val_rows), device)
    sharpness = 1 / best_temperature(val_NF @ weight_CF.T + bias_C, data.labels[data.val_rows])
    last = last_dense(network)
    with torch.no_grad():
        last.weight.copy_(torch.from_numpy(weight_CF * sharpness))
        last.bias.copy_(torch.from_numpy(bias_C * sharpness - data.logit_offsets))
    seconds = time.perf_counter() - start
    fitted = as_it_is(network, card, data, device)
    row = {str(column): float(value) for column, value in fitted.history.iloc[0].items()}
    on_epoch(Epoch(row, {"epoch_seconds": seconds, "images_per_second": len(data.rows) / seconds}, 0.0))
    return fitted


def as_it_is(network: nn.Module, card: ModelCard, data: TrainingData, device: torch.device) -> Fitted:
    """What a fit of no steps gives: the network, and its losses and accuracies as the one row of a history."""
    row: dict[str, float] = {"epoch": 1, "learning_rate": 0.0}
    for part, rows in (("train", data.rows), ("val", data.val_rows)):
        scores = probabilities(network, card, ImageRows(data.images_NHWC, rows), device)
        labels = data.labels[rows]
        row |= {f"{part}_loss": _log_loss(scores, labels), f"{part}_accuracy": accuracy(scores, labels)}
    row |= {"gradient_norm": 0.0, "gradient_norm_max": 0.0}
    return Fitted(network.cpu().eval(), pd.DataFrame([row]), 1, Placement(device, None, "float32, without gradients"))


def sample_weights(data: TrainingData) -> np.ndarray:
    """[len(rows)]: how much each training image counts, by its class and by its chance of being drawn."""
    weights: np.ndarray = data.class_weights[data.labels[data.rows]]
    return weights if data.draw_weights is None else weights * (data.draw_weights / data.draw_weights.mean())


def best_temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """What scores [N, classes] must be divided by so that their softmax has the least log loss.

    C. Guo et al., On Calibration of Modern Neural Networks, ICML 2017 (https://arxiv.org/abs/1706.04599).
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    def loss(exponent: float) -> float:
        return -float(log_softmax(scores / np.exp(exponent), axis=1)[np.arange(len(labels)), labels].mean())

    # Where every validation image is right the best temperature is 0: the limits keep it a number
    return float(np.exp(minimize_scalar(loss, bounds=(-5, 5), method="bounded").x))


def _log_loss(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the images; a probability that is too small for float32 counts as the smallest there is."""
    of_label = scores[np.arange(len(labels)), labels]
    return -float(np.log(of_label.clip(min=np.finfo(np.float32).tiny)).mean())
