"""Random rectangles, one for each sample: what cutout and erasing blank, what cutmix takes from another image."""

from __future__ import annotations

import math

import torch

from pipeline.augmentation.random_streams import Draws


def sides(area: torch.Tensor, aspect: float, draws: Draws) -> tuple[torch.Tensor, torch.Tensor]:
    """Width and height [N], as shares of the image's side, of rectangles of an `area` [N] (a share too).

    Width over height is log-uniform between 1 / aspect and aspect, as far as the rectangle fits into the image.
    """
    widest = torch.clamp(-torch.log(area), max=math.log(aspect))
    stretch = torch.exp(draws.around(0, 0.5, len(area)) * widest)
    return torch.sqrt(area) * stretch, torch.sqrt(area) / stretch


def inside(
    centre: tuple[torch.Tensor, torch.Tensor], width: torch.Tensor, height: torch.Tensor, rows: int, columns: int
) -> torch.Tensor:
    """bool [N, 1, rows, columns]: the pixels whose middle lies in the rectangle; all lengths [N] are shares."""
    x, y = centre
    column = (torch.arange(columns, device=x.device) + 0.5) / columns
    row = (torch.arange(rows, device=x.device) + 0.5) / rows
    in_columns = (column - x[:, None]).abs() < width[:, None] / 2
    in_rows = (row - y[:, None]).abs() < height[:, None] / 2
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]
