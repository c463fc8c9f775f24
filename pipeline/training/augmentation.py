"""Augmentation of whole batches, each sample with its own draw, on the device that trains.

Flip, rotation, translation and scale are one affine resampling; brightness, contrast, saturation and normalization
are folded into one 3x3 matrix and one offset per sample, so that every pixel is touched twice in all.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch.nn.functional import affine_grid, grid_sample

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class Policy:
    """What may happen to a training image. A strength of 0 (or false) turns its knob off."""

    horizontal_flip: bool = False
    vertical_flip: bool = False
    rotation: float = 0.0
    """Degrees, drawn from [-rotation, rotation]."""
    translation: float = 0.0
    """Share of the side, drawn from [-translation, translation] for each axis."""
    scale: float = 0.0
    """Zoom drawn from [1 - scale, 1 + scale]."""
    brightness: float = 0.0
    """Factor drawn from [1 - x, 1 + x]; so are contrast and saturation."""
    contrast: float = 0.0
    saturation: float = 0.0
    cutout: float = 0.0
    """Side of a square that is blanked, as a share of the image's side (DeVries & Taylor 2017, arXiv:1708.04552)."""

    def __post_init__(self) -> None:
        limits = {"rotation": 180, "translation": 0.5, "scale": 0.9, "cutout": 0.9}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "bool":
                if not isinstance(value, bool):
                    raise ValueError(f"augment.overrides.{field.name} is {value!r}: write true or false")
                continue
            top = limits.get(field.name, 1)
            if isinstance(value, bool) or not 0 <= value <= top:
                raise ValueError(f"augment.overrides.{field.name} is {value!r}: it must lie between 0 and {top}")

    @property
    def warps(self) -> bool:
        flips = self.horizontal_flip or self.vertical_flip
        return flips or self.rotation > 0 or self.translation > 0 or self.scale > 0


POLICIES = {
    "none": Policy(),
    "light": Policy(horizontal_flip=True),
    "standard": Policy(horizontal_flip=True, translation=0.125, scale=0.1, brightness=0.1, contrast=0.1),
    "strong": Policy(
        horizontal_flip=True, rotation=15, translation=0.125, scale=0.2,
        brightness=0.3, contrast=0.3, saturation=0.3, cutout=0.25,
    ),
    # A mirrored or strongly turned digit is another digit, or none
    "digits": Policy(rotation=10, translation=0.1, scale=0.1, brightness=0.1, contrast=0.1),
}  # fmt: skip


def resolve(name: str, overrides: dict[str, bool | int | float]) -> Policy:
    """A named policy with single knobs replaced. Raises ValueError naming the parameter."""
    if name not in POLICIES:
        raise ValueError(f"augment.policy is {name!r}; it can be: {', '.join(POLICIES)}")
    knobs = [field.name for field in dataclasses.fields(Policy)]
    for knob in overrides:
        if knob not in knobs:
            raise ValueError(f"augment.overrides.{knob} is not a known knob; known: {', '.join(knobs)}")
    return dataclasses.replace(POLICIES[name], **overrides)  # type: ignore[arg-type]  # checked by Policy itself


class Augmenter:
    """Draws from its own generator, so that the stream depends on nothing but the seed and the batches."""

    def __init__(
        self, policy: Policy, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device, seed: int
    ) -> None:
        self.policy = policy
        self.mean = torch.tensor(mean, device=device)
        self.std = torch.tensor(std, device=device)
        self.luma = torch.tensor(LUMA, device=device)
        self.generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, images_NHWC: torch.Tensor) -> torch.Tensor:
        """uint8 [N, H, W, 3] -> augmented and normalized float32 [N, 3, H, W] in channels_last memory."""
        images_NCHW = images_NHWC.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last)
        if self.policy.warps:
            images_NCHW = self._warp(images_NCHW)
        images_NCHW = self._colour(images_NCHW)
        return self._cutout(images_NCHW) if self.policy.cutout else images_NCHW

    def _uniform(self, count: int, spread: float, centre: float = 0.0) -> torch.Tensor:
        draw = torch.rand(count, generator=self.generator, device=self.mean.device)
        return centre + spread * (2 * draw - 1)

    def _sign(self, count: int, flips: bool) -> torch.Tensor:
        draw = torch.rand(count, generator=self.generator, device=self.mean.device)
        return torch.where(draw < 0.5, -1.0, 1.0) if flips else torch.ones_like(draw)

    def _warp(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        count, policy = len(images_NCHW), self.policy
        angle = self._uniform(count, math.radians(policy.rotation))
        zoom = 1 / self._uniform(count, policy.scale, centre=1.0)
        cosine, sine = zoom * torch.cos(angle), zoom * torch.sin(angle)
        horizontal, vertical = self._sign(count, policy.horizontal_flip), self._sign(count, policy.vertical_flip)
        # The grid's coordinates run from -1 to 1: a share of the side is twice as much there
        shift_x, shift_y = self._uniform(count, 2 * policy.translation), self._uniform(count, 2 * policy.translation)
        theta = torch.stack(
            [
                torch.stack([horizontal * cosine, -vertical * sine, shift_x], dim=1),
                torch.stack([horizontal * sine, vertical * cosine, shift_y], dim=1),
            ],
            dim=1,
        )
        grid = affine_grid(theta, list(images_NCHW.shape), align_corners=False)
        return grid_sample(images_NCHW, grid, padding_mode="reflection", align_corners=False)

    def _colour(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """0-255 values to normalized ones: scale, brightness, contrast, saturation and normalization in one map."""
        count, policy = len(images_NCHW), self.policy
        pixels_NPC = images_NCHW.permute(0, 2, 3, 1).reshape(count, -1, 3)
        brightness = self._uniform(count, policy.brightness, centre=1.0)
        contrast = self._uniform(count, policy.contrast, centre=1.0)
        saturation = self._uniform(count, policy.saturation, centre=1.0)[:, None, None]
        grey_mean = (pixels_NPC.mean(dim=1) @ self.luma) / 255 * brightness
        identity = torch.eye(3, device=self.mean.device)
        to_grey = self.luma[:, None].expand(3, 3)
        matrix = saturation * identity + (1 - saturation) * to_grey
        matrix = matrix * (brightness * contrast / 255)[:, None, None] / self.std
        offset = (((1 - contrast) * grey_mean)[:, None] - self.mean) / self.std
        mapped = torch.baddbmm(offset[:, None, :], pixels_NPC, matrix)
        height, width = images_NCHW.shape[2:]
        return mapped.view(count, height, width, 3).permute(0, 3, 1, 2)

    def _cutout(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Blank a square, its centre anywhere: zero is the mean after normalization."""
        count, _, height, width = images_NCHW.shape
        half = self.policy.cutout / 2
        rows = torch.arange(height, device=self.mean.device)[None, :] + 0.5
        columns = torch.arange(width, device=self.mean.device)[None, :] + 0.5
        in_rows = (rows - (self._uniform(count, 0.5, 0.5) * height)[:, None]).abs() < half * height
        in_columns = (columns - (self._uniform(count, 0.5, 0.5) * width)[:, None]).abs() < half * width
        return images_NCHW.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0.0)
