"""`cnn`: three convolutions with batch norm, and global average pooling in place of a large dense layer."""

from torch import nn


def build(*, classes: int, channels: int, size: int, options: None) -> nn.Module:
    layers: list[nn.Module] = []
    for filters in (32, 64, 128):
        layers += [nn.Conv2d(channels, filters, 3, padding="same", bias=False), nn.BatchNorm2d(filters)]
        layers += [nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        channels = filters
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 128), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *head, nn.Dropout(0.5), nn.Linear(128, classes))
