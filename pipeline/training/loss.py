"""The training loss: cross-entropy against distributions over the classes, so that mixed labels are nothing special."""

from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy


@dataclass(frozen=True)
class Loss:
    """`class_weights`, `logit_offsets` [classes]: see balance.py. torch's own mean over distributions leaves the
    weights out of what it divides by, hence a sum and a weight."""

    class_weights: torch.Tensor
    logit_offsets: torch.Tensor
    label_smoothing: float

    def total(self, logits_NK: torch.Tensor, targets_NK: torch.Tensor) -> torch.Tensor:
        """Summed over a part of a batch, to be divided by the weight of all of it."""
        logits_NK, smoothing = logits_NK + self.logit_offsets, self.label_smoothing
        return cross_entropy(logits_NK, targets_NK, self.class_weights, reduction="sum", label_smoothing=smoothing)

    def weight(self, targets_NK: torch.Tensor) -> torch.Tensor:
        return (targets_NK @ self.class_weights).sum()
