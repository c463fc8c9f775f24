"""Training learns, is deterministic, validates without augmentation, and saves what it trained."""

import math
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from pipeline.artifacts import Dataset, ModelCard, read_table, write_table
from pipeline.augmentation.policy import POLICIES, Policy
from pipeline.config import Model, Params, Prune
from pipeline.errors import UserError
from pipeline.networks import weights
from pipeline.networks.weights import fresh
from pipeline.stages.prune import prune
from pipeline.stages.train import run, train
from pipeline.training.device import choose_device
from pipeline.training.loop import fit
from pipeline.training.loss import Loss
from tests.inputs import RECIPE, inputs_of, recipe, write_inputs

MIXTURES = Policy(rotation=10, mixup=0.4, cutmix=1.0)


def test_it_learns_and_the_best_epoch_is_the_result(card: ModelCard, dataset: Dataset) -> None:
    """Three digits are learned in a few epochs; the history and the metrics agree about the best one."""
    told: list[dict[str, float]] = []
    inputs = inputs_of(dataset, policy=POLICIES["digits"])
    done = train(card, inputs, recipe(epochs=6), lambda seed, row, cost: told.append(row))
    history, accuracy = done.fitted.history, done.metrics["best_val_accuracy"]
    assert accuracy > 0.9
    assert told == history.to_dict("records")
    best = history.iloc[done.fitted.best_epoch - 1]
    assert best["val_accuracy"] == history["val_accuracy"].max() == pytest.approx(accuracy)


def test_the_same_seed_gives_the_same_weights(card: ModelCard, dataset: Dataset) -> None:
    """Bit for bit, with everything that draws random numbers; another seed gives others."""
    everything = Policy(horizontal_flip=True, resized_crop=0.5, hue=0.1, erasing=0.5, mixup=0.4, cutmix=1.0)
    inputs = inputs_of(dataset, policy=everything, mode="sampler")
    found = [train(card, inputs, recipe(epochs=1, seed=seed)).seeds["weights"][0] for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("policy", [POLICIES["digits"], MIXTURES])
@pytest.mark.parametrize("mode", ["sampler", "duplicates", "loss_weights", "logit_adjustment"])
def test_it_learns_with_each_way_of_balancing(card: ModelCard, dataset: Dataset, policy: Policy, mode: str) -> None:
    """A class with a quarter of the images is learned too, with mixtures and without; untreated it is not. A mixed
    image counts as its larger part, so that training accuracy means something."""
    splits = dataset.splits.copy()
    rare = [row for row in dataset.rows("train") if dataset.labels[row] == 0]
    splits.loc[rare[len(rare) // 4 :], "split"] = "unused"
    inputs = inputs_of(replace(dataset, splits=splits), policy=policy, mode=mode)
    done = train(card, inputs, recipe(epochs=16))
    assert done.metrics["best_val_accuracy"] > 0.8
    assert done.history["train_accuracy"].iloc[-1] > 0.6
    assert done.metrics["training_images"] == 54


def test_validation_neither_augments_nor_mixes_nor_adjusts(card: ModelCard, dataset: Dataset) -> None:
    """At a learning rate of next to nothing the validation loss is the same whatever is done to training."""
    still = recipe(epochs=1, learning_rate=1e-30, weight_decay=0.0)
    found = set()
    for mode, strength in (("none", 0.0), ("logit_adjustment", 1.0), ("loss_weights", 1.0)):
        policy = Policy(rotation=90 * strength, brightness=strength, erasing=strength, mixup=strength, cutmix=strength)
        torch.manual_seed(0)
        history = fit(fresh(card), card, inputs_of(dataset, still, policy, mode), still).history
        found.add((history["val_loss"][0], history["val_accuracy"][0]))
    assert len(found) == 1


def test_the_loss_is_torchs_cross_entropy_of_labels() -> None:
    """With weights and label smoothing; the adjustment shifts the logits; a mixture's loss lies between its parts'."""
    torch.manual_seed(0)
    logits, labels, class_weights = torch.randn(8, 3), torch.randint(3, (8,)), torch.tensor([0.5, 1.0, 2.0])
    offsets, targets = torch.tensor([-2.0, -1.0, -0.5]), one_hot(labels, 3).float()
    loss, others = Loss(class_weights, offsets, 0.1), targets.roll(1, dims=1)
    wanted = cross_entropy(logits + offsets, labels, class_weights, label_smoothing=0.1)
    assert torch.allclose(loss.total(logits, targets) / loss.weight(targets), wanted)
    mixed = loss.total(logits, 0.3 * targets + 0.7 * others)
    assert torch.allclose(mixed, 0.3 * loss.total(logits, targets) + 0.7 * loss.total(logits, others))


class InfiniteGradients(nn.Module):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if values.requires_grad:
            values.register_hook(lambda gradient: gradient * torch.inf)
        return values


class InfiniteWhereBright(nn.Module):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.where(values > 0, torch.inf, values)


@pytest.mark.parametrize(("spoiled", "said"), [
    (InfiniteGradients(), r"epoch 1, step 1 of 5, .*train\.learning_rate"),
    (InfiniteWhereBright(), r"validation .*epoch 1: .*train\.learning_rate"),
])  # fmt: skip
def test_numbers_that_are_not_finite_end_it(card: ModelCard, dataset: Dataset, spoiled: nn.Module, said: str) -> None:
    """NaN is not trained on for hours, nor saved: the sentence names the step and what to change."""
    images = np.zeros_like(dataset.images_NHWC)
    images[dataset.rows("val")] = 255
    first = [nn.Linear(768, 768)] if isinstance(spoiled, InfiniteGradients) else []
    network = nn.Sequential(nn.Flatten(), *first, spoiled, nn.Linear(768, 3))
    with pytest.raises(ValueError, match=said):
        fit(network, card, inputs_of(replace(dataset, images_NHWC=images)), RECIPE)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_a_sentence() -> None:
    """No silent fall back to the CPU when the GPU was asked for."""
    with pytest.raises(ValueError, match=r"train\.device is cuda"):
        choose_device("cuda")


@pytest.mark.parametrize("architecture", ["simple_cnn", "modern_cnn", "simple_resnet"])
def test_pruning_really_removes_channels(card: ModelCard, dataset: Dataset, architecture: str) -> None:
    """About a quarter of the parameters and of the work is left at half the channels."""
    card = replace(card, architecture=architecture)
    _, metrics = prune(fresh(card), card, inputs_of(dataset), RECIPE, Prune(epochs=1))
    assert 0.2 < metrics["parameters_kept"] < 0.35
    assert 0.2 < metrics["macs_kept"] < 0.35


@pytest.mark.parametrize(("architecture", "options", "frozen"), [
    ("speed_resnet", {"widths": [16, 16, 16]}, r"0\.weight"),
    ("torchvision_model", {"name": "resnet18", "backbone_rate": 1e-12}, r"network\.(?!fc)"),
])  # fmt: skip
def test_fine_tuning_follows_the_learning_rates_factors(
    dataset: Dataset, card: ModelCard, architecture: str, options: dict[str, Any], frozen: str
) -> None:
    """What learns at a rate of (next to) nothing is, after pruning and fine-tuning, what the cut left of it."""
    card = replace(card, architecture=architecture, options=options)
    made = []
    for factor in (1e-30, 0.5):
        torch.manual_seed(0)
        fitted, _ = prune(fresh(card), card, inputs_of(dataset), RECIPE, Prune(epochs=1, learning_rate_factor=factor))
        made.append(dict(fitted.network.named_parameters()))
    still = {name for name, before in made[0].items() if torch.allclose(before, made[1][name], atol=1e-7)}
    wanted = {name for name in made[0] if re.match(frozen, name)}
    assert wanted and wanted <= still and len(still) < len(made[0])


def test_places_without_a_number_come_back_as_numbers(tmp_path: Path) -> None:
    """From a CSV file: columns of numbers stay such, and classes that look like none stay text."""
    table = pd.DataFrame({"class": ["NA", "001", ""], "val_loss": [0.5, math.nan, math.inf], "epoch": [1, 2, 3]})
    write_table(tmp_path / "t.csv", table)
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.csv"), table)


def test_files_of_the_same_weights_are_the_same_bytes(tmp_path: Path, card: ModelCard) -> None:
    """DVC and MLflow know a checkpoint by its hash; the memory's layout does not count."""
    torch.manual_seed(0)
    network = fresh(card)
    weights.save(tmp_path / "a", network, card)
    weights.save(tmp_path / "b", network.to(memory_format=torch.channels_last), card)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(("architecture", "options"), [
    ("configurable_cnn", {"convolutions": [{"filters": 8, "kernel_size": 99, "padding": "valid"}]}),
    ("torchvision_model", {"name": "resnet18", "weights": "none.pth"}),
])  # fmt: skip
@pytest.mark.usefixtures("working_folder")
def test_what_does_not_fit_names_the_model(dataset: Dataset, params: Params, architecture: str, options: Any) -> None:
    write_inputs(dataset)
    config = params.model_copy(update={"models": {"mine": Model(architecture=architecture, options=options)}})
    with pytest.raises(UserError, match=rf"^models\.mine\.options\.{list(options)[-1]}"):
        run(config, "mine", lambda key, is_main: nullcontext())


def test_several_seeds(card: ModelCard, dataset: Dataset) -> None:
    """Each trains by itself; the best on the validation split is the result, and its rows stand first."""
    told: list[tuple[int, float]] = []
    inputs, three = inputs_of(dataset), recipe(seed=4, seeds=3)
    done = train(card, inputs, three, lambda seed, row, cost: told.append((seed, row["epoch"])))
    assert told == [(seed, epoch) for seed in (4, 5, 6) for epoch in (1, 2)]
    assert done.seeds["val_accuracy"].max() == done.metrics["best_val_accuracy"]
    assert done.seeds["shipped"].tolist() == [True, False, False]
    assert done.history["seed"].tolist()[:2] == [done.seed, done.seed]
    alone = train(card, inputs, recipe(seed=5))
    assert alone.seeds["weights"][0] == done.seeds.set_index("seed")["weights"][5]
