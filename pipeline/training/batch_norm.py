"""Statistics of batch norm that depend neither on the number of cores nor on when the weights are judged.

While training, batch norm normalizes over a share of the batch, a virtual batch (E. Hoffer et al. 2017,
arXiv:1705.08741). Its running statistics move once a batch, by the mean over the shares, whoever worked on which.
They lag behind weights that move fast, so they are computed anew from training images before the weights are judged
("precise batch norm", Y. Wu and J. Johnson 2021, arXiv:2105.07576).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeGuard

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

STATISTICS = ("running_mean", "running_var")
Seen = list[tuple[int, torch.Tensor, torch.Tensor]]  # of each norm: how many parts of batches, and sums over them
IMAGES = 1_024  # that statistics are computed from: their noise is a sixth of that of a share


def _remembers(module: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """A batch norm with running statistics; its type stands for all of them."""
    return isinstance(module, _BatchNorm) and module.running_mean is not None


class Collected:
    """What copies of a network, in training mode, see of batches, brought together in its running statistics."""

    def __init__(self, network: nn.Module, copies: Sequence[nn.Module]) -> None:
        aligned = zip(network.modules(), *(twin.modules() for twin in copies), strict=True)
        self._layers = [
            (own, seen) for own, *seen in aligned if isinstance(own, _BatchNorm) and own.track_running_stats
        ]
        for norm in (norm for _, seen in self._layers for norm in seen):
            norm.momentum = None  # the mean over all that it sees, from a reset on
            for name, buffer in norm.named_buffers(recurse=False):
                setattr(norm, name, buffer.clone())

    def reset(self) -> None:
        """The copies forget what they saw, but for norms that are kept still (of a frozen backbone)."""
        for norm in (norm for _, seen in self._layers for norm in seen if norm.training):
            norm.reset_running_stats()

    def take(self, place: int) -> Seen:
        """What one of the copies has seen since it was last asked, or since the reset; it forgets that."""
        seen = []
        for norm in (copies[place] for _, copies in self._layers):
            parts = int(norm.get_buffer("num_batches_tracked")) if norm.training else 0
            sums = [norm.get_buffer(name) * parts for name in STATISTICS]
            seen.append((parts, *sums))
            if norm.training:
                norm.reset_running_stats()
        return seen

    @torch.no_grad()
    def gather(self, seen: Sequence[Seen], anew: bool = False) -> None:
        """Move the network's statistics by their momentum, or `anew` altogether, to the mean over all parts, summed in
        the order in which they are given."""
        for (own, _), found in zip(self._layers, zip(*seen, strict=True), strict=True):
            parts, *sums = zip(*found, strict=True)
            if not sum(parts):
                continue
            batches = own.get_buffer("num_batches_tracked").add_(0 if anew else 1)
            rate = 1.0 if anew else 1 / int(batches) if own.momentum is None else own.momentum
            for name, each in zip(STATISTICS, sums, strict=True):
                own.get_buffer(name).lerp_(torch.stack(each).sum(dim=0) / sum(parts), rate)


def learning(network: nn.Module) -> list[nn.BatchNorm2d]:
    """The batch norms that remember what they see while `network` trains: not those of a frozen backbone."""
    return [module for module in network.train().modules() if _remembers(module) and module.training]


def observer(network: nn.Module) -> nn.Module:
    """A copy that computes as in evaluation, but whose batch norms normalize over what they see, and remember it."""
    twin = copy.deepcopy(network, {id(weights): weights for weights in network.parameters()})  # which are shared
    norms = learning(twin)
    twin.eval()
    for norm in norms:
        norm.train()
    return twin
