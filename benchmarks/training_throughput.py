"""Training, images a second: our training step, the script that everyone starts from, and the bare step, in turns.

    python benchmarks/training_throughput.py FOLDER [SECONDS [ROUNDS]]      FOLDER/CLASS/*.jpg, or FOLDER/train/...

The usual script: ImageFolder, Pillow transforms (flip, rotation 10 degrees, colour jitter 0.2), a DataLoader with 2
workers, float32, Adam, batch 32. Ours: the same network and the same augmentations, as `fit` trains it (one-cycle SGD,
clipping, batch 128, precision by the probe). The bare step: forward, backward and update on one batch that lies ready,
with the same precision, memory format and batch size as ours. On a GPU all three run there.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from statistics import median

import numpy as np
import torch
from _usual import MEAN, MODELS, STD, usual_transforms
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from pipeline.artifacts import ModelCard, read_images
from pipeline.augmentation.policy import Policy
from pipeline.config import Ingest, Train
from pipeline.networks.architectures import build
from pipeline.preprocessing import Preprocessing
from pipeline.stages.ingest import ingest
from pipeline.training.data_loading import data_loader
from pipeline.training.device import Placement, place
from pipeline.training.inputs import TrainingInputs
from pipeline.training.step import TrainingStep

SAME = Policy(horizontal_flip=True, rotation=10, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.0)
RECIPE = Train(batch_size=128, learning_rate=0.05)


def usual(model: str, folder: Path, device: torch.device) -> Generator[int, None, None]:
    """Yields the number of images after each step."""
    images_of = ImageFolder(str(folder), usual_transforms())
    loader = DataLoader(images_of, batch_size=32, shuffle=True, num_workers=2, drop_last=True)
    network = build(model, classes=len(images_of.classes), size=32).to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=1e-4)
    while True:
        for images, labels in loader:
            optimizer.zero_grad()
            loss = cross_entropy(network(images.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            loss.item()  # the running loss that it prints
            yield len(images)


def ours(model: str, images_NHWC: np.ndarray, labels: np.ndarray, placement: Placement) -> Generator[int, None, None]:
    """The training step and its loader, as the loop drives them."""
    classes = int(labels.max()) + 1
    card = ModelCard(model, tuple(map(str, range(classes))), Preprocessing(32, "crop", (255, 255, 255)), MEAN, STD)
    rows = np.arange(len(labels))
    inputs = TrainingInputs(
        images_NHWC, labels, card.class_names, rows, rows[:0], None, np.ones(classes), np.zeros(classes), SAME
    )
    step = TrainingStep(build(model, classes=classes, size=32), card, inputs, RECIPE, placement)
    loader = data_loader(images_NHWC, labels, rows, "auto", placement.device)
    step.train()
    full = len(rows) - len(rows) % RECIPE.batch_size
    number = 0
    with step.workers.at_work():
        while True:
            order = np.random.default_rng(number).permutation(rows)[:full]
            for images, wanted in loader.batches(np.split(order, full // RECIPE.batch_size)):
                step.update(images, wanted, RECIPE.learning_rate, number, len(images))
                number += 1
                if placement.device.type == "cpu":
                    step.read_tally()
                yield len(images)


def bare(model: str, classes: int, placement: Placement) -> Generator[int, None, None]:
    device = placement.device
    network: nn.Module = build(model, classes=classes, size=32).to(device).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
    )
    images = torch.randn(RECIPE.batch_size, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(classes, (RECIPE.batch_size,), device=device)
    while True:
        with placement.autocast():
            logits = network(images).float()
        cross_entropy(logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield RECIPE.batch_size


def rate(steps: Generator[int, None, None], seconds: float, device: torch.device) -> float:
    """Images a second; the first steps, in which workers and kernels start, are not counted."""
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for _ in range(3):
        next(steps)
    wait()
    start, images = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        images += next(steps)
    wait()
    taken = time.perf_counter() - start
    steps.close()  # the next one's threads should be its own
    return images / taken


def main() -> None:
    folder = Path(sys.argv[1])
    folder = folder / "train" if (folder / "train").is_dir() else folder
    seconds, rounds = float([*sys.argv, "6"][2]), int([*sys.argv, "", "3"][3])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{os.cpu_count()} cores"
    print(f"{where}, torch {torch.__version__}, {torch.get_num_threads()} threads, medians of {rounds} rounds")
    columns = ("usual", "ours", "bare step", "ours/usual", "ours/bare")
    print(f"{'images a second':16}" + "".join(f"{name:>11}" for name in columns) + "  precision")
    with tempfile.TemporaryDirectory() as scratch:
        found = ingest(Ingest(source="image_folder", root=str(folder)), Path(scratch) / "images.npy")
        labels = found.manifest["class"].astype("category").cat.codes.to_numpy(dtype=np.int64)
        images_NHWC = read_images(Path(scratch) / "images.npy")
        for model in MODELS:
            classes = int(labels.max()) + 1
            placement = place(RECIPE, build(model, classes=classes, size=32), 32, classes)
            measured: dict[str, list[float]] = {"usual": [], "ours": [], "bare": []}
            for _ in range(rounds):
                measured["usual"].append(rate(usual(model, folder, device), seconds, device))
                measured["ours"].append(rate(ours(model, images_NHWC, labels, placement), seconds, device))
                measured["bare"].append(rate(bare(model, classes, placement), seconds, device))
            slow, fast, best = (median(measured[name]) for name in ("usual", "ours", "bare"))
            print(
                f"{model:16}{slow:11,.0f}{fast:11,.0f}{best:11,.0f}{fast / slow:10.1f}x{fast / best:11.1%}  "
                f"{placement.reason}",
                flush=True,
            )


if __name__ == "__main__":
    main()
