"""The training loss: cross-entropy against distributions over the classes, so that mixed labels are nothing special."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy, one_hot


@dataclass(frozen=True)
class Objective:
    """`class_weights`, `logit_offsets` [classes]: see balance.py. The offsets are of the training loss alone."""

    class_weights: torch.Tensor
    logit_offsets: torch.Tensor
    label_smoothing: float
    even: bool = False
    """All class weights are 1: the weight of a batch is its number of images."""

    def targets(self, labels: torch.Tensor) -> torch.Tensor:
        """int64 [N] -> float32 [N, classes], all on the label."""
        return one_hot(labels, len(self.class_weights)).float()

    def __call__(self, logits_NK: torch.Tensor, targets_NK: torch.Tensor) -> torch.Tensor:
        """The weighted mean over the batch; for unmixed targets it is what torch computes from labels."""
        # torch's own mean over distributions leaves the weights out of what it divides by
        return self.total(logits_NK, targets_NK) / self.weight(targets_NK)

    def total(self, logits_NK: torch.Tensor, targets_NK: torch.Tensor) -> torch.Tensor:
        """Summed over a part of a batch, to be divided by the weight of all of it."""
        return cross_entropy(
            logits_NK + self.logit_offsets, targets_NK, self.class_weights,
            reduction="sum", label_smoothing=self.label_smoothing,
        )  # fmt: skip

    def weight(self, targets_NK: torch.Tensor) -> torch.Tensor:
        return (targets_NK @ self.class_weights).sum()
