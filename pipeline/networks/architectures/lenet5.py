"""`lenet5`: LeCun et al. 1998, Gradient-based learning applied to document recognition, section II.B
(https://doi.org/10.1109/5.726791).

As in the paper, smaller images are put in the middle of a field of 32 x 32 pixels; larger ones make the first dense
layer larger. Different from it, as today's implementations are: pooling has no weights, the second convolution sees
all 6 channels, tanh is not scaled, and a linear layer replaces the radial basis functions at the end.
"""

from torch import nn

FIELD = 32


def build(*, classes: int, channels: int, size: int, options: None) -> nn.Module:
    missing = max(0, FIELD - size)
    near, far = missing // 2, missing - missing // 2
    side = ((size + missing - 4) // 2 - 4) // 2
    layers: list[nn.Module] = [nn.ZeroPad2d((near, far, near, far))] if missing else []
    for filters in (6, 16):
        layers += [nn.Conv2d(channels, filters, 5), nn.Tanh(), nn.AvgPool2d(2)]
        channels = filters
    dense = [nn.Linear(channels * side * side, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh()]
    return nn.Sequential(*layers, nn.Flatten(), *dense, nn.Linear(84, classes))
