"""What a training gets, from what the data stages left, and the card of the network that comes of it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from pipeline import layout
from pipeline.artifacts import Dataset, ModelCard, read_dataset, read_json, read_table
from pipeline.augmentation.augmenter import Augmenter
from pipeline.augmentation.policy import Policy
from pipeline.config import Model, Train
from pipeline.errors import UserError
from pipeline.networks.architectures import checked, find
from pipeline.networks.weights import fresh
from pipeline.preprocessing import Preprocessing
from pipeline.training.balance import Balance, limited

LOOKED_AT = 4096  # training images from which a network may be prepared
FILES = (layout.SPLITS, layout.POLICY, layout.SAMPLE_INDEX, layout.NORM_STATS, layout.PREPROCESSING)


@dataclass(frozen=True)
class TrainingInputs:
    """What a training may see: never the test split. `images_NHWC` are all images (uint8, perhaps mapped from disk), of
    which `rows` and `val_rows` select; `labels` [N] index `class_names`. `draw_weights` [len(rows)] or None: chances of
    being drawn. `class_weights`, `logit_offsets` [classes]: see balance.py."""

    images_NHWC: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    rows: np.ndarray
    val_rows: np.ndarray
    draw_weights: np.ndarray | None
    class_weights: np.ndarray
    logit_offsets: np.ndarray
    policy: Policy


def inputs_of(dataset: Dataset, balance: Balance, policy: Policy, recipe: Train) -> TrainingInputs:
    """The training rows (all, or `train.limit` of them) and the validation rows."""
    index = limited(balance.sample_index, recipe.limit, recipe.seed)
    weights = index["weight"].to_numpy()
    draw_weights = None if (weights == weights[0]).all() else weights
    in_loss = np.asarray(balance.class_weights), np.asarray(balance.logit_offsets)
    rows = index["row"].to_numpy(), dataset.rows("val")
    return TrainingInputs(
        dataset.images_NHWC, dataset.labels, dataset.class_names, *rows, draw_weights, *in_loss, policy
    )


def read_inputs(recipe: Train) -> TrainingInputs:
    decided = read_json(layout.POLICY)
    balance = Balance(read_table(layout.SAMPLE_INDEX), decided["class_weights"], decided["logit_offsets"])
    return inputs_of(read_dataset(), balance, Policy(**decided["policy"]), recipe)


def read_card(model: Model, class_names: tuple[str, ...]) -> ModelCard:
    """Of the network that an entry of `models` describes."""
    prepared, stats = Preprocessing.from_record(read_json(layout.PREPROCESSING)), read_json(layout.NORM_STATS)
    file, options = find(model.architecture), checked(model.architecture, model.options)
    own = file.statistics(options) if hasattr(file, "statistics") else None
    mean, std = own or (tuple(stats["mean"]), tuple(stats["std"]))
    return ModelCard(model.architecture, class_names, prepared, mean, std, model.options)


def initialized(card: ModelCard, inputs: TrainingInputs, seed: int, key: str = "") -> nn.Module:
    """A network as its training begins with it; what is said of it begins with `key`. Seeds torch's generator."""
    torch.manual_seed(seed)
    file, options = find(card.architecture), checked(card.architecture, card.options)
    try:
        network = fresh(card)
        if hasattr(file, "pretrain"):
            file.pretrain(network, options)
    except UserError as error:
        raise UserError(f"{key}{error}") from error
    if hasattr(file, "prepare"):
        some = np.random.default_rng(seed).permutation(inputs.rows)[:LOOKED_AT]
        plain = Augmenter(Policy(), card.mean, card.std, torch.device("cpu"), seed)
        file.prepare(network, plain(torch.from_numpy(inputs.images_NHWC[np.sort(some)])))
    return network
