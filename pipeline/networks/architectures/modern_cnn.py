"""`modern_cnn`: a VGG-like network with batch norm and global average pooling."""

from torch import nn


def build(*, classes: int, channels: int, size: int, options: None) -> nn.Module:
    layers: list[nn.Module] = []
    for filters in (64, 128, 256):
        for inputs in (channels, filters):
            # The bias stays, though batch norm cancels it: the comparison is about exactly these layers
            layers += [nn.Conv2d(inputs, filters, 3, padding="same"), nn.BatchNorm2d(filters), nn.ReLU(inplace=True)]
        layers += [nn.MaxPool2d(2)]
        channels = filters
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 512), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *head, nn.Dropout(0.5), nn.Linear(512, classes))
