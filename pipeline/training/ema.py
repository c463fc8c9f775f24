"""A moving average of the weights, which generalizes better than the last weights do (Polyak & Juditsky 1992)."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Average:
    """`network` is a copy whose weights, and statistics of batch norm, follow those of another one."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def follow(self, network: nn.Module) -> None:
        self.updates += 1
        # Young averages forget faster, or they would remember the initialization
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        mine, others = self.network.state_dict(), network.state_dict()
        floats = [name for name, tensor in mine.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([mine[name] for name in floats], [others[name] for name in floats], 1 - decay)
        for name in mine.keys() - set(floats):
            mine[name].copy_(others[name])
