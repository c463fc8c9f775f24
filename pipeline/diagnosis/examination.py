"""What `train` measures of the fitted network, for the diagnosis: rules.py says in words what it means."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.artifacts import ImageRows, ModelCard
from pipeline.evaluation.metrics import accuracy
from pipeline.networks.deployable import probabilities

IMAGES = 2_000  # of the training split: the accuracy is sure to about 2 points, in seconds
# Exactly zero for what is negative. Others (GELU, SiLU, leaky ones) let something through, so that no unit dies
RECTIFIERS = (nn.ReLU, nn.ReLU6)


def examine(
    network: nn.Module, card: ModelCard, images_NHWC: np.ndarray, labels: np.ndarray, rows: np.ndarray, seed: int,
    device: torch.device,
) -> dict[str, Any]:  # fmt: skip
    """Of a fitted network: some of the `rows` that it was trained on are looked at again, without augmentation."""
    drawn = np.sort(np.random.default_rng(seed).permutation(np.unique(rows))[:IMAGES])
    with watched(network) as active:
        scores = probabilities(network, card, ImageRows(images_NHWC, drawn), device)
    return {
        "train_accuracy": accuracy(scores, labels[drawn]),
        "train_images": len(drawn),
        "classes": len(card.class_names),
        "silent_units": [
            {"layer": name, "units": len(units), "silent": int((~units).sum())} for (_, name), units in active.items()
        ],
    }


@contextmanager
def watched(network: nn.Module) -> Iterator[dict[tuple[int, str], torch.Tensor]]:
    """While the block runs the network: by call of a rectifier (its place among those of a batch, and its name), which
    units [channels or features] were positive for any image so far. `torch.relu` is no module, and is not seen."""
    active: dict[tuple[int, str], torch.Tensor] = {}
    calls: list[str] = []  # of rectifiers in this batch; a module may be called several times

    def see(name: str, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        axis = 1 if output.ndim == 4 else output.ndim - 1  # images NCHW; else the last axis
        positive = (output > 0).any(dim=[other for other in range(output.ndim) if other != axis])
        call = len(calls), name
        active[call] = positive | active.get(call, positive)
        calls.append(name)

    with ExitStack() as hooks:
        hooks.enter_context(network.register_forward_pre_hook(lambda module, inputs: calls.clear()))
        for name, module in network.named_modules():
            if isinstance(module, RECTIFIERS):
                hooks.enter_context(module.register_forward_hook(partial(see, name)))
        yield active
