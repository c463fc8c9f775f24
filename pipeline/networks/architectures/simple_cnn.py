"""`simple_cnn`: three convolutions and two dense layers, the network that tutorials start from."""

from torch import nn


def build(*, classes: int, channels: int, size: int, options: None) -> nn.Module:
    layers: list[nn.Module] = []
    for filters in (32, 64, 128):
        layers += [nn.Conv2d(channels, filters, 3, padding="same"), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        channels = filters
    features = channels * (size // 8) ** 2
    head = [nn.Dropout(0.5), nn.Linear(features, 256), nn.ReLU(inplace=True), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.Flatten(), *head, nn.Linear(256, classes))
