"""`hog_svm`: histograms of oriented gradients and a linear support vector machine, what came before networks learned.

N. Dalal, B. Triggs, Histograms of Oriented Gradients for Human Detection, CVPR 2005
(https://doi.org/10.1109/CVPR.2005.177): cells of unsigned orientations, blocks of 2 x 2 cells, L2-Hys. The features are
those of `skimage.feature.hog(channel_axis=-1)` on 8-bit images. Nothing is trained by gradients: see `solve`.
"""

import math

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import avg_pool2d, pad

from pipeline.config import Section
from pipeline.config.section import Positive
from pipeline.errors import UserError

CLIP = 0.2  # of L2-Hys: a single strong edge must not hide the others
EPSILON = 1e-5


class Options(Section):
    cell: int = Field(default=0, ge=0)
    """Side of a cell in pixels; 0 = an eighth of the image's."""
    orientations: Positive = 9
    """Bins from 0 to 180 degrees."""
    regularization: float = Field(default=0.01, gt=0)
    """C of the support vector machine: the less, the smaller its weights, and the sooner they are found."""


class HOG(nn.Module):
    """Images [N, C, H, W] of 8 bits on the 0-1 scale -> features [N, blocks * 4 * orientations]."""

    cosines: torch.Tensor
    sines: torch.Tensor

    def __init__(self, cell: int, orientations: int) -> None:
        super().__init__()
        self.cell = cell
        # Where one bin ends and the next one starts
        limits_K11 = torch.arange(1, orientations, dtype=torch.float64).view(-1, 1, 1) * (math.pi / orientations)
        self.register_buffer("cosines", limits_K11.cos().float())
        self.register_buffer("sines", limits_K11.sin().float())

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        # Whole numbers have exact differences and squares: every runtime finds the same channel and the same bin
        pixels = (images_NCHW * 255).round()
        down = pad(pixels[:, :, 2:] - pixels[:, :, :-2], (0, 0, 1, 1))
        right = pad(pixels[:, :, :, 2:] - pixels[:, :, :, :-2], (1, 1, 0, 0))
        squares = down.square() + right.square()
        strongest = squares.argmax(dim=1, keepdim=True)
        down, right, squares = (values.gather(1, strongest) for values in (down, right, squares))
        cells = avg_pool2d(squares.sqrt() * self._bins(down, right), self.cell)
        rows, columns = cells.shape[2] - 1, cells.shape[3] - 1
        corners = [cells[:, :, r : r + rows, c : c + columns] for r in range(2) for c in range(2)]
        blocks = _unit(_unit(torch.cat(corners, dim=1)).clamp(max=CLIP))
        return blocks.permute(0, 2, 3, 1).flatten(1)

    def _bins(self, down: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """[N, 1, H, W] each -> [N, orientations, H, W], 1 in the bin of the orientation and 0 in the others.

        An angle is past a limit where their cross product says so, which needs no arc tangent.
        """
        right = torch.where(down < 0, -right, right)
        right = torch.where(down == 0, right.abs(), right)  # 180 degrees are 0
        past = (self.cosines * down.abs() - self.sines * right >= 0).to(down.dtype)
        # All are past 0 degrees, and none is past 180
        past = pad(pad(past, (0, 0, 0, 0, 1, 0), value=1.0), (0, 0, 0, 0, 0, 1))
        return past[:, :-1] - past[:, 1:]


def _unit(blocks: torch.Tensor) -> torch.Tensor:
    """Of length 1; a block without any gradient stays 0. Not by adding: the exporter leaves out what is so small."""
    return blocks / blocks.square().sum(dim=1, keepdim=True).clamp(min=EPSILON**2).sqrt()


def build(*, classes: int, channels: int, size: int, options: Options) -> nn.Module:
    cell = options.cell or size // 8
    blocks = size // cell - 1
    if blocks < 1:
        raise UserError(f"options.cell is {cell}: images of {size} pixels need at most {size // 2}")
    features = 4 * blocks**2 * options.orientations
    return nn.Sequential(HOG(cell, options.orientations), nn.Linear(features, classes))


def statistics(options: Options) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """None: the features are of the pixels as they are."""
    return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def solve(
    features_NF: np.ndarray, labels: np.ndarray, weights: np.ndarray, options: Options, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The last layer's weights [classes, F] and biases [classes]: one class against the others, squared hinge loss."""
    from sklearn.svm import LinearSVC

    machine = LinearSVC(C=options.regularization, dual=True, random_state=seed)
    machine.fit(features_NF, labels, sample_weight=weights)
    weight, bias = machine.coef_, machine.intercept_
    if len(weight) == 1:  # of two classes it has the second's only
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias
