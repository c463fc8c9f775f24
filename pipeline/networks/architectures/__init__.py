"""One file an architecture. Each defines

    build(*, classes, channels, size, options) -> nn.Module

a freshly initialized network from normalized images [N, channels, size, size] to logits [N, classes]. `options` is an
instance of the file's class `Options` (a `Section`), or None where it has no such class. A file may also define

    pretrain(network, options) -> None      load weights that exist before the training
    prepare(network, images_NCHW) -> None   set what depends on the training images: once, before the training, from a
                                            few thousand of them, normalized and on the network's device
    statistics(options) -> (mean, std)      of the input, per channel, where those weights need their own; or None
    learning_rates(network, options) -> {parameter name: factor}    where the factor is not 1; 0 freezes; also for a
                                            pruned network
    solve(features_NF, labels_N, weights_N, options, seed) -> (weight_CF, bias_C)
        instead of training by gradients: the last dense layer from its inputs on the training images and the images'
        weights (mean about 1); see pipeline/training/closed_form.py
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pipeline.config import Section
from pipeline.errors import UserError

if TYPE_CHECKING:
    from torch import nn


def build(
    architecture: str, *, classes: int, size: int, channels: int = 3, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """A freshly initialized network. Raises UserError when images of `size` are too small for it."""
    own = checked(architecture, options or {})
    network: nn.Module = find(architecture).build(classes=classes, channels=channels, size=size, options=own)
    return network


def find(architecture: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{architecture}")


def checked(architecture: str, options: Mapping[str, Any], prefix: str = "") -> Section | None:
    """The options as the architecture's own type. Raises UserError naming the option, after `prefix`, and the fix."""
    kind: type[Section] | None = getattr(find(architecture), "Options", None)
    if kind is not None:
        return kind.checked(options, f"{prefix}options.")
    if options:
        raise UserError(f"{prefix}options: {architecture} has none: remove {', '.join(options)}")
    return None


def learning_rates(network: nn.Module, architecture: str, options: Mapping[str, Any]) -> dict[str, float]:
    """Factors on the learning rate by parameter name, where it is not 1."""
    factors = getattr(find(architecture), "learning_rates", None)
    return factors(network, checked(architecture, options)) if factors else {}
