"""Each finding fires on a training that was made for it, none on healthy ones; dead units are counted."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from pipeline.artifacts import Dataset, Images, ModelCard
from pipeline.config import Train
from pipeline.diagnosis.examination import examine, watched
from pipeline.diagnosis.rules import findings_of, in_words
from pipeline.networks.deployable import last_dense, probabilities
from pipeline.networks.weights import fresh

RECIPE = Train(epochs=10)
CPU = torch.device("cpu")


def a_history(epochs: int = 10, **columns: list[float]) -> pd.DataFrame:
    """A healthy training under one cycle with strong augmentation: training accuracy lies below validation accuracy,
    and the validation jitters while the learning rate is high."""
    along = np.linspace(0, 1, epochs)
    learned = 1 - np.exp(-4 * along)
    jitter = 0.08 * np.sin(5 * np.pi * along) * (along < 0.6)
    healthy = pd.DataFrame({
        "seed": 0,
        "epoch": range(1, epochs + 1),
        "learning_rate": 0.2 * np.minimum(0.04 + 3.8 * along, (1 + np.cos(np.pi * along)) / 2),
        "train_loss": 2.1 - 1.1 * learned,
        "train_accuracy": 0.25 + 0.50 * learned,
        "val_loss": 1.8 - 1.1 * learned - 2 * jitter,
        "val_accuracy": 0.35 + 0.52 * learned + jitter,
        "gradient_norm": 1.2 + 0.5 * along,
        "gradient_norm_max": 3.0 + 2.0 * along,
    })  # fmt: skip
    return healthy.assign(**columns)


def seen(**fields: Any) -> dict[str, Any]:
    """examined.json of a healthy training."""
    accuracies = {"train_accuracy": 0.89, "train_images": 2000, "val_accuracy": 0.86, "val_images": 5000}
    silent = [{"layer": "2", "units": 64, "silent": 0}, {"layer": "5", "units": 128, "silent": 3}]
    return {"best_epoch": 10, **accuracies, "classes": 10, "silent_units": silent, **fields}


def names(history: pd.DataFrame, examined: dict[str, Any], recipe: Train = RECIPE) -> list[str]:
    return [finding.name for finding in findings_of(history, recipe, examined)]


@pytest.mark.parametrize("epochs", [1, 2, 6, 8, 12, 24, 60])
def test_nothing_is_found_in_a_healthy_run(epochs: int) -> None:
    for images in (30, 500, 5000):
        assert names(a_history(epochs), seen(best_epoch=epochs, val_images=images)) == []
    assert in_words([]) == ["diagnosis: nothing found"]


def test_nothing_is_found_where_everything_is_learned() -> None:
    """Tiny losses double by chance, and a hard image is a spike of the gradient."""
    falling = [3.0 * 0.6**epoch for epoch in range(20)]
    accuracy = [1 - min(0.9, loss) for loss in falling]
    losses = {"train_loss": [*falling[:-1], 4 * falling[-1]], "val_loss": falling}
    norms = {"gradient_norm": [0.1 * loss for loss in falling], "gradient_norm_max": [5 * loss for loss in falling]}
    history = a_history(20, **losses, **norms, train_accuracy=accuracy, val_accuracy=accuracy)
    assert names(history, seen(best_epoch=20, train_accuracy=1.0, val_accuracy=0.99, val_images=180)) == []


DEAD = [{"layer": "5", "units": 128, "silent": 100}]
JUMP = [2.1, 1.7, 1.5, 1.3, 2.6, 2.3, 2.2, 2.1, 2.0, 2.0]
POOR = {"train_accuracy": 0.3, "val_accuracy": 0.3}
RISING = [0.3 + 0.05 * epoch for epoch in range(10)]


@pytest.mark.parametrize(
    ("name", "key", "columns", "fields"),
    [
        ("nothing learned", "train.learning_rate", {}, {"train_accuracy": 0.11, "val_accuracy": 0.1}),
        ("overfitting", "augment.policy", {}, {"train_accuracy": 0.999, "val_accuracy": 0.80}),
        ("underfitting", "train.epochs", {}, POOR),
        ("too short", "train.epochs", {"val_accuracy": RISING}, {}),
        ("dead units", "train.learning_rate", {}, {"silent_units": DEAD}),
        # What follows from another finding is not told beside it: its remedy would lead astray
        ("dead units", "train.warmup", {}, {"silent_units": DEAD, **POOR}),
        ("learning rate too high", "train.warmup", {"train_loss": JUMP}, {}),
        ("learning rate too high", "train.clip_gradient", {"train_loss": JUMP}, POOR),
        ("learning rate too high", "train.learning_rate", {"gradient_norm_max": [3.0] * 9 + [500.0]}, POOR),
    ],
)  # fmt: skip
def test_each_fault_is_named_with_its_remedy(
    name: str, key: str, columns: dict[str, list[float]], fields: dict[str, Any]
) -> None:
    (finding,) = findings_of(a_history().assign(**columns), RECIPE, seen(**fields))
    assert finding.name == name and key in finding.remedy
    assert any(character.isdigit() for character in finding.says)
    assert (finding.severity == "critical") == (name == "nothing learned")


def test_a_gap_of_few_images_is_no_gap() -> None:
    gap = {"train_accuracy": 0.98, "val_accuracy": 0.87}
    assert names(a_history(), seen(**gap, val_images=24)) == []
    assert names(a_history(), seen(**gap)) == ["overfitting"]


def test_a_constant_learning_rate_is_judged_by_its_last_fifth() -> None:
    """Its curve does not flatten by itself, so a slower rise counts too."""
    slow = a_history(20, val_accuracy=[0.5 + 0.015 * epoch for epoch in range(20)])
    assert names(slow, seen(best_epoch=20), Train(epochs=20, schedule="constant")) == ["too short"]
    assert names(slow, seen(best_epoch=20), Train(epochs=20)) == []


def silent_units(network: nn.Module, card: ModelCard, images_NHWC: Images) -> dict[tuple[int, str], int]:
    with watched(network) as active:
        probabilities(network, card, images_NHWC, CPU)
    return {call: int((~units).sum()) for call, units in active.items()}


def test_silent_units_are_counted(card: ModelCard, dataset: Dataset) -> None:
    """Three filters that are told to be negative everywhere are silent; more images can only wake units."""
    torch.manual_seed(0)
    network = fresh(card).eval()
    few, many = (silent_units(network, card, dataset.images_NHWC[:n]) for n in (2, None))
    assert all(many[call] <= few[call] for call in few) and many != few
    with torch.no_grad():
        network.get_parameter("0.bias")[[1, 5, 7]] = -1e6
    after = silent_units(network, card, dataset.images_NHWC)
    assert max(3, many[0, "1"]) <= after[0, "1"] <= many[0, "1"] + 3
    assert not any(module._forward_hooks for module in network.modules())


def test_an_untrained_network_is_examined(card: ModelCard, dataset: Dataset) -> None:
    """The whole way from the network to the words. One ReLU stands for two layers in a residual block: each counts."""
    network = fresh(replace(card, architecture="simple_resnet"))
    nn.init.zeros_(last_dense(network).weight)
    rows = dataset.rows("train")
    found = examine(network, card, dataset.images_NHWC, dataset.labels, rows, 0, CPU)
    found |= {"best_epoch": 1, "val_accuracy": 1 / 3, "val_images": 24}
    assert (found["train_images"], found["train_accuracy"]) == (len(rows), pytest.approx(1 / 3))
    assert [layer["units"] for layer in found["silent_units"]] == [64] * 5 + [128] * 4 + [256] * 4
    assert in_words(findings_of(a_history(1), RECIPE, found))[0].startswith("critical: nothing learned: ")
    assert names(a_history(1), found | {"silent_units": []}) == ["nothing learned"], "a network without a ReLU"
