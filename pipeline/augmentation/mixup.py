"""Mixup and CutMix: images of a batch mixed with other images of it, and their targets in the same shares.

H. Zhang et al. 2017, arXiv:1710.09412; S. Yun et al. 2019, arXiv:1905.04899. Each sample has its own share and its own
partner; where both methods are on, a fair coin says which of them a sample gets.
"""

import torch

from pipeline.augmentation.geometry import inside
from pipeline.augmentation.policy import Policy
from pipeline.augmentation.random_streams import RandomStream


class Mixer:
    def __init__(self, policy: Policy, device: torch.device, seed: int) -> None:
        self.policy, self.random = policy, RandomStream(device, seed)

    def __call__(self, images_NCHW: torch.Tensor, targets_NK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both mixed; a target is a distribution over the classes, and stays one. Neither argument is changed."""
        if not (self.policy.mixup or self.policy.cutmix):
            return images_NCHW, targets_NK
        own_N1HW = self._own(images_NCHW)
        partner = self.random.permutation(len(images_NCHW))
        mixed_NCHW = torch.lerp(images_NCHW[partner], images_NCHW, own_N1HW)
        return mixed_NCHW, torch.lerp(targets_NK[partner], targets_NK, own_N1HW.mean(dim=(2, 3)))

    def _own(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """How much of each pixel stays the image's own, [N, 1, H, W] from 0 to 1."""
        if not self.policy.mixup:
            return self._patch(images_NCHW)
        if not self.policy.cutmix:
            return self._blend(images_NCHW)
        coin = self.random.chance(0.5, len(images_NCHW))[:, None, None, None].to(images_NCHW.dtype)
        return torch.lerp(self._patch(images_NCHW), self._blend(images_NCHW), coin)

    def _blend(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        share_N = self.random.beta(self.policy.mixup, len(images_NCHW))
        return share_N[:, None, None, None].expand(-1, 1, *images_NCHW.shape[2:])

    def _patch(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """A rectangle of the image's own aspect, its centre anywhere: what lies outside of the image is lost."""
        count, _, height, width = images_NCHW.shape
        side = torch.sqrt(1 - self.random.beta(self.policy.cutmix, count))
        centre = self.random.between(0, 1, count), self.random.between(0, 1, count)
        return 1 - inside(centre, side, side, height, width).to(images_NCHW.dtype)
