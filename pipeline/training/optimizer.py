"""The optimizer: which parameters learn how fast, and which decay."""

from collections.abc import Mapping

import torch
from torch import nn

from pipeline.config import Train
from pipeline.errors import UserError


def make_optimizer(network: nn.Module, recipe: Train, rates: Mapping[str, float]) -> torch.optim.Optimizer:
    """`rates`: factors on the learning rate by parameter name, where it is not 1 (each group's "rate"); 0 freezes the
    parameter. Raises UserError where that leaves none."""
    grouped: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        rate = rates.get(name, 1.0)
        parameter.requires_grad_(rate > 0 and parameter.requires_grad)
        if parameter.requires_grad:
            # Weight decay only on matrices and filters: on norms and biases it hurts (He et al. 2018, arXiv:1812.01187)
            decays = recipe.decay_all or parameter.ndim > 1
            grouped.setdefault((rate, recipe.weight_decay if decays else 0.0), []).append(parameter)
    if not grouped:
        raise UserError("every parameter is frozen, so there is nothing to train: unfreeze some in the model's options")
    groups = [{"params": learning, "weight_decay": decay, "rate": rate} for (rate, decay), learning in grouped.items()]
    rate, momentum = recipe.learning_rate, recipe.momentum
    # Fused: one pass over the parameters instead of one an operation
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=momentum > 0, fused=True)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=rate, betas=(momentum, 0.999), fused=True)
