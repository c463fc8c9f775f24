"""Statistics of batch norm that depend neither on the number of cores nor on when the weights are judged.

While training, batch norm normalizes over a share of the batch, a virtual batch (E. Hoffer et al. 2017,
arXiv:1705.08741). Its running statistics move once a batch, by the mean over the shares, whoever worked on which.
They lag behind weights that move fast, so they are computed again from training images before the weights are judged
("precise batch norm", Y. Wu and J. Johnson 2021, arXiv:2105.07576).
"""

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

STATISTICS = ("running_mean", "running_var")
Seen = list[tuple[int, torch.Tensor, torch.Tensor]]  # of each norm: how many parts of batches, and sums over them
IMAGES = 1_024  # that statistics are computed from: their noise is a sixth of that of a share


def tracking_norms(network: nn.Module) -> list[_BatchNorm]:
    """The batch norms that have running statistics."""
    return [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]


def replica(network: nn.Module) -> nn.Module:
    """A copy on the same weights and buffers, but for the gradients and the statistics of batch norm: means over what
    the copy sees between two calls of `take`. A frozen norm, which does not train, sees nothing."""
    twin = copy.deepcopy(network, {id(buffer): buffer for buffer in network.buffers()})
    for mine, original in zip(twin.parameters(), network.parameters(), strict=True):
        mine.data = original.data
    for norm in tracking_norms(twin):
        norm.momentum = None
        for name, buffer in norm.named_buffers(recurse=False):
            setattr(norm, name, buffer.clone())
        norm.get_buffer("num_batches_tracked").zero_()
    return twin


def observer(network: nn.Module) -> nn.Module:
    """A replica that computes as in evaluation, but whose batch norms normalize over what they see, and remember it."""
    twin = replica(network).train()
    learning = [norm for norm in tracking_norms(twin) if norm.training]
    twin.eval()
    for norm in learning:
        norm.train()
    return twin


def take(twin: nn.Module) -> Seen:
    """What the norms of a replica have seen since the last call."""
    seen = []
    for norm in tracking_norms(twin):
        parts = norm.get_buffer("num_batches_tracked")
        mean, variance = (norm.get_buffer(name) * int(parts) for name in STATISTICS)
        seen.append((int(parts), mean, variance))
        parts.zero_()  # the next part replaces the mean and the variance
    return seen


@torch.no_grad()
def gather(network: nn.Module, seen: Sequence[Seen], reset: bool = False) -> None:
    """Move the network's statistics by their momentum, or `reset` altogether, to the mean over all parts, summed in the
    order in which they are given."""
    for norm, found in zip(tracking_norms(network), zip(*seen, strict=True), strict=True):
        parts, *sums = zip(*found, strict=True)
        if not sum(parts):
            continue
        batches = norm.get_buffer("num_batches_tracked").add_(0 if reset else 1)
        rate = 1.0 if reset else 1 / int(batches) if norm.momentum is None else norm.momentum
        for name, each in zip(STATISTICS, sums, strict=True):
            norm.get_buffer(name).lerp_(torch.stack(each).sum(dim=0) / sum(parts), rate)
