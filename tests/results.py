"""What the stages leave for one model, from a network that knows nothing, but is real."""

import numpy as np
import pandas as pd
import torch

from pipeline import layout
from pipeline.artifacts import Dataset, ModelCard, sha256, write_images, write_json, write_metrics, write_table
from pipeline.config import Export
from pipeline.evaluation import metrics as metrics_of
from pipeline.networks import weights
from pipeline.networks.deployable import probabilities
from pipeline.networks.weights import fresh
from pipeline.stages.export import export

MODEL = "simple_cnn"
CHECKPOINT = layout.checkpoint("train", MODEL)
EPOCHS: list[dict[str, float]] = [
    {"seed": 0, "epoch": e, "learning_rate": 0.1, "train_loss": 1 / e, "train_accuracy": 0.5, "val_loss": 1 / e,
     "val_accuracy": e / 10, "gradient_norm": 1.0, "gradient_norm_max": 2.0}
    for e in (1, 2, 3)
]  # fmt: skip


def leave_results(card: ModelCard, dataset: Dataset, seed: int = 0, steps: int = 0) -> None:
    """In artifacts/ below the current folder, over what an earlier call left there. `steps`: of training."""
    torch.manual_seed(seed)
    network = fresh(card)
    _train(network, card, dataset, steps)
    network.eval()
    weights.save(CHECKPOINT, network, card)
    write_images(layout.IMAGES, card.preprocessing.size, [dataset.images_NHWC])
    write_table(layout.MANIFEST, dataset.splits)
    write_table(layout.SPLITS, dataset.splits)
    write_table(layout.history("train", MODEL), pd.DataFrame(EPOCHS).astype({"seed": int, "epoch": int}))
    measured = {"best_val_accuracy": 0.3, "parameters": 7, "training_images": 72}
    write_metrics("train", MODEL, measured, CHECKPOINT, splits=sha256(layout.SPLITS))
    images, labels = dataset.of("val")
    metrics = export(network, card, images, labels, Export(), layout.onnx("fp32", MODEL))
    write_metrics("export", MODEL, {"fp32": metrics}, CHECKPOINT)
    row = {
        "model": MODEL, "variant": "fp32", "checkpoint": sha256(CHECKPOINT), "accuracy": 0.4, "agreement": 1.0,
        "size_mb": 1.0, "val_accuracy": 0.9, "latency_ms": 0.5,
    }  # fmt: skip
    images, labels = dataset.of("test")
    scores = probabilities(network, card, images, torch.device("cpu"))
    numbers = metrics_of.summary(scores, labels, np.arange(len(labels)), 15)
    write_metrics("evaluate", MODEL, {**numbers, "variants": {}, "seeds": {"n": 1}}, CHECKPOINT)
    write_table(layout.per_class(MODEL), metrics_of.per_class(scores, labels, card.class_names))
    write_json(layout.BENCHMARK, {"variants": [row]})


def _train(network: torch.nn.Module, card: ModelCard, dataset: Dataset, steps: int) -> None:
    """On the whole training split at once."""
    images, labels = dataset.of("train")
    mean, std = (torch.tensor(values)[:, None, None] for values in (card.mean, card.std))
    images_NCHW = (torch.from_numpy(images[: len(images)]).permute(0, 3, 1, 2) / 255 - mean) / std
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images_NCHW), torch.from_numpy(labels).long()).backward()
        optimizer.step()
