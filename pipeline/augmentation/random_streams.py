"""Random numbers for augmentation: one for each sample of a batch, drawn on the device that trains."""

from __future__ import annotations

import torch


class RandomStream:
    """A stream of its own, so that it depends on nothing but the seed and the sizes of the batches."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self.device = device
        self.generator = torch.Generator(device).manual_seed(seed)

    def between(self, low: float, high: float, count: int) -> torch.Tensor:
        """float32 [count], uniform in [low, high); a knob that is off (low = high) draws nothing."""
        if low == high:
            return torch.full((count,), low, device=self.device)
        return low + (high - low) * torch.rand(count, generator=self.generator, device=self.device)

    def around(self, centre: float, spread: float, count: int) -> torch.Tensor:
        return self.between(centre - spread, centre + spread, count)

    def chance(self, probability: float, count: int) -> torch.Tensor:
        """bool [count]."""
        return self.between(0, 1 if probability else 0, count) < probability

    def permutation(self, count: int) -> torch.Tensor:
        return torch.randperm(count, generator=self.generator, device=self.device)
