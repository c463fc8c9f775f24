"""`speed_resnet`: the least time to a good accuracy on images like CIFAR's.

After K. Jordan, 94% on CIFAR-10 in 3.29 seconds on a single GPU, 2024 (https://arxiv.org/abs/2404.00498), who trains by
SGD with Nesterov momentum 0.85 and a learning rate of about 1.5 for batches of 1024. Fixed filters whiten the patches
of the training images (`prepare`); batch norms have a bias but no scale. GELU stays float32 in int8 networks.
"""

from collections import OrderedDict
from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import unfold

from pipeline.config import Section
from pipeline.config.section import Above0

KERNEL = 2  # of the whitening convolution
LEAST_VARIANCE = 5e-4  # added to that of every direction: those that hold next to nothing would become noise
MOMENTUM = 0.4  # of the newest batch in the running statistics: trainings are short and weights change fast


class Options(Section):
    widths: Annotated[list[Annotated[int, Field(ge=8)]], Field(min_length=3, max_length=3)] = [64, 256, 256]
    """Filters of the three blocks."""
    bias_rate: Above0 = 64.0
    """Factor on the learning rate of batch norm's biases: 64 in the paper."""


class Scaled(nn.Module):
    """Divides the logits, so that training starts from even chances and does not get sure of itself at once."""

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits * (1 / 9)


def build(*, classes: int, channels: int, size: int, options: Options) -> nn.Module:
    filters = 2 * channels * KERNEL**2
    layers: list[nn.Module] = [nn.Conv2d(channels, filters, KERNEL), nn.GELU()]
    side = size - KERNEL + 1
    for width in options.widths:
        layers += [_block(filters, width, pool=side > 1)]
        filters, side = width, max(1, side // 2)
    return nn.Sequential(*layers, nn.MaxPool2d(side), nn.Flatten(), nn.Linear(filters, classes, bias=False), Scaled())


def prepare(network: nn.Module, images_NCHW: torch.Tensor) -> None:
    """Let the first convolution's filters whiten 2 x 2 patches of the normalized training images [N, C, H, W]: the
    patches' principal directions, each divided by its standard deviation, once as they are and once negated."""
    weight = network.get_parameter("0.weight")
    places = weight[0].numel()
    covariance = torch.zeros(places, places, dtype=torch.float64)
    for some_NCHW in images_NCHW.split(512):
        patches = unfold(some_NCHW.float(), KERNEL).transpose(1, 2).reshape(-1, places).double()
        covariance += (patches.T @ patches / len(patches)).cpu() * (len(some_NCHW) / len(images_NCHW))
    variances, directions = torch.linalg.eigh(covariance)
    filters = (directions / (variances + LEAST_VARIANCE).sqrt()).T.flip(0)  # the strongest direction first
    with torch.no_grad():
        weight.copy_(torch.cat([filters, -filters]).reshape(weight.shape))


def learning_rates(network: nn.Module, options: Options) -> dict[str, float]:
    """The whitening filters and the norms' scales stay as they are; the norms' biases learn faster."""
    factors = {"0.weight": 0.0}
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            factors |= {f"{name}.weight": 0.0, f"{name}.bias": options.bias_rate}
    return factors


def _block(channels: int, filters: int, pool: bool) -> nn.Module:
    pooling = nn.MaxPool2d(2) if pool else nn.Identity()
    first = nn.Sequential(_convolution(channels, filters), pooling, _norm(filters), nn.GELU())
    rest = nn.Sequential(_convolution(filters, filters), _norm(filters), nn.GELU())
    return nn.Sequential(OrderedDict(first=first, rest=rest))


def _convolution(channels: int, filters: int) -> nn.Conv2d:
    convolution = nn.Conv2d(channels, filters, 3, padding="same", bias=False)
    nn.init.dirac_(convolution.weight[:channels].detach())  # the other filters stay random
    return convolution


def _norm(filters: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(filters, momentum=MOMENTUM)
