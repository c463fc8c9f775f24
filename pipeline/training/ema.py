"""A moving average of the weights, which generalizes better than the last weights do (Polyak & Juditsky 1992)."""

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


class Ema(AveragedModel):
    """`module` is a copy whose weights, and statistics of batch norm, follow those of another network."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network, multi_avg_fn=self._follow, use_buffers=True)
        self.requires_grad_(False)
        self.decay = decay
        self.update_parameters(network)  # the first update copies

    def _follow(self, mine: Any, others: Any, updates: Any) -> None:
        """Young averages forget faster, or they would remember the initialization."""
        if mine[0].is_floating_point():
            count = int(self.n_averaged)  # `updates` is on the device, which nothing should wait for
            decay = min(self.decay, (1 + count) / (10 + count))
            torch._foreach_lerp_(mine, others, 1 - decay)
        else:
            torch._foreach_copy_(mine, others)
