"""`modern_cnn`: a VGG-like network with batch norm and global average pooling.

3 blocks of 2 x (conv3x3 same, batch norm, ReLU) + maxpool2 with 64, 128, 256 filters; global average pooling,
linear 512, ReLU, dropout 0.5, linear.
"""

from torch import nn

from pipeline.errors import UserError

FILTERS = (64, 128, 256)


def build(*, classes: int, channels: int, size: int, options: None) -> nn.Module:
    if size < 2 ** len(FILTERS):
        raise UserError(f"modern_cnn halves the image three times: {size} pixels are too few, it needs 8 or more")
    layers: list[nn.Module] = []
    for filters in FILTERS:
        for _ in range(2):
            # The bias stays, though batch norm cancels it: the comparison is about exactly these layers
            layers += [
                nn.Conv2d(channels, filters, 3, padding="same"),
                nn.BatchNorm2d(filters),
                nn.ReLU(inplace=True),
            ]
            channels = filters
        layers += [nn.MaxPool2d(2)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 512), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *head, nn.Dropout(0.5), nn.Linear(512, classes))
