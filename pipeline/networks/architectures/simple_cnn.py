"""`simple_cnn`: three convolutions and two dense layers, the network that tutorials start from.

3 x (conv3x3 same, ReLU, maxpool2) with 32, 64, 128 filters; dropout 0.5, linear 256, ReLU, dropout 0.5, linear.
"""

from torch import nn

from pipeline.errors import UserError

FILTERS = (32, 64, 128)


def build(*, classes: int, channels: int, size: int, options: None) -> nn.Module:
    side = size // 2 ** len(FILTERS)
    if side < 1:
        raise UserError(f"simple_cnn halves the image three times: {size} pixels are too few, it needs 8 or more")
    layers: list[nn.Module] = []
    for filters in FILTERS:
        layers += [nn.Conv2d(channels, filters, 3, padding="same"), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        channels = filters
    head = [nn.Dropout(0.5), nn.Linear(channels * side * side, 256), nn.ReLU(inplace=True), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.Flatten(), *head, nn.Linear(256, classes))
