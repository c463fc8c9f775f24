"""Random numbers for augmentation: one for each sample of a batch, drawn on the device that trains."""

import numpy as np
import torch


class RandomStream:
    """A stream of its own, so that it depends on nothing but the seed and the sizes of the batches."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self.device, self.generator = device, torch.Generator(device)
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        self.generator.manual_seed(seed)
        self.betas = np.random.default_rng(seed)  # torch's beta distribution takes no generator

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

    def beta(self, alpha: float, count: int) -> torch.Tensor:
        """float32 [count], from the beta distribution whose parameters are both `alpha`."""
        shares = torch.from_numpy(self.betas.beta(alpha, alpha, count).astype(np.float32))
        return shares.to(self.device, non_blocking=True)

    def permutation(self, count: int) -> torch.Tensor:
        return torch.randperm(count, generator=self.generator, device=self.device)
