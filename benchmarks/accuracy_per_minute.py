"""Accuracy over wall-clock time: our engine with its recipe, and the usual script with the reference recipe, in turns.

    python benchmarks/accuracy_per_minute.py FOLDER [MINUTES [OUT.png]]      FOLDER/{train,test}/CLASS/*.jpg

Both get the same minutes for each model, validation included, the same training and validation images (a tenth of
`train`), and the same networks. The reference recipe: Adam 0.001, weight decay 1e-4, StepLR 7/0.1, batch 32, best
validation kept, in a script of ImageFolder, Pillow transforms (flip, rotation 10 degrees, colour jitter 0.2) and a
DataLoader with 2 workers, float32. It validates ten times on the way, as its epochs may be longer than the minutes.
Each training is scored once on the test images, at its best validation.
"""

import copy
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _usual import MEAN, MODELS, STD, usual_transforms
from matplotlib.figure import Figure
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder

from pipeline.artifacts import ModelCard, read_images
from pipeline.augmentation.policy import Policy
from pipeline.config import Ingest, Train
from pipeline.evaluation.metrics import accuracy
from pipeline.evaluation.plots import PALETTE, save
from pipeline.networks.architectures import build
from pipeline.networks.deployable import probabilities
from pipeline.preprocessing import Preprocessing
from pipeline.stages.ingest import ingest
from pipeline.training.inputs import TrainingInputs
from pipeline.training.loop import fit

LOOKS = 10
RATES = {"simple_cnn": 0.05, "modern_cnn": 0.1, "simple_resnet": 0.1}
# Short trainings want little augmentation; the number of epochs does not matter, the time ends them
OURS = Train(epochs=1000, batch_size=128, learning_rate=0.2, clip_gradient=0.0)
LIGHT = Policy(horizontal_flip=True, translation=0.125)


class Data:
    """CIFAR-like images, decoded once; what each training may see of them."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        found = ingest(Ingest(source="image_folder", root=str(folder)), scratch / "images.npy").manifest
        self.images_NHWC = read_images(scratch / "images.npy")
        self.names = tuple(sorted(found["class"].unique()))
        self.labels = found["class"].map({name: i for i, name in enumerate(self.names)}).to_numpy(dtype=np.int64)
        self.files = [str(folder / path) for path in found["path"]]
        train = np.flatnonzero(found["source_split"] == "train")
        shuffled = np.random.default_rng(0).permutation(train)
        self.val, self.train = np.sort(shuffled[: len(train) // 10]), np.sort(shuffled[len(train) // 10 :])
        self.test = np.flatnonzero(found["source_split"] == "test")

    def card(self, model: str) -> ModelCard:
        return ModelCard(model, self.names, Preprocessing(32, "crop", (255, 255, 255)), MEAN, STD)

    def score(self, network: nn.Module, model: str, rows: np.ndarray) -> float:
        device = next(network.parameters()).device
        scores = probabilities(network, self.card(model), self.images_NHWC[rows], device)
        return accuracy(scores, self.labels[rows])


def ours(model: str, data: Data, minutes: float) -> tuple[pd.DataFrame, float]:
    """Validation accuracy by minutes, and test accuracy at its best."""
    torch.manual_seed(0)
    start, found = time.perf_counter(), []

    def told(row: dict[str, float], cost: dict[str, float]) -> None:
        found.append({"minutes": (time.perf_counter() - start) / 60, "val_accuracy": row["val_accuracy"]})

    classes = len(data.names)
    even = np.ones(classes), np.zeros(classes)
    inputs = TrainingInputs(data.images_NHWC, data.labels, data.names, data.train, data.val, None, *even, LIGHT)
    recipe = OURS.model_copy(update={"learning_rate": RATES[model], "time_limit": minutes})
    fitted = fit(build(model, classes=classes, size=32), data.card(model), inputs, recipe, told)
    return pd.DataFrame(found), data.score(fitted.network.to(fitted.placement.device), model, data.test)


def reference(model: str, data: Data, minutes: float) -> tuple[pd.DataFrame, float]:
    """The same by the usual script."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = ImageFolder(str(Path(data.files[data.train[0]]).parents[1]), usual_transforms())
    place = {path: i for i, (path, _) in enumerate(folder.samples)}
    chosen = Subset(folder, [place[data.files[row]] for row in data.train])
    loader = DataLoader(chosen, batch_size=32, shuffle=True, num_workers=2)
    network = build(model, classes=len(data.names), size=32).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 7, 0.1)
    start, found = time.perf_counter(), []
    best, best_state = -1.0, copy.deepcopy(network.state_dict())
    next_look = minutes / LOOKS
    while True:
        for images, labels in loader:
            network.train()
            optimizer.zero_grad()
            cross_entropy(network(images.to(device)), labels.to(device)).backward()
            optimizer.step()
            now = (time.perf_counter() - start) / 60
            if now < min(next_look, minutes):
                continue
            val_accuracy = data.score(network.eval(), model, data.val)
            found.append({"minutes": (time.perf_counter() - start) / 60, "val_accuracy": val_accuracy})
            next_look += minutes / LOOKS
            if val_accuracy > best:
                best, best_state = val_accuracy, copy.deepcopy(network.state_dict())
            if now >= minutes:
                network.load_state_dict(best_state)
                return pd.DataFrame(found), data.score(network, model, data.test)
        schedule.step()


def main() -> None:
    folder, minutes = Path(sys.argv[1]), float([*sys.argv, "4"][2])
    out = Path([*sys.argv, "", "accuracy-per-minute.png"][3])
    figure = Figure(figsize=(12, 4), layout="constrained")
    print(f"{minutes:g} minutes each, {torch.get_num_threads()} threads, test accuracy at the best validation")
    print(f"{'model':16}{'reference':>12}{'ours':>12}")
    with tempfile.TemporaryDirectory() as scratch:
        data = Data(folder, Path(scratch))
        for axes, model in zip(figure.subplots(1, len(MODELS), sharey=True), MODELS, strict=True):
            slow, slow_test = reference(model, data, minutes)
            fast, fast_test = ours(model, data, minutes)
            print(f"{model:16}{slow_test:12.2%}{fast_test:12.2%}", flush=True)
            for found, name, colour in ((slow, "usual script", PALETTE[5]), (fast, "ours", PALETTE[1])):
                axes.plot(found["minutes"], 100 * found["val_accuracy"], marker=".", color=colour, label=name)
            axes.set(title=model, xlabel="minutes", xlim=(0, None))
            axes.grid(alpha=0.3)
            axes.legend()
            axes.set_ylabel("validation accuracy, %")
    save(figure, out)
    print(f"picture: {out}")


if __name__ == "__main__":
    main()
