"""The engine learns, is deterministic, draws per sample, and saves what it trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.artifacts import Dataset, ModelCard
from pipeline.config import Prune, Train
from pipeline.stages.prune import prune
from pipeline.stages.train import train, training_data
from pipeline.training import checkpoint
from pipeline.training.augmentation import POLICIES, Augmenter, Policy
from pipeline.training.checkpoint import fresh
from pipeline.training.deployable import probabilities
from pipeline.training.device import choose_device
from pipeline.training.loop import Epoch, Fitted

CPU = torch.device("cpu")
RECIPE = Train(epochs=6, batch_size=16, learning_rate=0.05, device="cpu", precision="float32", threads=1)


def index_of(dataset: Dataset) -> pd.DataFrame:
    rows = dataset.rows("train")
    return pd.DataFrame({"row": rows, "class": dataset.splits["class"].to_numpy()[rows], "weight": 1.0})


def trained(card: ModelCard, dataset: Dataset, recipe: Train = RECIPE) -> tuple[Fitted, dict[str, float]]:
    return train(card, dataset, index_of(dataset), [1.0] * 3, POLICIES["digits"], recipe, lambda epoch: None)


def test_it_learns_and_keeps_the_best_epoch(card: ModelCard, dataset: Dataset) -> None:
    """Three digits are learned in a few epochs; the history and the metrics agree about the best one."""
    epochs: list[Epoch] = []
    fitted, metrics = train(card, dataset, index_of(dataset), [1.0] * 3, POLICIES["digits"], RECIPE, epochs.append)
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
    with pytest.raises(ValueError, match=r"the loss is (nan|inf) in epoch \d .* lower train.learning_rate"):
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
    rows = [training_data(dataset, index_of(dataset), [1.0] * 3, Train(limit=30)).rows for _ in range(2)]
    assert rows[0].tolist() == rows[1].tolist()
    assert np.bincount(dataset.labels[rows[0]]).tolist() == [10, 10, 10]


def test_each_sample_of_a_batch_has_its_own_draw() -> None:
    """Copies of one image come out all different, for every knob by itself."""
    image = torch.randint(0, 256, (1, 16, 16, 3), dtype=torch.uint8).repeat(8, 1, 1, 1)
    knobs = {"rotation": 20, "translation": 0.2, "scale": 0.2, "brightness": 0.4, "contrast": 0.4, "cutout": 0.3}
    for knob, strength in knobs.items():
        made = Augmenter(Policy(**{knob: strength}), (0.5,) * 3, (0.25,) * 3, CPU, 0)(image)  # type: ignore[arg-type]  # knobs of floats
        assert len({sample.numpy().tobytes() for sample in made}) == 8, knob
    flipped = Augmenter(Policy(horizontal_flip=True), (0.5,) * 3, (0.25,) * 3, CPU, 0)(image)
    assert len({sample.numpy().tobytes() for sample in flipped}) == 2


def test_augmentation_does_what_its_knobs_say() -> None:
    """No knob: plain normalization. Flip: the mirror image. Brightness and contrast: as torchvision defines them."""
    images = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    plain = images.permute(0, 3, 1, 2) / 255
    identity = Augmenter(Policy(), (0.0,) * 3, (1.0,) * 3, CPU, 0)
    assert torch.allclose(identity(images), plain, atol=1e-6)
    normalized = Augmenter(Policy(), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), CPU, 0)(images)
    wanted = (plain - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    assert torch.allclose(normalized, wanted, atol=1e-5)
    flips = Augmenter(Policy(horizontal_flip=True), (0.0,) * 3, (1.0,) * 3, CPU, 0)(images)
    for sample, original in zip(flips, plain, strict=True):
        mirrored = torch.allclose(sample, original.flip(-1), atol=1e-4)
        assert mirrored or torch.allclose(sample, original, atol=1e-4)


def test_contrast_and_saturation_match_torchvision() -> None:
    """The folded matrix is the same colour change as torchvision's operations one after the other."""
    from torchvision.transforms.v2 import functional

    class Fixed(Augmenter):
        factors = iter((1.2, 0.7, 1.5))

        def _uniform(self, count: int, spread: float, centre: float = 0.0) -> torch.Tensor:
            return torch.full((count,), next(self.factors))

    images = torch.randint(64, 128, (2, 8, 8, 3), dtype=torch.uint8)
    made = Fixed(Policy(brightness=0.5, contrast=0.5, saturation=0.5), (0.0,) * 3, (1.0,) * 3, CPU, 0)(images)
    wanted = images.permute(0, 3, 1, 2) / 255
    wanted = functional.adjust_brightness(wanted, 1.2)
    wanted = functional.adjust_saturation(wanted, 1.5)
    wanted = functional.adjust_contrast(wanted, 0.7)
    assert torch.allclose(made, wanted, atol=2e-3)


@pytest.mark.parametrize("architecture", ["simple_cnn", "modern_cnn", "simple_resnet"])
def test_pruning_really_removes_channels_and_survives_saving(
    tmp_path: Path, card: ModelCard, dataset: Dataset, architecture: str
) -> None:
    """About a quarter of the parameters is left at half the channels, and the file gives the same network back."""
    card = ModelCard(architecture, card.class_names, card.preprocessing, card.mean, card.std)
    recipe = RECIPE.model_copy(update={"epochs": 1})
    fitted, metrics = prune(
        fresh(card), card, dataset, index_of(dataset), [1.0] * 3, Policy(), recipe, Prune(epochs=1), lambda epoch: None
    )
    assert 0.2 < metrics["parameters_kept"] < 0.35
    assert 0.2 < metrics["macs_kept"] < 0.35
    checkpoint.save(tmp_path / "pruned.safetensors", fitted.network, card)
    loaded, same_card = checkpoint.load(tmp_path / "pruned.safetensors")
    assert same_card == card
    images, _ = dataset.of("val")
    by_loaded, by_fitted = (probabilities(n, card, images, CPU) for n in (loaded, fitted.network))
    assert np.abs(by_loaded - by_fitted).max() < 1e-6  # the memory layout differs, so the last bit may


def test_checkpoints_of_the_same_weights_are_the_same_bytes(tmp_path: Path, card: ModelCard) -> None:
    """DVC and MLflow know a checkpoint by its hash."""
    torch.manual_seed(0)
    network = fresh(card)
    for name in ("a", "b"):
        checkpoint.save(tmp_path / name, network.to(memory_format=torch.channels_last), card)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
