"""The engine learns, is deterministic, validates without augmentation, and saves what it trained."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pipeline.artifacts import Dataset, ModelCard, read_table, write_table
from pipeline.augmentation.policy import POLICIES, Policy
from pipeline.config import Prune, Train
from pipeline.networks import weights
from pipeline.networks.deployable import probabilities
from pipeline.networks.weights import fresh
from pipeline.stages.prune import prune
from pipeline.stages.train import train, training_data
from pipeline.training.balance import Balance, balanced
from pipeline.training.device import choose_device
from pipeline.training.loop import Fitted, fit
from pipeline.training.loss import Objective
from pipeline.training.progress import Epoch

CPU = torch.device("cpu")
RECIPE = Train(epochs=6, batch_size=16, learning_rate=0.05, device="cpu", precision="float32", threads=1)


WAYS = ("sampler", "duplicates", "loss_weights", "logit_adjustment")
MIXTURES = Policy(rotation=10, mixup=0.4, cutmix=1.0)


def balance_of(dataset: Dataset, mode: str = "none") -> Balance:
    rows = dataset.rows("train")
    return balanced(rows, dataset.labels[rows], dataset.class_names, mode, seed=0)


def trained(
    card: ModelCard, dataset: Dataset, recipe: Train = RECIPE, policy: Policy = POLICIES["digits"], mode: str = "none"
) -> tuple[Fitted, dict[str, float]]:
    done = train(card, dataset, balance_of(dataset, mode), policy, recipe, lambda seed, epoch: None)
    return done.fitted, done.metrics


def unbalanced(dataset: Dataset) -> Dataset:
    """A quarter of the training images of the first class is left."""
    splits = dataset.splits.copy()
    rare = [row for row in dataset.rows("train") if dataset.labels[row] == 0]
    splits.loc[rare[len(rare) // 4 :], "split"] = "unused"
    return Dataset(dataset.images_NHWC, dataset.labels, splits, dataset.class_names)


def test_it_learns_and_keeps_the_best_epoch(card: ModelCard, dataset: Dataset) -> None:
    """Three digits are learned in a few epochs; the history and the metrics agree about the best one."""
    epochs: list[Epoch] = []
    done = train(
        card, dataset, balance_of(dataset), POLICIES["digits"], RECIPE, lambda seed, epoch: epochs.append(epoch)
    )
    fitted, metrics = done.fitted, done.metrics
    assert metrics["best_val_accuracy"] > 0.9
    assert [epoch.row for epoch in epochs] == fitted.history.to_dict("records")
    best = fitted.history.iloc[fitted.best_epoch - 1]
    assert best["val_accuracy"] == fitted.history["val_accuracy"].max() == pytest.approx(metrics["best_val_accuracy"])


def test_the_same_seed_gives_the_same_weights(card: ModelCard, dataset: Dataset) -> None:
    """Bit for bit on one machine with one number of threads; another seed gives others."""
    recipe = RECIPE.model_copy(update={"epochs": 2})
    first, second = (trained(card, dataset, recipe)[0].network.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = trained(card, dataset, recipe.model_copy(update={"seed": 1}))[0].network.state_dict()
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_the_same_seed_gives_the_same_weights_with_everything_on(card: ModelCard, dataset: Dataset) -> None:
    """Mixing, erasing and TrivialAugment draw from seeded streams too."""
    recipe = RECIPE.model_copy(update={"epochs": 1})
    everything = Policy(horizontal_flip=True, resized_crop=0.5, hue=0.1, erasing=0.5, mixup=0.4, cutmix=1.0)
    first, second = (trained(card, dataset, recipe, everything, "sampler")[0].network for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_it_learns_from_mixtures(card: ModelCard, dataset: Dataset) -> None:
    """Mixup and cutmix together; a mixed image counts as its larger part, so that training accuracy means something."""
    fitted, metrics = trained(card, dataset, RECIPE.model_copy(update={"epochs": 10}), MIXTURES)
    assert metrics["best_val_accuracy"] > 0.9
    assert fitted.history["train_accuracy"].iloc[-1] > 0.6


@pytest.mark.parametrize("mode", WAYS)
def test_it_learns_with_each_way_of_balancing(card: ModelCard, dataset: Dataset, mode: str) -> None:
    """A class with a quarter of the images is learned too, with mixtures and without; untreated it is not."""
    for policy in (POLICIES["digits"], MIXTURES):
        _, metrics = trained(card, unbalanced(dataset), RECIPE.model_copy(update={"epochs": 16}), policy, mode)
        assert metrics["best_val_accuracy"] > 0.8
        assert metrics["training_images"] == 54


def test_validation_neither_augments_nor_mixes_nor_adjusts(card: ModelCard, dataset: Dataset) -> None:
    """At a learning rate of next to nothing the validation loss is the same whatever is done to training."""
    still = RECIPE.model_copy(update={"epochs": 1, "learning_rate": 1e-30, "weight_decay": 0.0})
    everything = Policy(rotation=90, brightness=1.0, erasing=1.0, mixup=1.0, cutmix=1.0)

    def losses(policy: Policy, mode: str) -> list[float]:
        data = training_data(dataset, balance_of(dataset, mode), still)
        torch.manual_seed(0)
        network = fresh(card)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 0.0  # or the statistics of the augmented images would show in the validation
        history = fit(network, card, data, still, policy, lambda epoch: None).history
        return history[["val_loss", "val_accuracy"]].iloc[0].tolist()

    plain = losses(Policy(), "none")
    assert losses(everything, "logit_adjustment") == losses(everything, "loss_weights") == plain


def test_the_objective_is_torchs_cross_entropy_of_labels() -> None:
    """With weights and label smoothing; the adjustment shifts the logits; a mixture's loss lies between its parts'."""
    torch.manual_seed(0)
    logits, labels, weights = torch.randn(8, 3), torch.randint(3, (8,)), torch.tensor([0.5, 1.0, 2.0])
    offsets = torch.tensor([-2.0, -1.0, -0.5])
    objective = Objective(weights, offsets, 0.1)
    wanted = cross_entropy(logits + offsets, labels, weights, label_smoothing=0.1)
    assert torch.allclose(objective(logits, objective.targets(labels)), wanted)
    flat = Objective(torch.ones(3), torch.zeros(3), 0.1)
    others = (labels + 1) % 3
    mixed = flat(logits, 0.3 * flat.targets(labels) + 0.7 * flat.targets(others))
    assert torch.allclose(mixed, 0.3 * flat(logits, flat.targets(labels)) + 0.7 * flat(logits, flat.targets(others)))


def test_training_never_sees_the_test_split(card: ModelCard, dataset: Dataset) -> None:
    """With the test images replaced by noise, the weights are the same."""
    recipe = RECIPE.model_copy(update={"epochs": 1})
    noisy = np.array(dataset.images_NHWC)
    noisy[dataset.rows("test")] = np.random.default_rng(0).integers(0, 256, noisy[dataset.rows("test")].shape)
    spoiled = Dataset(noisy, dataset.labels, dataset.splits, dataset.class_names)
    first, second = trained(card, dataset, recipe)[0].network, trained(card, spoiled, recipe)[0].network
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_diverging_loss_stops_with_a_remedy(card: ModelCard, dataset: Dataset) -> None:
    """NaN is not trained on for hours."""
    wild = RECIPE.model_copy(update={"learning_rate": 1e30, "clip_gradient": 0.0})
    with pytest.raises(
        ValueError, match=r"not finite in epoch 1, step \d+ of 5, at .*: lower train.learning_rate, or set"
    ):
        trained(card, dataset, wild)


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0.2), (1, 0.25), (1, 0.5), (2, 0.1), (4, 0.05)])
def test_few_steps_train_too(card: ModelCard, dataset: Dataset, epochs: int, warmup: float) -> None:
    """torch's one-cycle schedule divides by zero when the warm-up is exactly one step."""
    recipe = RECIPE.model_copy(update={"epochs": epochs, "warmup": warmup, "batch_size": 15})
    assert len(trained(card, dataset, recipe)[0].history) == epochs


def test_cuda_without_a_gpu_is_a_sentence() -> None:
    """No silent fall back to the CPU when the GPU was asked for."""
    if torch.cuda.is_available():
        assert choose_device("cuda").type == "cuda"
        return
    with pytest.raises(ValueError, match=r"train\.device is cuda, but torch finds no usable GPU"):
        choose_device("cuda")


def test_a_limit_keeps_the_classes_proportions(dataset: Dataset) -> None:
    """`train.limit` takes its share of every class, always the same images for the same seed."""
    rows = [training_data(dataset, balance_of(dataset), Train(limit=30)).rows for _ in range(2)]
    assert rows[0].tolist() == rows[1].tolist()
    assert np.bincount(dataset.labels[rows[0]]).tolist() == [10, 10, 10]


@pytest.mark.parametrize("architecture", ["simple_cnn", "modern_cnn", "simple_resnet"])
def test_pruning_really_removes_channels_and_survives_saving(
    tmp_path: Path, card: ModelCard, dataset: Dataset, architecture: str
) -> None:
    """About a quarter of the parameters is left at half the channels, and the file gives the same network back."""
    card = ModelCard(architecture, card.class_names, card.preprocessing, card.mean, card.std)
    recipe = RECIPE.model_copy(update={"epochs": 1})
    fitted, metrics = prune(
        fresh(card), card, dataset, balance_of(dataset), Policy(), recipe, Prune(epochs=1), lambda epoch: None
    )
    assert 0.2 < metrics["parameters_kept"] < 0.35
    assert 0.2 < metrics["macs_kept"] < 0.35
    weights.save(tmp_path / "pruned.safetensors", fitted.network, card)
    loaded, same_card = weights.load(tmp_path / "pruned.safetensors")
    assert same_card == card
    images, _ = dataset.of("val")
    by_loaded, by_fitted = (probabilities(n, card, images, CPU) for n in (loaded, fitted.network))
    assert np.abs(by_loaded - by_fitted).max() < 1e-6  # the memory layout differs, so the last bit may


@pytest.mark.parametrize(("architecture", "options", "frozen"), [
    ("speed_resnet", {"widths": [16, 16, 16]}, r"^0\.weight|norm.*\.weight"),
    ("torchvision_model", {"name": "resnet18", "backbone_rate": 1e-12}, r"network\.(?!fc)"),
])  # fmt: skip
def test_fine_tuning_keeps_the_learning_rates_factors(
    dataset: Dataset, card: ModelCard, architecture: str, options: dict[str, Any], frozen: str
) -> None:
    """What learns at a rate of (next to) nothing is, after pruning and fine-tuning, what the cut left of it."""
    card = replace(card, architecture=architecture, options=options)
    made: list[list[tuple[str, nn.Parameter]]] = []
    for factor in (1e-30, 0.5):
        torch.manual_seed(0)
        config = Prune(epochs=1, learning_rate_factor=factor)
        fitted, _ = prune(fresh(card), card, dataset, balance_of(dataset), Policy(), RECIPE, config, lambda epoch: None)
        norms = {n for n, m in fitted.network.named_modules() if isinstance(m, nn.BatchNorm2d)}
        parameters = fitted.network.named_parameters()
        made.append([(f"norm.{n}" if n.rpartition(".")[0] in norms else n, p) for n, p in parameters])
    before, after = made
    still = [n for (n, a), (_, b) in zip(before, after, strict=True) if torch.allclose(a, b, atol=1e-7)]
    wanted = [n for n, _ in before if re.search(frozen, n)]
    assert wanted and set(wanted) <= set(still) and len(still) < len(before)


def test_a_validation_loss_that_is_not_finite_ends_the_training(card: ModelCard, dataset: Dataset) -> None:
    """With the epoch and what to change, as for a training loss; only the validation images spoil this one."""
    images = dataset.images_NHWC.copy()
    images[dataset.rows("val")] = 255
    images[dataset.rows("train")] = 0
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), Overflowing(), nn.Linear(3 * 16 * 16, 3))
    data = training_data(replace(dataset, images_NHWC=images), balance_of(dataset), RECIPE)
    with pytest.raises(ValueError, match=r"validation loss .* epoch 1: lower train\.learning_rate"):
        fit(network, card, data, RECIPE, Policy(), lambda epoch: None)


class Overflowing(nn.Module):
    """Infinite where an image is bright."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.where(values > 0, torch.inf, values)


def test_places_without_a_number_come_back_as_numbers(tmp_path: Path) -> None:
    """From a CSV file: columns of numbers stay such, and classes that look like none stay text."""
    table = pd.DataFrame({"class": ["NA", "001", ""], "val_loss": [0.5, math.nan, math.inf], "epoch": [1, 2, 3]})
    write_table(tmp_path / "t.csv", table)
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.csv"), table)


def test_checkpoints_of_the_same_weights_are_the_same_bytes(tmp_path: Path, card: ModelCard) -> None:
    """DVC and MLflow know a checkpoint by its hash."""
    torch.manual_seed(0)
    network = fresh(card)
    for name in ("a", "b"):
        weights.save(tmp_path / name, network.to(memory_format=torch.channels_last), card)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
