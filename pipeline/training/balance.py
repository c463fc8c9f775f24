"""What is done about classes of unequal size: by which images are drawn, or by the training loss. Imports no torch."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.errors import UserError


class Balance(NamedTuple):
    """`sample_index`: row, class and weight (chance of being drawn) of each training image, a line per time it is
    listed. `class_weights` [classes]: weights in the loss. `logit_offsets` [classes]: added to the logits there."""

    sample_index: pd.DataFrame
    class_weights: list[float]
    logit_offsets: list[float]


def balanced(rows: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...], mode: str, seed: int) -> Balance:
    """`rows`, `labels` [n] of the training split, `mode` as in `augment.balance`; the seed chooses duplicates.

    Raises UserError for a class that has no training image.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    if not counts.all():
        raise UserError(f"class {class_names[counts.argmin()]!r} has no training image: add some, or remove the class")
    # In proportion to how rare a class is; the mean weight of an image stays 1
    rarity = len(rows) / (len(class_names) * counts)
    weights = rarity[labels] if mode == "sampler" else np.ones(len(rows))
    index = pd.DataFrame({"row": rows, "class": np.array(class_names, dtype=object)[labels], "weight": weights})
    if mode == "duplicates":
        index = index.iloc[_duplicated(labels, counts, seed)].reset_index(drop=True)
    # Menon et al. 2020, arXiv:2007.07314 (tau = 1): a network that is trained with the log of the classes' shares
    # added to its logits learns logits without that share, which is what is used later on
    offsets = np.log(counts / len(rows)) if mode == "logit_adjustment" else np.zeros(len(class_names))
    class_weights = rarity if mode == "loss_weights" else np.ones(len(class_names))
    return Balance(index, class_weights.tolist(), offsets.tolist())


def _duplicated(labels: np.ndarray, counts: np.ndarray, seed: int) -> np.ndarray:
    """Positions in `labels`, ascending, each class as often as the largest: all its images the same number of times,
    and a random choice of them once more."""
    order, chosen = np.random.default_rng(seed), []
    for label, count in enumerate(counts):
        whole, rest = divmod(counts.max(), count)
        members = np.flatnonzero(labels == label)
        chosen += [np.repeat(members, whole), order.choice(members, rest, replace=False)]
    return np.sort(np.concatenate(chosen))


def limited(sample_index: pd.DataFrame, limit: int, seed: int) -> pd.DataFrame:
    """About `limit` lines (0: all of them): the classes in their proportions, rounded, at least one image each."""
    if not limit or limit >= len(sample_index):
        return sample_index
    share = limit / len(sample_index)
    shuffled = sample_index.sample(frac=1, random_state=seed)
    # Every image once before any is listed again
    shuffled = shuffled.iloc[shuffled.groupby("row").cumcount().argsort(kind="stable")]
    place_in_class = shuffled.groupby("class").cumcount()
    class_size = shuffled.groupby("class")["row"].transform("size")
    return shuffled[place_in_class < (class_size * share).clip(lower=1).round()].sort_values("row")
