"""A step keeps its promises: any optimizer, any cutting of a batch, any way of loading, any number of processes."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline import layout
from pipeline.artifacts import Dataset, ModelCard, read_table
from pipeline.augmentation.policy import POLICIES, Policy
from pipeline.config import RECIPES, Train
from pipeline.networks import weights
from pipeline.training.data_loading import Resident, Streamed, batches_of, data_loader, free_bytes, memory_lock
from pipeline.training.loop import Fitted, fit
from pipeline.training.optimizer import make_optimizer
from tests.inputs import RECIPE, inputs_of, recipe
from tests.workspace import environment, workspace

CPU = torch.device("cpu")


def plain(room: int = 1000) -> nn.Module:
    """A network without batch norm and dropout: what a batch does to it does not depend on how it is cut. It says, as
    CUDA does, that the memory is full, for more images at once than `room`."""

    def check(network: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if len(inputs[0]) > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB.")

    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 7 * 7, 3))
    network.register_forward_pre_hook(check)
    return network


def fitted(
    card: ModelCard, dataset: Dataset, how: Train, policy: Policy = POLICIES["digits"], room: int = 1000
) -> Fitted:
    return fit(plain(room), card, inputs_of(dataset, how, policy, "loss_weights"), how)


def furthest(a: nn.Module, b: nn.Module) -> float:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return max(float((x.float() - y.float()).abs().max()) for x, y in pairs)


@pytest.mark.parametrize(("optimizer", "rate", "schedule"), [
    ("sgd", 0.05, "plateau"), ("adam", 0.003, "step"), ("adamw", 0.003, "cosine"), ("adamw", 0.003, "constant"),
])  # fmt: skip
def test_every_optimizer_learns(card: ModelCard, dataset: Dataset, optimizer: str, rate: float, schedule: str) -> None:
    """Three digits, with every schedule: one_cycle is that of the other tests."""
    how = recipe(optimizer=optimizer, learning_rate=rate, schedule=schedule, epochs=6, warmup=0.2)
    assert fitted(card, dataset, how, POLICIES["none"]).history["val_accuracy"].max() > 0.8


def test_the_reference_recipe_is_the_plain_one() -> None:
    """Adam 0.001 with weight decay on everything, which is what torch's own loop would do."""
    optimizer = make_optimizer(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), Train(**RECIPES["reference"]), {})
    assert isinstance(optimizer, torch.optim.Adam) and not isinstance(optimizer, torch.optim.AdamW)
    assert [(g["lr"], g["weight_decay"], len(g["params"])) for g in optimizer.param_groups] == [(0.001, 1e-4, 4)]


def test_norms_and_biases_do_not_decay_and_rates_differ() -> None:
    """Groups by rate and decay; a rate of 0 freezes, and nothing but frozen parameters is refused."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    rates = {"0.weight": 0.0, "0.bias": 0.0, "1.weight": 0.1, "1.bias": 0.1}
    groups = make_optimizer(network, Train(weight_decay=0.1), rates).param_groups
    assert {(g["rate"], g["weight_decay"], len(g["params"])) for g in groups} == {
        (0.1, 0.0, 2), (1.0, 0.1, 1), (1.0, 0.0, 1),
    }  # fmt: skip
    assert not network[0].weight.requires_grad
    with pytest.raises(ValueError, match="frozen"):
        make_optimizer(nn.Linear(2, 2), Train(), {"weight": 0.0, "bias": 0.0})


@pytest.mark.parametrize("micro", [1, 3, 8])
def test_parts_of_a_batch_give_the_batchs_gradient(card: ModelCard, dataset: Dataset, micro: int) -> None:
    """With weights of the classes and mixed images, and parts of unequal size."""
    policy = Policy(horizontal_flip=True, mixup=0.4)
    whole, parts = (fitted(card, dataset, how, policy).network for how in (RECIPE, recipe(micro_batch=micro)))
    assert furthest(whole, parts) < 1e-5


def test_batches_of_an_epoch_are_of_one_size(dataset: Dataset) -> None:
    """Give or take an image; together they are the training images, each once."""
    for size in (2, 33, len(dataset.rows("train")) - 1, 10_000):
        batches = batches_of(inputs_of(dataset), recipe(batch_size=size), 1)
        sizes = [len(batch) for batch in batches]
        assert max(sizes) <= size and max(sizes) - min(sizes) <= 1
        assert sorted(np.concatenate(batches)) == dataset.rows("train").tolist()


def test_streamed_images_train_the_same_weights(card: ModelCard, dataset: Dataset) -> None:
    """Bit for bit, whether the images lie in memory or are read by a thread."""
    streamed, resident = (fitted(card, dataset, recipe(images=way)) for way in ("streamed", "resident"))
    assert furthest(streamed.network, resident.network) == 0
    assert streamed.history.equals(resident.history)


def test_what_does_not_fit_is_streamed() -> None:
    """More than half of the free memory is left in the file."""
    side = int(free_bytes(CPU) ** 0.5)
    for width, kind in ((side, Streamed), (4, Resident)):
        images = np.broadcast_to(np.uint8(0), (2, width, width, 3))
        assert isinstance(data_loader(images, np.zeros(2, int), np.arange(2), "auto", CPU), kind)


def test_trainings_side_by_side_look_at_the_memory_in_turn(dataset: Dataset) -> None:
    """While another one takes its share, nobody counts what is free."""
    with ThreadPoolExecutor(1) as pool:
        with memory_lock(CPU):
            waiting = pool.submit(data_loader, dataset.images_NHWC, dataset.labels, np.arange(9), "auto", CPU)
            with pytest.raises(TimeoutError):
                waiting.result(0.3)
        assert isinstance(waiting.result(10), Resident)


def test_out_of_memory_halves_what_goes_through_at_once(
    card: ModelCard, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    """16, 8, 4: the batch and so the weights stay what they are, and it is said; below 2 nothing is left to halve."""
    squeezed = fitted(card, dataset, RECIPE, room=5).network
    said = capsys.readouterr().out
    assert "going on with 8" in said and "going on with 4" in said
    assert furthest(squeezed, fitted(card, dataset, RECIPE).network) < 1e-5
    with pytest.raises(ValueError, match=r"lower .*ingest\.image_size"):
        fitted(card, dataset, RECIPE, room=1)


def test_the_average_is_what_is_validated(card: ModelCard, dataset: Dataset) -> None:
    """With a very slow average the weights are near to where they began."""
    averaged, last = (fitted(card, dataset, recipe(ema=ema, epochs=1)).network for ema in (0.9999, 0.0))
    assert 0 < furthest(plain(), averaged) < furthest(plain(), last)


def test_patience_ends_a_training_that_gets_no_better(card: ModelCard, dataset: Dataset) -> None:
    """At a learning rate of next to nothing the first epoch stays the best."""
    found = fitted(card, dataset, recipe(learning_rate=1e-30, patience=3, epochs=50))
    assert (len(found.history), found.best_epoch) == (4, 1)


def test_a_time_limit_ends_with_the_schedule_run_to_its_end(card: ModelCard, dataset: Dataset) -> None:
    """Far fewer epochs than asked for, and a learning rate near nothing in the last of them."""
    start = time.perf_counter()
    history = fitted(card, dataset, recipe(epochs=100_000, time_limit=2 / 60)).history
    assert 1.5 < time.perf_counter() - start < 10
    assert 1 < len(history) < 10_000
    assert history["learning_rate"].iloc[-1] < 0.1 * history["learning_rate"].max()


@pytest.mark.slow
def test_two_processes_train_what_one_does(digit_folder: Path, tmp_path: Path) -> None:
    """`train.processes: 2` runs under torchrun with gloo: the same effective batch, the same metrics within the
    rounding of sums, on a network without batch norm and dropout; the main process writes the results."""
    made = []
    for processes in (1, 2):
        changes = {"processes": processes, "epochs": 3, "learning_rate": 0.02}
        root = workspace(tmp_path / str(processes), digit_folder, changes, "lenet5", "none")
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", "train", "simple_cnn"],
            cwd=root, env=environment(root), capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("epoch   1") == 1
        network, _ = weights.load(root / layout.checkpoint("train", "simple_cnn"))
        made.append((network, read_table(root / layout.history("train", "simple_cnn"))))
    (one, alone), (two, together) = made
    assert furthest(one, two) < 1e-3
    assert np.abs(alone - together).max().max() < 1e-3
