"""Brightness, contrast, saturation, hue and normalization as one 3x3 matrix and one offset per sample."""

import math

import torch

from pipeline.augmentation.policy import Policy
from pipeline.augmentation.random_streams import RandomStream

# Red, green, blue to luma and two colour axes. Turning the plane of the latter two turns the hue: that is linear, so
# it folds into the matrix, and unlike a turn in HSV it leaves the luma (ITU-R BT.601, as everywhere here) alone.
YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


class ColourMap:
    """Takes 0-255 values; what leaves the range is not clipped: the network takes any number."""

    def __init__(self, policy: Policy, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> None:
        self.policy = policy
        self.mean, self.std = torch.tensor(mean, device=device), torch.tensor(std, device=device)
        yiq = torch.tensor(YIQ, dtype=torch.float64)
        turn = torch.tensor([[0.0, 0, 0], [0, 0, 1], [0, -1, 0]], dtype=torch.float64)
        self.luma = yiq[0].to(device, torch.float32)
        self.to_grey = self.luma.expand(3, 3)
        self.to_colour = torch.eye(3, device=device) - self.to_grey
        self.to_turned_colour = (torch.linalg.inv(yiq) @ turn @ yiq).to(device, torch.float32)

    def __call__(self, images_NCHW: torch.Tensor, random: RandomStream) -> torch.Tensor:
        """float32 [N, 3, H, W] of 0-255 -> normalized, in contiguous memory."""
        count, policy = len(images_NCHW), self.policy
        # Channels first: a product of [3, 3] with [3, P] takes a tenth of the time of [P, 3] with [3, 3] on a CPU
        pixels_NCP = images_NCHW.contiguous().view(count, 3, -1)
        spreads = (policy.brightness, policy.contrast, policy.saturation)
        brightness, contrast, saturation = (random.around(1, spread, count)[:, None, None] for spread in spreads)
        angle = random.around(0, 2 * math.pi * policy.hue, count)[:, None, None]
        colour = torch.cos(angle) * self.to_colour + torch.sin(angle) * self.to_turned_colour
        matrix = (self.to_grey + saturation * colour) * (brightness * contrast / 255) / self.std[:, None]
        offset = (-self.mean / self.std)[:, None].expand(count, 3, 1)
        if policy.contrast:
            # Neither saturation nor hue changes the mean luma, about which the contrast grows
            grey_N11 = (pixels_NCP.mean(dim=2) @ self.luma)[:, None, None] / 255 * brightness
            offset = offset + (1 - contrast) * grey_N11 / self.std[:, None]
        return torch.baddbmm(offset, matrix, pixels_NCP).view(images_NCHW.shape)
