"""Units that are never active: channels and neurons whose ReLU lets nothing through, whatever the image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import nn

# Exactly zero for what is negative. Others (GELU, SiLU, leaky ones) let something through, so that no unit dies
RECTIFIERS = (nn.ReLU, nn.ReLU6)


class Watch:
    """What was seen of each call of a rectifier: whether a unit was positive for any image so far."""

    def __init__(self) -> None:
        self.positive: dict[tuple[str, int], torch.Tensor] = {}
        self._calls: Counter[str] = Counter()

    def start_batch(self, network: nn.Module, inputs: Any) -> None:
        """A module may be called several times in a batch: its calls are numbered from the batch's start."""
        self._calls.clear()

    def see(self, name: str, layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        call = name, self._calls[name]
        self._calls[name] += 1
        units = 1 if output.ndim == 4 else output.ndim - 1  # images NCHW; else the last axis
        others = [axis for axis in range(output.ndim) if axis != units]
        active = (output > 0).any(dim=others)
        self.positive[call] = active | self.positive[call] if call in self.positive else active

    def table(self) -> pd.DataFrame:
        """A row per call of a rectifier, in the order of the network: layer, units, silent (how many)."""
        calls = Counter(name for name, _ in self.positive)
        rows = [
            (name if calls[name] == 1 else f"{name} (call {call + 1})", len(seen), int((~seen).sum()))
            for (name, call), seen in self.positive.items()
        ]
        return pd.DataFrame(rows, columns=["layer", "units", "silent"])


@contextmanager
def watched(network: nn.Module) -> Iterator[Watch]:
    """Watches the rectifiers of a network while the block runs it.

    Only modules are seen: `torch.relu` inside a forward function is not, and a network without any gives no row.
    """
    watch = Watch()
    hooks = [network.register_forward_pre_hook(watch.start_batch)]
    for name, module in network.named_modules():
        if isinstance(module, RECTIFIERS):
            hooks.append(module.register_forward_hook(partial(watch.see, name)))
    try:
        yield watch
    finally:
        for hook in hooks:
            hook.remove()
