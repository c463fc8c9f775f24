"""Fitting without gradients: an architecture whose file has `solve` gets its last dense layer in one go."""

import time

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from torch import nn

from pipeline.artifacts import ImageRows, ModelCard
from pipeline.config import Train
from pipeline.evaluation.metrics import accuracy
from pipeline.networks.architectures import checked, find
from pipeline.networks.deployable import features, last_dense, probabilities
from pipeline.training.device import Placement, choose_device
from pipeline.training.inputs import TrainingInputs
from pipeline.training.loop import Fitted, OnEpoch, say


def fit_closed_form(
    network: nn.Module, card: ModelCard, inputs: TrainingInputs, recipe: Train, on_epoch: OnEpoch
) -> Fitted:
    """Give the last dense layer what `solve` finds from its inputs, which must fit into memory; the history has a row.

    The images are not augmented, and of the recipe only the seed counts. Class weights and draw weights become weights
    of the images; logit offsets are taken off afterwards (Menon et al. 2020, arXiv:2007.07314, the post-hoc way).
    """
    start, device = time.perf_counter(), choose_device(recipe.device)
    both = ImageRows(inputs.images_NHWC, inputs.rows), ImageRows(inputs.images_NHWC, inputs.val_rows)
    inputs_NF, val_NF = (features(network, card, images, device) for images in both)
    solve, options = find(card.architecture).solve, checked(card.architecture, card.options)
    weight_CF, bias_C = solve(inputs_NF, inputs.labels[inputs.rows], sample_weights(inputs), options, recipe.seed)
    sharpness = 1 / best_temperature(val_NF @ weight_CF.T + bias_C, inputs.labels[inputs.val_rows])
    last = last_dense(network)
    with torch.no_grad():
        last.weight.copy_(torch.from_numpy(weight_CF * sharpness))
        last.bias.copy_(torch.from_numpy(bias_C * sharpness - inputs.logit_offsets))
    seconds = time.perf_counter() - start
    fitted = without_training(network, card, inputs, device)
    row = {str(column): float(value) for column, value in fitted.history.iloc[0].items()}
    cost = {"epoch_seconds": seconds, "images_per_second": len(inputs.rows) / seconds}
    say(row, cost, 0.0)
    on_epoch(row, cost)
    return fitted


def without_training(network: nn.Module, card: ModelCard, inputs: TrainingInputs, device: torch.device) -> Fitted:
    """What a fit of no steps gives: the network, and its losses and accuracies as the one row of a history."""
    row: dict[str, float] = {"epoch": 1, "learning_rate": 0.0}
    for part, rows in (("train", inputs.rows), ("val", inputs.val_rows)):
        scores, labels = probabilities(network, card, ImageRows(inputs.images_NHWC, rows), device), inputs.labels[rows]
        # A probability that is too small for float32 counts as the smallest there is
        of_label = scores[np.arange(len(labels)), labels].clip(min=np.finfo(np.float32).tiny)
        row |= {f"{part}_loss": -float(np.log(of_label).mean()), f"{part}_accuracy": accuracy(scores, labels)}
    row |= {"gradient_norm": 0.0, "gradient_norm_max": 0.0}
    return Fitted(network.cpu().eval(), pd.DataFrame([row]), 1, Placement(device, None, "float32, without gradients"))


def sample_weights(inputs: TrainingInputs) -> np.ndarray:
    """[len(rows)]: how much each training image counts, by its class and by its chance of being drawn."""
    weights: np.ndarray = inputs.class_weights[inputs.labels[inputs.rows]]
    return weights if inputs.draw_weights is None else weights * (inputs.draw_weights / inputs.draw_weights.mean())


def best_temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """What scores [N, classes] must be divided by so that their softmax has the least log loss.

    C. Guo et al., On Calibration of Modern Neural Networks, ICML 2017 (https://arxiv.org/abs/1706.04599).
    """

    def loss(exponent: float) -> float:
        return -float(log_softmax(scores / np.exp(exponent), axis=1)[np.arange(len(labels)), labels].mean())

    # Where every validation image is right the best temperature is 0: the limits keep it a number
    return float(np.exp(minimize_scalar(loss, bounds=(-5, 5), method="bounded").x))
