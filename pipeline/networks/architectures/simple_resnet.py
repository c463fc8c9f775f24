"""`simple_resnet`: a small residual network, 3 stages of 2 blocks (He et al. 2015, https://arxiv.org/abs/1512.03385)."""

import torch
from torch import nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 projection where the shape changes."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(filters)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != filters:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, filters, 1, stride, bias=False), nn.BatchNorm2d(filters))

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        hidden = self.relu(self.norm1(self.conv1(images_NCHW)))
        out: torch.Tensor = self.relu(self.norm2(self.conv2(hidden)) + self.shortcut(images_NCHW))
        return out


def build(*, classes: int, channels: int, size: int, options: None) -> nn.Module:
    layers = [nn.Conv2d(channels, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    channels = 64
    for filters, stride in ((64, 1), (128, 2), (256, 2)):
        layers += [BasicBlock(channels, filters, stride), BasicBlock(filters, filters, 1)]
        channels = filters
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
