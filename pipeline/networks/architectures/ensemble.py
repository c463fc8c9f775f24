"""`ensemble`: the mean of the probabilities of trained networks, each of which has its own normalization.

B. Lakshminarayanan et al., Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles, NeurIPS 2017
(https://arxiv.org/abs/1612.01474). It is made by an entry of `ensembles`, never trained by one of `models`.
"""

from collections.abc import Iterable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn
from torchvision.transforms.v2 import Normalize

from pipeline.config import Section
from pipeline.networks.architectures import build as build_member

SMALLEST = torch.finfo(torch.float32).tiny


class Member(Section):
    """A network, as its own model card has it."""

    architecture: str
    options: dict[str, Any] = {}
    mean: list[float] = [0.0, 0.0, 0.0]
    std: list[float] = [1.0, 1.0, 1.0]


class Options(Section):
    members: Annotated[list[Member], Field(min_length=2)]


class Ensemble(nn.Module):
    """Logits whose softmax is the mean of the probabilities of `networks`; images come on the 0-1 scale."""

    def __init__(self, networks: Iterable[nn.Module], members: list[Member]) -> None:
        super().__init__()
        pairs = zip(networks, members, strict=True)
        self.members = nn.ModuleList([nn.Sequential(Normalize(of.mean, of.std), network) for network, of in pairs])

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        probabilities_MNC = torch.stack([member(images_NCHW).softmax(dim=1) for member in self.members])
        # A mean that is too small for float32 is 0, which has no logarithm
        return probabilities_MNC.mean(dim=0).clamp(min=SMALLEST).log()


def build(*, options: Options, **sizes: int) -> nn.Module:
    """Freshly initialized members: their weights come from a file."""
    networks = [build_member(member.architecture, options=member.options, **sizes) for member in options.members]
    return Ensemble(networks, options.members)
