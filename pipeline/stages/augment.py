"""`augment`: what training needs to know of the training split: statistics, balance, policy, and a preview.

Nothing is stored augmented: augmentation happens on whole batches while training (see training/augmentation.py), and
stored augmented copies were measured to do harm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure

from pipeline.artifacts import Dataset
from pipeline.augmentation.augmenter import Augmenter
from pipeline.augmentation.mixup import Mixer
from pipeline.augmentation.policy import Policy, resolve
from pipeline.config import Augment
from pipeline.evaluation.plots import augmentation_preview, label
from pipeline.training.balance import Balance, balanced

BLOCK = 4096
VERSIONS, MOST_CLASSES = 10, 12


@dataclass(frozen=True)
class Augmented:
    """`mean`, `std`: per channel, 0-1 scale. All of it is of the training split alone."""

    policy: Policy
    mean: tuple[float, ...]
    std: tuple[float, ...]
    balance: Balance
    preview: Figure


def augment(dataset: Dataset, config: Augment) -> Augmented:
    policy = resolve(config.policy, config.overrides)
    rows = dataset.rows("train")
    mean, std = statistics(dataset.images_NHWC, rows)
    balance = balanced(rows, dataset.labels[rows], dataset.class_names, config.balance, config.seed)
    return Augmented(policy, mean, std, balance, _preview(dataset, rows, policy, mean, std, config))


def statistics(images_NHWC: np.ndarray, rows: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel on the 0-1 scale, in blocks: exact, from counts of the 256 levels."""
    counts = np.zeros((3, 256), dtype=np.int64)
    for start in range(0, len(rows), BLOCK):
        block = images_NHWC[rows[start : start + BLOCK]]
        for channel in range(3):
            counts[channel] += np.bincount(block[..., channel].ravel(), minlength=256)
    levels = np.arange(256) / 255
    total = counts.sum(axis=1)
    mean = counts @ levels / total
    variance = counts @ levels**2 / total - mean**2
    # A constant channel carries nothing; a floor keeps it from dividing by zero
    std = np.sqrt(np.maximum(variance, 1e-6))
    return tuple(mean.round(6).tolist()), tuple(std.round(6).tolist())


def _preview(
    dataset: Dataset,
    rows: np.ndarray,
    policy: Policy,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    config: Augment,
) -> Figure:
    """The first image of each class, and versions of it as training would see them."""
    cpu, labels = torch.device("cpu"), dataset.labels[rows]
    shown = np.arange(len(dataset.class_names))[:MOST_CLASSES]
    originals = dataset.images_NHWC[[rows[labels == label][0] for label in shown]]
    # One batch, so that images of different classes mix
    batch = torch.from_numpy(originals).repeat_interleave(VERSIONS, dim=0)
    images = Augmenter(policy, mean, std, cpu, config.seed)(batch)
    sure = torch.eye(len(shown)).repeat_interleave(VERSIONS, dim=0)
    images, targets = Mixer(policy, cpu, config.seed + 1)(images, sure)
    # Normalized, because what is blanked takes the mean colour; and back, to be looked at
    versions_NHWC = (images.permute(0, 2, 3, 1) * torch.tensor(std) + torch.tensor(mean)).clamp(0, 1)
    versions = versions_NHWC.unflatten(0, (len(shown), VERSIONS)).numpy()
    names = list(dataset.class_names[:MOST_CLASSES])
    parts = targets.unflatten(0, (len(shown), VERSIONS)).numpy()
    captions = [[_mixed_in(part, own, names) for part in row] for own, row in enumerate(parts)]
    knobs = [name if value is True else f"{name} {value:g}" for name, value in policy if value]
    more = len(dataset.class_names) - MOST_CLASSES
    suffix = f" (the first {MOST_CLASSES} of {len(dataset.class_names)} classes)" if more > 0 else ""
    title = f"Policy {config.policy}{suffix}: {', '.join(knobs) or 'nothing is changed'}"
    return augmentation_preview(names, originals, versions, captions, title)


def _mixed_in(target_K: np.ndarray, own: int, names: list[str]) -> str:
    """What another class has in a picture of class `own`, if anything."""
    others = np.delete(target_K, own)
    share = others.max(initial=0.0)
    return f"{share:.0%} {label(np.delete(names, own)[others.argmax()])}" if share >= 0.005 else ""
