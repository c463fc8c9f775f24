"""`ensemble`: the mean of the probabilities of trained networks, each of which has its own normalization.

B. Lakshminarayanan et al., Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles, NeurIPS 2017
(https://arxiv.org/abs/1612.01474). It is made by an entry of `ensembles`, never trained by one of `models`.
"""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from pipeline.config import Section
from pipeline.networks.architectures import build as build_member

SMALLEST = torch.finfo(torch.float32).tiny


class Member(Section):
    """A network, as its own model card has it."""

    architecture: str
    options: dict[str, Any]
    mean: list[float]
    std: list[float]


class Options(Section):
    members: Annotated[list[Member], Field(min_length=2)]


class Normalized(nn.Module):
    """A network that takes images on the 0-1 scale."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network((images_NCHW - self.mean) / self.std)
        return logits


class Ensemble(nn.Module):
    """Logits whose softmax is the mean of the members' probabilities."""

    def __init__(self, members: list[Normalized]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        probabilities_MNC = torch.stack([member(images_NCHW).softmax(dim=1) for member in self.members])
        # A mean that is too small for float32 is 0, which has no logarithm
        return probabilities_MNC.mean(dim=0).clamp(min=SMALLEST).log()


def build(*, options: Options, **sizes: int) -> nn.Module:
    """Freshly initialized members: their weights come from a file."""
    members = options.members
    networks = [build_member(member.architecture, options=member.options, **sizes) for member in members]
    return Ensemble([Normalized(net, of.mean, of.std) for net, of in zip(networks, members, strict=True)])
