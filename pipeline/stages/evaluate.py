"""`evaluate@MODEL`: the test split, once: the trained network, its other seeds and each exported variant."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from pipeline import layout
from pipeline.artifacts import VARIANTS, Dataset, ModelCard, read_dataset, read_table, write_metrics, write_table
from pipeline.config import Evaluate, Params
from pipeline.evaluation import metrics, plots
from pipeline.inference.predictor import Predictor
from pipeline.networks import weights
from pipeline.networks.deployable import probabilities
from pipeline.training.device import choose_device


@dataclass(frozen=True)
class Evaluation:
    """`metrics` is metrics.json; `predictions` has a row per test image, with the class that the trained network
    (`predicted`) and each variant named, and its probability of each class; `seeds` has a row per training."""

    metrics: dict[str, Any]
    predictions: pd.DataFrame
    per_class: pd.DataFrame
    seeds: pd.DataFrame | None
    pictures: dict[str, Figure]


def run(config: Params, name: str) -> list[str]:
    checkpoint = layout.checkpoint(config.weights_stage(name), name)
    network, card = weights.load(checkpoint)
    trainings = read_table(layout.seeds_table(name)) if config.weights_stage(name) == "train" else None
    variants = {variant: layout.onnx(variant, name) for variant in VARIANTS}
    device = choose_device(config.device(name))
    result = evaluate(name, network, card, trainings, variants, read_dataset(), config.evaluate, device)
    write_metrics("evaluate", name, result.metrics, checkpoint)
    write_table(layout.predictions(name), result.predictions)
    write_table(layout.per_class(name), result.per_class)
    numbers, seeds = result.metrics, result.metrics["seeds"]
    if result.seeds is not None:
        write_table(layout.tested_seeds(name), result.seeds)
        history = read_table(layout.history("train", name))
        result.pictures["curves"] = plots.learning_curves(history, result.seeds, name)
    for kind, picture in result.pictures.items():
        plots.save(picture, layout.picture(name, kind))
    low, high = numbers["accuracy_low"], numbers["accuracy_high"]
    facts = [f"test accuracy {numbers['accuracy']:.4f} (95 % interval over images {low:.4f} to {high:.4f})"]
    if seeds["n"] > 1:
        mean, low, high = (seeds[f"test_accuracy_{what}"] for what in ("mean", "low", "high"))
        facts += [f"mean of {seeds['n']} seeds {mean:.4f} (95 % interval over seeds {low:.4f} to {high:.4f})"]
    return facts


def evaluate(
    name: str, network: nn.Module, card: ModelCard, trainings: pd.DataFrame | None, variants: dict[str, Path],
    dataset: Dataset, config: Evaluate, device: torch.device,
) -> Evaluation:  # fmt: skip
    """`network` is compared with the labels, and with its `variants`, ONNX files by variant name.

    `trainings` is seeds.csv, whose other seeds are tested too; None for an ensemble, which no training of its own made.
    """
    images, labels = dataset.of("test")
    scores = probabilities(network, card, images, device)
    names, predicted = np.array(card.class_names), scores.argmax(axis=1)
    table = dataset.splits.loc[dataset.rows("test"), ["path", "sha256", "group", "class"]].reset_index(drop=True)
    table = table.rename(columns={"class": "label"}).assign(predicted=names[predicted])
    numbers: dict[str, Any] = metrics.summary(scores, labels, table["group"].to_numpy(), config.calibration_bins)
    numbers |= {"variants": {}, "seeds": {"n": 1}}
    for variant, path in variants.items():
        by_variant = Predictor(path).probabilities(images)
        table[variant] = names[by_variant.argmax(axis=1)]
        found = {"accuracy": metrics.accuracy(by_variant, labels), "agreement": metrics.agreement(by_variant, scores)}
        numbers["variants"][variant] = found
    table = pd.concat([table, pd.DataFrame(scores, columns=[f"p_{c}" for c in names])], axis=1)
    seeds = None
    if trainings is not None:
        columns = ["seed", "best_epoch", "val_accuracy", "shipped"]
        seeds = trainings[columns].assign(test_accuracy=numbers["accuracy"])
        for seed in seeds["seed"][~seeds["shipped"]]:
            by_seed = probabilities(*weights.load(layout.seed_checkpoint(name, seed)), images, device)
            seeds.loc[seeds["seed"] == seed, "test_accuracy"] = metrics.accuracy(by_seed, labels)
        numbers["seeds"] = over_seeds(seeds)
    title = f"{name}: test accuracy {numbers['accuracy']:.2%}"
    pictures = {
        "confusion": plots.confusion(labels, predicted, card.class_names, title),
        "reliability": plots.reliability(metrics.calibration(scores, labels, config.calibration_bins), title),
        "mistakes": _mistakes(name, dataset, scores, config.mistakes),
    }
    return Evaluation(numbers, table, metrics.per_class(scores, labels, card.class_names), seeds, pictures)


def over_seeds(seeds: pd.DataFrame) -> dict[str, float]:
    """Means over the trainings, and their 95 % intervals (Student 1908) where there are two or more: what a new
    training changes."""
    from scipy.stats import sem, t

    numbers: dict[str, float] = {"n": len(seeds)}
    for measure in ("test_accuracy", "val_accuracy"):
        mean = numbers[f"{measure}_mean"] = float(np.mean(seeds[measure].tolist()))
        if len(seeds) > 1:  # of few values the interval is wide, and may leave what an accuracy can be
            half = float(t.ppf(0.975, len(seeds) - 1) * sem(seeds[measure]))
            numbers |= {f"{measure}_low": max(0.0, mean - half), f"{measure}_high": min(1.0, mean + half)}
    return numbers


def _mistakes(name: str, dataset: Dataset, scores: np.ndarray, most: int) -> Figure:
    """The wrong answers that the network was most confident of."""
    images, labels = dataset.of("test")
    predicted, confidence = scores.argmax(axis=1), scores.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:most]
    shown = [plots.label(class_name) for class_name in dataset.class_names]
    captions = [f"{shown[labels[i]]}\nas {shown[predicted[i]]} {confidence[i]:.0%}" for i in worst]
    title = f"{name}: the most confident of {len(wrong):,} mistakes" if len(wrong) else f"{name}: no mistake"
    return plots.image_grid(images[worst], captions, 8, title)
