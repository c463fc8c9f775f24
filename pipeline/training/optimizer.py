"""The optimizer and its schedule: SGD with Nesterov momentum under one cycle."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.config import Train


def one_cycle(
    network: nn.Module, recipe: Train, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """SGD with Nesterov momentum under a one-cycle schedule (Smith 2018, arXiv:1803.09820)."""
    # Weight decay only on matrices and filters: on norms and biases it hurts (He et al. 2018, arXiv:1812.01187)
    weights = [p for p in network.parameters() if p.ndim > 1]
    rest = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
    total = max(2, steps * recipe.epochs)
    # OneCycleLR divides by (warm-up steps - 1)
    warmup = recipe.warmup if abs(recipe.warmup * total - 1) > 1e-6 else recipe.warmup * 1.01
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        recipe.learning_rate,
        total_steps=total,
        pct_start=warmup,
        cycle_momentum=False,
    )
    return optimizer, schedule
