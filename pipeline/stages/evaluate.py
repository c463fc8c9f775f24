"""`evaluate@MODEL`: the test split, once: the trained network, its other seeds and each exported variant."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from pipeline.artifacts import Dataset, Images, ModelCard
from pipeline.config import Evaluate
from pipeline.evaluation import metrics, plots
from pipeline.evaluation.statistics import mean_interval
from pipeline.inference.predictor import Predictor
from pipeline.networks import weights
from pipeline.networks.deployable import probabilities


@dataclass(frozen=True)
class Evaluation:
    """`metrics` is metrics.json. `predictions`: a row per test image: path, sha256, group, label, the class that the
    trained network (`predicted`) and each variant named, and the network's probability of each class. `seeds`: a row
    per training: seed, best_epoch, val_accuracy, test_accuracy, shipped; of an ensemble none."""

    metrics: dict[str, Any]
    predictions: pd.DataFrame
    per_class: pd.DataFrame
    seeds: pd.DataFrame | None
    pictures: dict[str, Figure]


def evaluate(
    name: str,
    network: nn.Module,
    card: ModelCard,
    trainings: pd.DataFrame | None,
    others: dict[int, Path],
    variants: dict[str, Path],
    dataset: Dataset,
    config: Evaluate,
    device: torch.device,
) -> Evaluation:
    """`variants` are ONNX files by variant name; each is compared with the labels and with the trained network.

    `trainings` is seeds.csv, a row per seed; `network` is the shipped one's, `others` are the checkpoints of the rest.
    None: an ensemble's network, which no training of its own made.
    """
    images, labels = dataset.of("test")
    scores = probabilities(network, card, images, device)
    names = np.array(card.class_names)
    predicted = scores.argmax(axis=1)
    table = dataset.splits.loc[dataset.rows("test"), ["path", "sha256", "group", "class"]].reset_index(drop=True)
    table = table.rename(columns={"class": "label"}).assign(predicted=names[predicted])
    compared = {}
    for variant, path in variants.items():
        by_variant = Predictor(path).probabilities(images)
        classes = by_variant.argmax(axis=1)
        table[variant] = names[classes]
        compared[variant] = {
            "accuracy": metrics.accuracy(by_variant, labels),
            "agreement": float((classes == predicted).mean()),
        }
    table = pd.concat([table, pd.DataFrame(scores, columns=[f"p_{c}" for c in card.class_names])], axis=1)
    numbers = metrics.summary(scores, labels, table["group"].to_numpy(), config.calibration_bins)
    seeds = None if trainings is None else _of_seeds(trainings, numbers["accuracy"], others, images, labels, device)
    title = f"{name}: test accuracy {numbers['accuracy']:.2%}"
    pictures = {
        "confusion": plots.confusion(metrics.confusion(scores, labels), card.class_names, title),
        "reliability": plots.reliability(metrics.calibration(scores, labels, config.calibration_bins), title),
        "mistakes": _mistakes(name, images, labels, scores, card.class_names, config.mistakes),
    }
    return Evaluation(
        {**numbers, "variants": compared, "seeds": {"n": 1} if seeds is None else over_seeds(seeds)},
        table,
        metrics.per_class(scores, labels, card.class_names),
        seeds,
        pictures,
    )


def _of_seeds(
    trainings: pd.DataFrame, shipped: float, others: dict[int, Path], images_NHWC: Images, labels: np.ndarray,
    device: torch.device,
) -> pd.DataFrame:  # fmt: skip
    """The trainings with their test accuracies; that of the shipped one is known."""
    accuracies = []
    for seed, is_shipped in zip(trainings["seed"], trainings["shipped"], strict=True):
        if is_shipped:
            accuracies.append(shipped)
        else:
            scores = probabilities(*weights.load(others[seed]), images_NHWC, device)
            accuracies.append(metrics.accuracy(scores, labels))
    return trainings[["seed", "best_epoch", "val_accuracy", "shipped"]].assign(test_accuracy=accuracies)


def over_seeds(seeds: pd.DataFrame) -> dict[str, float]:
    """Means over the trainings, and their 95 % intervals where there are two or more: what a new training changes."""
    numbers: dict[str, float] = {"n": len(seeds)}
    for measure in ("test_accuracy", "val_accuracy"):
        values = seeds[measure].tolist()
        numbers[f"{measure}_mean"] = float(np.mean(values))
        if len(values) > 1:
            low, high = mean_interval(values)  # of few values it is wide, and may leave what an accuracy can be
            numbers |= {f"{measure}_low": max(0.0, low), f"{measure}_high": min(1.0, high)}
    return numbers


def _mistakes(
    name: str, images_NHWC: Images, labels: np.ndarray, scores: np.ndarray, names: tuple[str, ...], most: int
) -> Figure:
    """The wrong answers that the network was surest of."""
    predicted, confidence = scores.argmax(axis=1), scores.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:most]
    shown = [plots.label(name) for name in names]
    captions = [f"{shown[labels[i]]}\nas {shown[predicted[i]]} {confidence[i]:.0%}" for i in worst]
    title = f"{name}: the surest of {len(wrong):,} mistakes" if len(wrong) else f"{name}: no mistake"
    return plots.image_grid(images_NHWC[worst], captions, 8, title)
