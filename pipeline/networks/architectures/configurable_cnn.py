"""`configurable_cnn`: convolutions, pooling and dense layers as `options` of params.yaml says; without options, `cnn`.

For example options: {convolutions: [{filters: 32, kernel_size: 5, stride: 2}, {filters: 64, pool: max}], dropout: 0.3}
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from pipeline.config import Section
from pipeline.config.section import Positive
from pipeline.errors import UserError

Activation = Literal[
    "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "mish", "hardswish", "tanh", "sigmoid", "none"
]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "elu": nn.ELU, "selu": nn.SELU, "gelu": nn.GELU, "silu": nn.SiLU,
    "mish": nn.Mish, "hardswish": nn.Hardswish, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "none": nn.Identity,
}  # fmt: skip


class Convolution(Section):
    """In this order: convolution, batch norm, activation, pooling."""

    filters: Positive
    kernel_size: Positive = 3
    stride: Positive = 1
    padding: Literal["same", "valid"] = "same"
    """same: as many pixels as before, divided by the stride and rounded up. valid: no padding."""
    batch_norm: bool = True
    """With it the convolution has no bias, which it would cancel."""
    activation: Activation = "relu"
    pool: Literal["max", "avg", "none"] = "none"
    pool_size: Annotated[int, Field(ge=2)] = 2
    """Side in pixels of what is pooled into one; also its stride."""


class Dense(Section):
    units: Positive
    activation: Activation = "relu"


class Options(Section):
    convolutions: list[Convolution] = Field([Convolution(filters=n, pool="max") for n in (32, 64, 128)], min_length=1)
    head: Literal["global_average", "global_max", "flatten"] = "global_average"
    """What becomes of the last convolution's image: its mean or maximum per channel, or all of it."""
    dense: list[Dense] = [Dense(units=128)]
    """Layers between that and the last one, which has a unit a class and is always there."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the values that training drops after each dense layer; without any, before the last one."""


def build(*, classes: int, channels: int, size: int, options: Options) -> nn.Module:
    """Raises UserError that names the layer where the image has become too small."""
    layers: list[nn.Module] = []
    side = size
    for place, layer in enumerate(options.convolutions):
        before, side = side, _side_after(layer, side)
        if side < 1:
            sentence = (
                f"options.convolutions[{place}]: the image is {before} x {before} there, too small for this layer"
            )
            raise UserError(f"{sentence}: use padding same or pool none, or remove a pooling or a stride before it")
        layers += _convolution(layer, channels)
        channels = layer.filters
    if options.head == "global_average":
        layers += [nn.AdaptiveAvgPool2d(1)]
    elif options.head == "global_max":
        layers += [nn.MaxPool2d(side)]
    features = channels * side * side if options.head == "flatten" else channels
    layers += [nn.Flatten()]
    dropout = [nn.Dropout(options.dropout)] if options.dropout else []
    for dense in options.dense:
        layers += [nn.Linear(features, dense.units), ACTIVATIONS[dense.activation](), *dropout]
        features = dense.units
    return nn.Sequential(*layers, *([] if options.dense else dropout), nn.Linear(features, classes))


def _convolution(layer: Convolution, channels: int) -> list[nn.Module]:
    # One pixel less than the kernel gives size / stride, rounded up, at every size; torch's own "same" takes no stride
    padding = layer.kernel_size - 1 if layer.padding == "same" else 0
    near, uneven = padding // 2, padding % 2 == 1
    made: list[nn.Module] = [nn.ZeroPad2d((near, near + 1, near, near + 1))] if uneven else []
    sizes = (channels, layer.filters, layer.kernel_size, layer.stride, 0 if uneven else near)
    made += [nn.Conv2d(*sizes, bias=not layer.batch_norm)]
    if layer.batch_norm:
        made += [nn.BatchNorm2d(layer.filters)]
    if layer.activation != "none":
        made += [ACTIVATIONS[layer.activation]()]
    if layer.pool != "none":
        made += [(nn.MaxPool2d if layer.pool == "max" else nn.AvgPool2d)(layer.pool_size)]
    return made


def _side_after(layer: Convolution, side: int) -> int:
    """Side in pixels of what the layer makes of an image of `side`; below 1 where that is too small."""
    if layer.padding == "valid":
        side -= layer.kernel_size - 1
    side = -(-side // layer.stride)
    return side if layer.pool == "none" else side // layer.pool_size
