"""`augment`: what training needs to know of the training split: statistics, balance, policy, and a preview.

Nothing is stored augmented: stored copies were measured to do harm. Training augments whole batches.
"""

import numpy as np
import torch
from matplotlib.figure import Figure

from pipeline import layout
from pipeline.artifacts import Dataset, read_dataset, write_json, write_table
from pipeline.augmentation.augmenter import Augmenter
from pipeline.augmentation.mixup import Mixer
from pipeline.augmentation.policy import Policy, resolve
from pipeline.config import Params
from pipeline.evaluation.plots import image_grid, label, save
from pipeline.training.balance import balanced

BLOCK = 4096  # images that are counted at once
VERSIONS, MOST_CLASSES = 10, 12
Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation per channel, 0-1 scale


def run(config: Params) -> list[str]:
    """All that is written is of the training split alone."""
    asked, dataset = config.augment, read_dataset()
    rows = dataset.rows("train")
    policy = resolve(asked.policy, asked.overrides)
    statistics = channel_statistics(dataset.images_NHWC, rows)
    balance = balanced(rows, dataset.labels[rows], dataset.class_names, asked.balance, asked.seed)
    weighing = {"class_weights": balance.class_weights, "logit_offsets": balance.logit_offsets}
    write_json(layout.POLICY, {"policy": dict(policy), **weighing})
    write_json(layout.NORM_STATS, dict(zip(("mean", "std"), statistics, strict=True)))
    write_table(layout.SAMPLE_INDEX, balance.sample_index)
    on = ", ".join(name if value is True else f"{name} {value:g}" for name, value in policy if value)
    title = f"Policy {asked.policy}: {on or 'nothing is changed'}"
    save(preview(dataset, policy, statistics, title, asked.seed), layout.PREVIEW)
    return [title.lower(), f"balance {asked.balance}"]


def channel_statistics(images_NHWC: np.ndarray, rows: np.ndarray) -> Statistics:
    """In blocks: exact, from counts of the 256 levels."""
    counts = np.zeros((3, 256), dtype=np.int64)
    for start in range(0, len(rows), BLOCK):
        block = images_NHWC[rows[start : start + BLOCK]]
        for channel in range(3):
            counts[channel] += np.bincount(block[..., channel].ravel(), minlength=256)
    levels, total = np.arange(256) / 255, counts.sum(axis=1)
    mean = counts @ levels / total
    variance = counts @ levels**2 / total - mean**2
    # A constant channel carries nothing; a floor keeps it from dividing by zero
    std = np.sqrt(np.maximum(variance, 1e-6))
    return tuple(mean.round(6).tolist()), tuple(std.round(6).tolist())


def preview(dataset: Dataset, policy: Policy, statistics: Statistics, title: str, seed: int) -> Figure:
    """The first training image of each class, and versions of it as training would see them."""
    cpu, names, (mean, std) = torch.device("cpu"), list(dataset.class_names[:MOST_CLASSES]), statistics
    pictures_NHWC, labels = dataset.of("train")
    originals = pictures_NHWC[np.array([np.flatnonzero(labels == own)[0] for own in range(len(names))])]
    # One batch, so that images of different classes mix
    batch = torch.from_numpy(originals).repeat_interleave(VERSIONS, dim=0)
    images = Augmenter(policy, mean, std, cpu, seed)(batch)
    images, targets = Mixer(policy, cpu, seed + 1)(images, torch.eye(len(names)).repeat_interleave(VERSIONS, dim=0))
    # Normalized, because what is blanked takes the mean colour; and back, to be looked at
    versions = (images.permute(0, 2, 3, 1) * torch.tensor(std) + torch.tensor(mean)).clamp(0, 1)
    shown, captions = [], []
    for own, (some, parts) in enumerate(zip(versions.split(VERSIONS), targets.split(VERSIONS), strict=True)):
        shown += [originals[own : own + 1] / 255, some.numpy()]
        captions += [label(names[own]), *(_mixed_in(part, own, names) for part in parts.numpy())]
    if len(names) < len(dataset.class_names):
        title = f"{title} (the first {len(names)} of {len(dataset.class_names)} classes)"
    title = f"{title}. Left column: the originals"
    return image_grid(np.concatenate(shown), captions, 1 + VERSIONS, title, side=0.9)


def _mixed_in(target_K: np.ndarray, own: int, names: list[str]) -> str:
    """What another class has in a picture of class `own`, if anything."""
    others = np.delete(target_K, own)
    share = others.max(initial=0.0)
    return f"{share:.0%} {label(np.delete(names, own)[others.argmax()])}" if share >= 0.005 else ""
