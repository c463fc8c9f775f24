"""Mixup and CutMix: images of a batch mixed with other images of it, and their targets in the same shares.

H. Zhang et al. 2017, arXiv:1710.09412; S. Yun et al. 2019, arXiv:1905.04899. Each sample has its own share and its own
partner; where both methods are on, a fair coin says which of them a sample gets.
"""

from __future__ import annotations

import numpy as np
import torch

from pipeline.augmentation.geometry import inside
from pipeline.augmentation.policy import Policy
from pipeline.augmentation.random_streams import RandomStream


class Mixer:
    """Draws from a stream of its own, apart from the augmenter's."""

    def __init__(self, policy: Policy, device: torch.device, seed: int) -> None:
        self.policy = policy
        self.random = RandomStream(device, seed)
        self.betas = np.random.default_rng(seed)

    def reseed(self, seed: int) -> None:
        self.random.generator.manual_seed(seed)
        self.betas = np.random.default_rng(seed)

    def __call__(self, images_NCHW: torch.Tensor, targets_NK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both mixed; a target is a distribution over the classes, and stays one. Neither argument is changed."""
        if not (self.policy.mixup or self.policy.cutmix):
            return images_NCHW, targets_NK
        own_N1HW = self._own(images_NCHW)
        partner = self.random.permutation(len(images_NCHW))
        share_N1 = own_N1HW.mean(dim=(2, 3))
        mixed_NCHW = torch.lerp(images_NCHW[partner], images_NCHW, own_N1HW)
        return mixed_NCHW, torch.lerp(targets_NK[partner], targets_NK, share_N1)

    def _own(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """How much of each pixel stays the image's own, [N, 1, H, W] from 0 to 1."""
        if not self.policy.mixup:
            return self._patch(images_NCHW)
        if not self.policy.cutmix:
            return self._blend(images_NCHW)
        coin = self.random.chance(0.5, len(images_NCHW))[:, None, None, None].to(images_NCHW.dtype)
        return torch.lerp(self._patch(images_NCHW), self._blend(images_NCHW), coin)

    def _blend(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        share = self._beta(self.policy.mixup, images_NCHW)
        return share[:, None, None, None].expand(-1, 1, *images_NCHW.shape[2:])

    def _patch(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """A rectangle of the image's own aspect, its centre anywhere: what lies outside of the image is lost."""
        count, _, height, width = images_NCHW.shape
        side = torch.sqrt(1 - self._beta(self.policy.cutmix, images_NCHW))
        centre = self.random.between(0, 1, count), self.random.between(0, 1, count)
        return 1 - inside(centre, side, side, height, width).to(images_NCHW.dtype)

    def _beta(self, alpha: float, images_NCHW: torch.Tensor) -> torch.Tensor:
        # numpy: torch's beta distribution takes no generator
        shares = self.betas.beta(alpha, alpha, len(images_NCHW)).astype(np.float32)
        return torch.from_numpy(shares).to(images_NCHW.device, non_blocking=True)
