"""TrivialAugment, "wide": one of 14 operations for each sample, at one of 31 strengths, and nothing to tune.

S. Mueller, F. Hutter 2021, arXiv:2103.10158, with the space of torchvision's TrivialAugmentWide. Operations take
images [n, 3, H, W] of 0-255 and strengths [n]; where geometry leaves the image it is black, and it is bilinear.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from pipeline.training.colour import YIQ
from pipeline.training.geometry import resample

LEVELS = 31
# Pixels of a translation; in images smaller than this it is scaled down, so that the whole side is the furthest
FURTHEST = 32


@dataclass(frozen=True)
class Operation:
    """`weakest`, `strongest`: the range of its strength; `signed`: a fair coin turns the strength round."""

    apply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    weakest: float = 0.0
    strongest: float = 0.0
    signed: bool = False


class TrivialAugment:
    """Draws on the host, even for a GPU: who gets which operation is known there without waiting for the device."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator("cpu").manual_seed(seed)

    def __call__(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """float32 [N, 3, H, W] of whole numbers from 0 to 255 -> the same shape and range, not rounded."""
        drawn = self._integers(len(OPERATIONS), images_NCHW)
        level = self._integers(LEVELS, images_NCHW) / (LEVELS - 1)
        sign = 1 - 2 * self._integers(2, images_NCHW)
        images_NCHW = images_NCHW.contiguous()  # each channel by itself: what the operations are quick at
        augmented = images_NCHW.clone()
        for number, operation in enumerate(OPERATIONS.values()):
            members = torch.nonzero(drawn == number)[:, 0]
            if operation.apply is _identity or not len(members):
                continue
            strength = operation.weakest + (operation.strongest - operation.weakest) * level[members]
            strength = strength * sign[members] if operation.signed else strength
            members = members.to(images_NCHW.device, non_blocking=True)
            strength = strength.to(images_NCHW.device, non_blocking=True)
            augmented.index_copy_(0, members, operation.apply(images_NCHW.index_select(0, members), strength))
        return augmented

    def _integers(self, below: int, images_NCHW: torch.Tensor) -> torch.Tensor:
        return torch.randint(below, (len(images_NCHW),), generator=self.generator)


def _identity(images: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    return images


def _affine(images: torch.Tensor, *entries: torch.Tensor) -> torch.Tensor:
    """`entries` [n] are the two rows of the map from the result to the original, coordinates from -1 to 1."""
    return resample(images, torch.stack(entries, dim=1).view(-1, 2, 3), beyond="zeros")


def _shear_x(images: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    zero, one = torch.zeros_like(slope), torch.ones_like(slope)
    return _affine(images, one, slope, slope, zero, one, zero)  # the upper left corner stays


def _shear_y(images: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    zero, one = torch.zeros_like(slope), torch.ones_like(slope)
    return _affine(images, one, zero, zero, slope, one, slope)


def _translate_x(images: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    zero, one = torch.zeros_like(pixels), torch.ones_like(pixels)
    return _affine(images, one, zero, -2 * pixels.trunc() / max(FURTHEST, images.shape[3]), zero, one, zero)


def _translate_y(images: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    zero, one = torch.zeros_like(pixels), torch.ones_like(pixels)
    return _affine(images, one, zero, zero, zero, one, -2 * pixels.trunc() / max(FURTHEST, images.shape[2]))


def _rotate(images: torch.Tensor, degrees: torch.Tensor) -> torch.Tensor:
    angle, zero = torch.deg2rad(degrees), torch.zeros_like(degrees)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    return _affine(images, cosine, -sine, zero, sine, cosine, zero)


def _blend(images: torch.Tensor, dull: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
    """Away from the dull version by 1 + more: with -1 it is what is left."""
    return torch.lerp(dull.expand_as(images), images, 1 + more[:, None, None, None]).clamp_(0, 255)


def _grey(images: torch.Tensor) -> torch.Tensor:
    red, green, blue = YIQ[0]  # as numbers: a tensor of them would make a GPU wait for the host
    return red * images[:, 0:1] + green * images[:, 1:2] + blue * images[:, 2:3]


def _brightness(images: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
    return _blend(images, torch.zeros_like(images), more)


def _colour(images: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
    return _blend(images, _grey(images), more)


def _contrast(images: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
    return _blend(images, _grey(images).mean(dim=(1, 2, 3), keepdim=True), more)


def _sharpness(images: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
    """The dull version is smoothed: 1 for each of 8 neighbours, 5 for the middle. The outermost pixels stay."""
    # Sums of slices: a convolution is set up anew for each size of batch, which takes longer than to compute it
    rows = images[..., :-2, :] + images[..., 1:-1, :] + images[..., 2:, :]
    smooth = images.clone()
    smooth[..., 1:-1, 1:-1] = (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * images[..., 1:-1, 1:-1]) / 13
    return _blend(images, smooth, more)


def _posterize(images: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    step = torch.exp2(8 - bits.round())[:, None, None, None]
    return torch.floor(images / step) * step


def _solarize(images: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    return torch.where(images >= threshold[:, None, None, None], 255 - images, images)


def _autocontrast(images: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    stretched = (images - low) * (255 / (high - low).clamp(min=1))
    return torch.where(high > low, stretched, images)


def _equalize(images: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """As Pillow does it, in whole numbers, by a table of 256 levels for each channel of each image."""
    levels_RP = images.long().flatten(0, 1).flatten(1)
    counts_RL = levels_RP.new_zeros(len(levels_RP), 256).scatter_add_(1, levels_RP, torch.ones_like(levels_RP))
    brightest = counts_RL.gather(1, levels_RP.amax(dim=1, keepdim=True))
    step = (levels_RP.shape[1] - brightest) // 255
    below_RL = counts_RL.cumsum(dim=1) - counts_RL
    table_RL = ((below_RL + step // 2) // step.clamp(min=1)).clamp_(max=255)
    equal = torch.where(step > 0, table_RL.gather(1, levels_RP), levels_RP)
    return equal.view(images.shape).float()


OPERATIONS = {
    "identity": Operation(_identity),
    "shear_x": Operation(_shear_x, 0, 0.99, signed=True),
    "shear_y": Operation(_shear_y, 0, 0.99, signed=True),
    "translate_x": Operation(_translate_x, 0, FURTHEST, signed=True),
    "translate_y": Operation(_translate_y, 0, FURTHEST, signed=True),
    "rotate": Operation(_rotate, 0, 135, signed=True),
    "brightness": Operation(_brightness, 0, 0.99, signed=True),
    "colour": Operation(_colour, 0, 0.99, signed=True),
    "contrast": Operation(_contrast, 0, 0.99, signed=True),
    "sharpness": Operation(_sharpness, 0, 0.99, signed=True),
    "posterize": Operation(_posterize, 8, 2),
    "solarize": Operation(_solarize, 255, 0),
    "autocontrast": Operation(_autocontrast),
    "equalize": Operation(_equalize),
}
