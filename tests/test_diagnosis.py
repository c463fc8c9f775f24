"""Each finding fires on a training that was made for it, none on healthy ones; units that are dead are counted."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from pipeline.artifacts import Dataset, Images, ModelCard
from pipeline.config import Train
from pipeline.diagnosis.activity import watched
from pipeline.diagnosis.examination import examine
from pipeline.diagnosis.rules import Finding, Kept, diagnose, findings_of, in_words
from pipeline.networks.deployable import probabilities
from pipeline.networks.weights import fresh

RECIPE = Train(epochs=10)
NO_SILENCE = pd.DataFrame({"layer": ["2", "5"], "units": [64, 128], "silent": [0, 3]})
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


def kept(**fields: float) -> Kept:
    healthy = Kept(10, train_accuracy=0.89, val_accuracy=0.86, val_images=5000, classes=10, train_images=2000)
    return replace(healthy, **fields)  # type: ignore[arg-type]  # some are whole numbers


def silent_units(network: nn.Module, card: ModelCard, images_NHWC: Images, device: torch.device) -> pd.DataFrame:
    with watched(network) as watch:
        probabilities(network, card, images_NHWC, device)
    return watch.table()


def names(found: list[Finding]) -> list[str]:
    return [finding.name for finding in found]


@pytest.mark.parametrize("epochs", [1, 2, 6, 8, 12, 24, 60])
def test_nothing_is_found_in_a_healthy_run(epochs: int) -> None:
    """Also with few validation images, with and without clipping, and where the last epoch is the best."""
    for images in (30, 500, 5000):
        for clip in (0.0, 1.0):
            recipe = RECIPE.model_copy(update={"epochs": epochs, "clip_gradient": clip})
            healthy = kept(best_epoch=epochs, val_images=images)
            assert diagnose(a_history(epochs), recipe, healthy, NO_SILENCE) == []
    assert in_words([]) == ["diagnosis: nothing found"]


def test_nothing_is_found_where_everything_is_learned() -> None:
    """The loss and its gradient vanish because nothing is left to learn, and tiny losses double by chance."""
    epochs = 20
    falling = [3.0 * 0.6**epoch for epoch in range(epochs)]
    history = a_history(
        epochs,
        train_loss=falling,
        val_loss=[*falling[:-2], falling[-1], 4 * falling[-1]],
        train_accuracy=[1 - min(0.9, loss) for loss in falling],
        val_accuracy=[1 - min(0.9, loss) for loss in falling],
        gradient_norm=[1e-1 * loss for loss in falling],
        gradient_norm_max=[5 * loss for loss in falling],
    )
    learned = kept(best_epoch=20, train_accuracy=1.0, val_accuracy=0.99, val_images=180)
    assert diagnose(history, RECIPE, learned, NO_SILENCE) == []


def test_a_fit_without_gradients_is_judged_by_its_accuracies() -> None:
    """One row, and no norm: what there is counts."""
    history = a_history(1, gradient_norm=[math.nan], gradient_norm_max=[math.nan], learning_rate=[math.nan])
    assert diagnose(history, RECIPE, kept(best_epoch=1), NO_SILENCE) == []
    by_heart = kept(best_epoch=1, train_accuracy=1.0, val_accuracy=0.6)
    assert names(diagnose(history, RECIPE, by_heart, NO_SILENCE)) == ["overfitting"]


HEALTHY = a_history()
DEAD = pd.DataFrame({"layer": ["2", "5"], "units": [64, 128], "silent": [0, 100]})
# By the finding: the history, the accuracies and the silent units of a training with this one illness
ILL = {
    "overfitting": (
        a_history(train_accuracy=[0.3 + 0.07 * e for e in range(10)]),
        kept(train_accuracy=0.999, val_accuracy=0.80), NO_SILENCE,
    ),
    "underfitting": (a_history(train_accuracy=[0.5] * 10), kept(train_accuracy=0.55, val_accuracy=0.54), NO_SILENCE),
    "nothing learned": (a_history(train_accuracy=[0.1] * 10), kept(train_accuracy=0.11, val_accuracy=0.1), NO_SILENCE),
    "lagging statistics": (HEALTHY, kept(train_accuracy=0.11, val_accuracy=0.10), NO_SILENCE),
    "rising validation loss": (
        a_history(val_loss=[1.5, 1.0, 0.8, 0.7, 0.68, 0.7, 0.75, 0.8, 0.87, 0.95]), kept(), NO_SILENCE
    ),
    "still improving": (a_history(val_accuracy=[0.3 + 0.05 * e for e in range(10)]), kept(), NO_SILENCE),
    "dead units": (HEALTHY, kept(), DEAD),
    "exploding gradients": (a_history(gradient_norm_max=[3.0] * 8 + [500.0, 4.0]), kept(), NO_SILENCE),
    "vanishing gradients": (
        a_history(gradient_norm=[1e-6] * 10, train_accuracy=[0.6] * 10),
        kept(train_accuracy=0.6, val_accuracy=0.58), NO_SILENCE,
    ),
    "clipped steps": (a_history(gradient_norm=[30.0] * 10), kept(), NO_SILENCE),
    "learning rate too high": (
        a_history(train_loss=[2.1, 1.7, 1.5, 1.3, 2.6, 2.3, 2.2, 2.1, 2.0, 2.0], train_accuracy=[0.3] * 10),
        kept(train_accuracy=0.3, val_accuracy=0.3), NO_SILENCE,
    ),
    "unstable validation": (
        a_history(val_accuracy=[0.35, 0.5, 0.6, 0.7, 0.75, 0.8, 0.82, 0.84, 0.55, 0.86]), kept(), NO_SILENCE
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("overfitting", "augment.policy"),
        ("underfitting", "train.epochs"),
        ("nothing learned", "train.learning_rate"),
        ("lagging statistics", "train.learning_rate"),
        ("rising validation loss", "train.label_smoothing"),
        ("still improving", "train.epochs"),
        ("dead units", "train.learning_rate"),
        ("exploding gradients", "train.clip_gradient"),
        ("vanishing gradients", "models.NAME.architecture"),
        ("clipped steps", "train.clip_gradient"),
        ("learning rate too high", "train.warmup"),
        ("unstable validation", "train.ema"),
    ],
)
def test_each_illness_is_named_with_its_remedy(name: str, key: str) -> None:
    """It and no other, not even what follows from it; the sentence has numbers, the remedy a key."""
    history, accuracies, silent = ILL[name]
    found = diagnose(history, RECIPE, accuracies, silent)
    assert names(found) == [name]
    (finding,) = found
    assert any(character.isdigit() for character in finding.says)
    assert key in finding.remedy
    assert finding.severity == ("critical" if name == "nothing learned" else finding.severity)


def test_the_numbers_in_a_sentence_are_those_of_the_run() -> None:
    """A gap in points, and how it grew; the limit is named where there is one."""
    history, by_heart, silent = ILL["overfitting"]
    (finding,) = diagnose(history, RECIPE.model_copy(update={"limit": 5000}), by_heart, silent)
    assert "99.9% of the training images and at 80.0% of the validation images, 19.9 points less" in finding.says
    assert "the gap grew by" in finding.says
    assert "train.limit (it is 5000)" in finding.remedy


def test_a_gap_of_few_images_is_no_gap() -> None:
    """24 validation images say nothing about 11 points, 5,000 do."""
    gap = {"train_accuracy": 0.98, "val_accuracy": 0.87}
    assert diagnose(a_history(), RECIPE, kept(**gap, val_images=24), NO_SILENCE) == []
    assert names(diagnose(a_history(), RECIPE, kept(**gap), NO_SILENCE)) == ["overfitting"]


def test_a_loss_that_rose_after_the_kept_epoch_harms_less() -> None:
    """The kept network is from before: a note. Kept from after it, it is a warning."""
    history, _, silent = ILL["rising validation loss"]
    (note,) = diagnose(history, RECIPE, kept(best_epoch=4), silent)
    (warning,) = diagnose(history, RECIPE, kept(best_epoch=9), silent)
    assert (note.severity, warning.severity) == ("note", "warning")
    assert "lowest in epoch 5 (0.680) and ended at 0.950, while accuracy held" in note.says


def test_a_constant_learning_rate_is_judged_by_its_last_fifth() -> None:
    """Its curve does not flatten by itself, so a slower rise counts too."""
    slow = a_history(20, val_accuracy=[0.5 + 0.015 * e for e in range(20)])
    last = kept(best_epoch=20)
    constant = RECIPE.model_copy(update={"epochs": 20, "schedule": "constant"})
    assert names(diagnose(slow, constant, last, NO_SILENCE)) == ["still improving"]
    assert diagnose(slow, RECIPE.model_copy(update={"epochs": 20}), last, NO_SILENCE) == []
    cut_short = constant.model_copy(update={"epochs": 50, "time_limit": 5.0})
    (finding,) = diagnose(slow, cut_short, last, NO_SILENCE)
    assert "raise train.time_limit (it is 5 minutes)" in finding.remedy


def test_silent_units_are_counted(card: ModelCard, dataset: Dataset) -> None:
    """Three filters that are told to be negative everywhere are silent; the rest are as before."""
    torch.manual_seed(0)
    network = fresh(card).eval()
    images, _ = dataset.of("train")
    before = silent_units(network, card, images, CPU)
    assert before["units"].tolist() == [32, 64, 128, 256]
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    with torch.no_grad():
        first.bias[[1, 5, 7]] = -1e6  # type: ignore[index]  # it has one
    after = silent_units(network, card, images, CPU)
    already = before["silent"].iloc[0]
    assert already <= after["silent"].iloc[0] - 1 <= already + 3
    assert after["silent"].iloc[0] >= 3
    assert not any(module._forward_hooks for module in network.modules())


def test_silent_units_of_a_module_that_is_called_twice(card: ModelCard, dataset: Dataset) -> None:
    """The blocks of the residual network use one ReLU for two layers: each has its row, over all batches."""
    residual = replace(card, architecture="simple_resnet")
    images, _ = dataset.of("val")
    table = silent_units(fresh(residual), residual, images, CPU)
    assert table["units"].tolist() == [64] * 5 + [128] * 4 + [256] * 4
    assert table["layer"].tolist()[:3] == ["2", "3.relu (call 1)", "3.relu (call 2)"]


def test_a_unit_is_silent_only_if_no_batch_wakes_it(card: ModelCard, dataset: Dataset) -> None:
    """Looking at more images can only wake units."""
    network = fresh(card)
    images = dataset.images_NHWC
    few, many = (silent_units(network, card, images[:n], CPU)["silent"] for n in (2, len(images)))
    assert (many <= few).all()
    assert many.sum() < few.sum()


def test_an_untrained_network_is_examined(card: ModelCard, dataset: Dataset) -> None:
    """The whole way from the network to the words: it gives every image the same class, and they say so."""
    network = fresh(card)
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    nn.init.zeros_(last.weight)
    rows = dataset.rows("train")
    found = examine(network, card, 1, 1 / 3, dataset, rows, RECIPE.seed, CPU)
    assert found["kept"]["train_images"] == len(rows)
    assert found["kept"]["train_accuracy"] == pytest.approx(1 / 3)
    assert [layer["units"] for layer in found["silent_units"]] == [32, 64, 128, 256]
    curves = a_history(1).assign(seed=0)
    told = in_words(findings_of(curves, RECIPE, found))
    assert told[0].startswith("critical: nothing learned: The network is right at")
    assert in_words(findings_of(curves, RECIPE, found | {"silent_units": []})) == told, "a network without a ReLU"


def test_statistics_of_few_images_are_no_evidence_of_lag() -> None:
    """Right in training, less often so at twenty images afterwards."""
    few = kept(train_accuracy=0.8, val_accuracy=0.8, train_images=20)
    assert "lagging statistics" not in names(diagnose(a_history(train_accuracy=[0.95] * 10), RECIPE, few, NO_SILENCE))
