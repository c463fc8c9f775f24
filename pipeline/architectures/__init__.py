"""One file an architecture. Each defines `build(classes, channels, size) -> nn.Module`, a network from normalized
images [N, channels, size, size] to logits [N, classes]; `size` is the side in pixels.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def build(architecture: str, *, classes: int, size: int, channels: int = 3) -> nn.Module:
    """A freshly initialized network. Raises ValueError when images of `size` are too small for it."""
    module = importlib.import_module(f"pipeline.architectures.{architecture}")
    network: nn.Module = module.build(classes=classes, channels=channels, size=size)
    return network
