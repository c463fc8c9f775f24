"""Flips, rotation, translation, zoom and crop as one affine map per sample, and so as one resampling."""

import math

import torch
from torch.nn.functional import grid_sample

from pipeline.augmentation.policy import Policy
from pipeline.augmentation.random_streams import RandomStream

CROP_ASPECT = 4 / 3


def affine(policy: Policy, random: RandomStream, count: int) -> torch.Tensor:
    """[count, 2, 3]: where in the original each point of the result lies, in coordinates from -1 to 1."""
    angle = random.around(0, math.radians(policy.rotation), count)
    zoom = random.around(1, policy.scale, count)
    cosine, sine = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    mirror_x = 1 - 2.0 * random.chance(0.5 * policy.horizontal_flip, count)
    mirror_y = 1 - 2.0 * random.chance(0.5 * policy.vertical_flip, count)
    # Coordinates run from -1 to 1: a share of the side is twice as much there
    shift_x, shift_y = (random.around(0, 2 * policy.translation, count) for _ in range(2))
    rows = [mirror_x * cosine, -mirror_y * sine, shift_x], [mirror_x * sine, mirror_y * cosine, shift_y]
    theta = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    return _inside_crop(theta, policy.resized_crop, random) if policy.resized_crop else theta


def by_whole_pixels(theta: torch.Tensor, images_NCHW: torch.Tensor) -> torch.Tensor:
    """Where images are only flipped and shifted, shifts by parts of a pixel would blur what validation sees sharp."""
    height, width = images_NCHW.shape[2:]
    x, y = ((theta[:, i, 2] * side / 2).round() * 2 / side for i, side in enumerate((width, height)))
    return torch.cat([theta[:, :, :2], torch.stack([x, y], dim=1)[:, :, None]], dim=2)


def _inside_crop(theta: torch.Tensor, smallest: float, random: RandomStream) -> torch.Tensor:
    """Let the whole of `theta` happen inside a random window that lies within the image."""
    sides_N2 = torch.stack(sides(random.between(smallest, 1, len(theta)), CROP_ASPECT, random), dim=1)
    free = torch.stack([random.around(0, 1, len(theta)) for _ in range(2)], dim=1)
    cropped = theta * sides_N2[:, :, None]
    cropped[:, :, 2] += free * (1 - sides_N2)
    return cropped


def resample(images_NCHW: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Bilinear, in contiguous memory; beyond the edge the image is reflected.

    The grid is that of torch's affine_grid, whose batched product of thin matrices takes longer on a CPU than the
    resampling itself: a column's part and a row's part, added, take a fiftieth of that.
    """
    height, width = images_NCHW.shape[2:]
    x, y = ((2 * torch.arange(side, device=theta.device) + 1) / side - 1 for side in (width, height))
    by_column_N2W, by_row_N2H = theta[:, :, 0:1] * x, theta[:, :, 1:2] * y + theta[:, :, 2:3]
    grid_N2HW = by_column_N2W[:, :, None, :] + by_row_N2H[:, :, :, None]
    return grid_sample(images_NCHW, grid_N2HW.permute(0, 2, 3, 1), padding_mode="reflection", align_corners=False)


def sides(area: torch.Tensor, aspect: float, random: RandomStream) -> tuple[torch.Tensor, torch.Tensor]:
    """Width and height [N] of random rectangles of an `area` [N], all as shares of the image's: their ratio is
    log-uniform between 1 / aspect and aspect, as far as the rectangle fits into the image."""
    widest = torch.clamp(-torch.log(area), max=math.log(aspect))
    stretch = torch.exp(random.around(0, 0.5, len(area)) * widest)
    return torch.sqrt(area) * stretch, torch.sqrt(area) / stretch


def inside(
    centre: tuple[torch.Tensor, torch.Tensor], width: torch.Tensor, height: torch.Tensor, rows: int, columns: int
) -> torch.Tensor:
    """bool [N, 1, rows, columns]: the pixels whose middle lies in the rectangle; all lengths [N] are shares."""
    x, y = centre
    column, row = ((torch.arange(count, device=x.device) + 0.5) / count for count in (columns, rows))
    in_columns = (column - x[:, None]).abs() < width[:, None] / 2
    in_rows = (row - y[:, None]).abs() < height[:, None] / 2
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]
