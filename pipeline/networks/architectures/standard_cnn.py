"""`standard_cnn`: wider than `cnn`, and its last convolution keeps its resolution.

2 x (conv3x3 same, batch norm, ReLU, maxpool2) with 64, 128 filters, conv3x3 same 256, batch norm, ReLU; global average
pooling, linear 128, ReLU, dropout 0.5, linear.
"""

from torch import nn

from pipeline.errors import UserError

POOLED = (64, 128)
LAST = 256


def build(*, classes: int, channels: int, size: int, options: None) -> nn.Module:
    if size < 2 ** len(POOLED):
        raise UserError(f"standard_cnn halves the image twice: {size} pixels are too few, it needs 4 or more")
    layers: list[nn.Module] = []
    for filters in (*POOLED, LAST):
        layers += [
            nn.Conv2d(channels, filters, 3, padding="same", bias=False),
            nn.BatchNorm2d(filters),
            nn.ReLU(inplace=True),
        ]
        if filters in POOLED:
            layers += [nn.MaxPool2d(2)]
        channels = filters
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 128), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *head, nn.Dropout(0.5), nn.Linear(128, classes))
