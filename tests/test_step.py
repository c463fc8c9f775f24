"""The engine's promises: any optimizer, any cutting of a batch, any way of feeding, any number of processes."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.artifacts import Dataset, ModelCard, read_table
from pipeline.augmentation.policy import POLICIES, Policy
from pipeline.config import Train
from pipeline.networks import weights
from pipeline.stages.train import train, training_data
from pipeline.training.balance import balanced
from pipeline.training.data_loading import Resident, Streamed, feed
from pipeline.training.loop import Fitted, fit
from pipeline.training.memory import free_bytes, turn
from pipeline.training.optimizer import make_optimizer
from tests.workspace import INPUTS, environment, workspace

CPU = torch.device("cpu")
RECIPE = Train(epochs=2, batch_size=16, learning_rate=0.05, device="cpu", precision="float32", threads=1)


class Plain(nn.Sequential):
    """A network without batch norm and dropout: what a batch does to it does not depend on how it is cut."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 7 * 7, 3))


def fitted(
    network: nn.Module, card: ModelCard, dataset: Dataset, recipe: Train, policy: Policy = POLICIES["none"]
) -> Fitted:
    rows = dataset.rows("train")
    balance = balanced(rows, dataset.labels[rows], dataset.class_names, "loss_weights", seed=0)
    data = training_data(dataset, balance, recipe)
    return fit(network, card, data, recipe, policy, lambda epoch: None)


def plain(seed: int = 0) -> Plain:
    torch.manual_seed(seed)
    return Plain()


def furthest(a: nn.Module, b: nn.Module) -> float:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return max(float((x.float() - y.float()).abs().max()) for x, y in pairs)


@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.05), ("adam", 0.003), ("adamw", 0.003)])
@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "step", "plateau", "constant"])
def test_every_optimizer_learns_under_every_schedule(
    card: ModelCard, dataset: Dataset, optimizer: str, rate: float, schedule: str
) -> None:
    """Three digits."""
    changes = {"optimizer": optimizer, "learning_rate": rate, "schedule": schedule, "epochs": 6, "warmup": 0.2}
    found = fitted(plain(), card, dataset, RECIPE.model_copy(update=changes))
    assert found.history["val_accuracy"].max() > 0.8


def test_the_reference_recipe_is_the_plain_one() -> None:
    """Adam 0.001 with weight decay on everything, which is what torch's own loop would do."""
    from pipeline.config import RECIPES

    recipe = Train(**RECIPES["reference"])
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = make_optimizer(network, recipe, {})
    assert isinstance(optimizer, torch.optim.Adam) and not isinstance(optimizer, torch.optim.AdamW)
    assert [(g["lr"], g["weight_decay"], len(g["params"])) for g in optimizer.param_groups] == [(0.001, 1e-4, 4)]


def test_norms_and_biases_do_not_decay_and_rates_differ() -> None:
    """Groups by rate and decay; a rate of 0 freezes, and nothing but frozen parameters is refused."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    rates = {"0.weight": 0.0, "0.bias": 0.0, "1.weight": 0.1, "1.bias": 0.1}
    groups = make_optimizer(network, Train(weight_decay=0.1), rates).param_groups
    assert {(g["rate"], g["weight_decay"], len(g["params"])) for g in groups} == {
        (0.1, 0.0, 2),
        (1.0, 0.1, 1),
        (1.0, 0.0, 1),
    }
    assert not network[0].weight.requires_grad
    with pytest.raises(ValueError, match="every parameter is frozen"):
        make_optimizer(nn.Linear(2, 2), Train(), {"weight": 0.0, "bias": 0.0})


@pytest.mark.parametrize("micro", [1, 3, 8])
def test_parts_of_a_batch_give_the_batchs_gradient(card: ModelCard, dataset: Dataset, micro: int) -> None:
    """With weights of the classes and mixed images, and parts of unequal size."""
    policy = Policy(horizontal_flip=True, mixup=0.4)
    whole = fitted(plain(), card, dataset, RECIPE, policy)
    parts = fitted(plain(), card, dataset, RECIPE.model_copy(update={"micro_batch": micro}), policy)
    assert furthest(whole.network, parts.network) < 1e-5


def test_streamed_images_train_the_same_weights(card: ModelCard, dataset: Dataset) -> None:
    """Bit for bit, whether the images lie in memory or are read by a thread."""
    streamed, resident = (
        fitted(plain(), card, dataset, RECIPE.model_copy(update={"images": way}), POLICIES["digits"])
        for way in ("streamed", "resident")
    )
    assert furthest(streamed.network, resident.network) == 0
    assert streamed.history.equals(resident.history)


def test_what_does_not_fit_is_streamed(dataset: Dataset) -> None:
    """More than half of the free memory is left in the file."""
    rows = dataset.rows("train")
    assert isinstance(feed(dataset.images_NHWC, dataset.labels, rows, "auto", CPU), Resident)
    side = int(free_bytes(CPU) ** 0.5)
    huge = np.broadcast_to(np.zeros((1, 1, 1, 3), np.uint8), (2, side, side, 3))
    assert isinstance(feed(huge, np.zeros(2, int), np.arange(2), "auto", CPU), Streamed)


def test_trainings_side_by_side_look_at_the_memory_in_turn(dataset: Dataset) -> None:
    """While another one takes its share, nobody counts what is free."""
    rows = dataset.rows("train")
    with ThreadPoolExecutor(1) as pool:
        with turn(CPU):
            waiting = pool.submit(feed, dataset.images_NHWC, dataset.labels, rows, "auto", CPU)
            with pytest.raises(TimeoutError):
                waiting.result(0.3)
        assert isinstance(waiting.result(10), Resident)


def test_an_error_while_reading_ahead_reaches_the_training(dataset: Dataset) -> None:
    """A row that is not there; and the thread ends."""
    source = feed(dataset.images_NHWC, dataset.labels, dataset.rows("train"), "streamed", CPU)
    with pytest.raises(IndexError):
        list(source.batches([np.array([0]), np.array([10**6])]))


class Greedy(Plain):
    """Says, as CUDA does, that the memory is full, for more than 5 images at once."""

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        if len(images_NCHW) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB.")
        logits: torch.Tensor = nn.Sequential.forward(self, images_NCHW)  # type: ignore[no-untyped-call]  # torch types it for itself only
        return logits


def test_out_of_memory_halves_what_goes_through_at_once(
    card: ModelCard, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    """16, 8, 4: the batch and so the weights stay what they are, and it is said."""
    torch.manual_seed(0)
    squeezed = fitted(Greedy(), card, dataset, RECIPE, POLICIES["digits"])
    assert furthest(squeezed.network, fitted(plain(), card, dataset, RECIPE, POLICIES["digits"]).network) < 1e-5
    said = capsys.readouterr().out
    assert "going on with 8" in said and "going on with 4" in said and "the batch stays 16" in said


def test_out_of_memory_for_two_images_is_a_sentence(card: ModelCard, dataset: Dataset) -> None:
    """Nothing is left to halve."""

    class Insatiable(Plain):
        def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")

    with pytest.raises(ValueError, match=r"not enough memory for 2 images .* lower ingest\.image_size"):
        fitted(Insatiable(), card, dataset, RECIPE)


def test_the_average_is_what_is_validated_and_kept(card: ModelCard, dataset: Dataset) -> None:
    """With a very slow average the kept weights are near to where they began."""
    start = plain()
    with_average = fitted(plain(), card, dataset, RECIPE.model_copy(update={"ema": 0.9999, "epochs": 1}))
    without = fitted(plain(), card, dataset, RECIPE.model_copy(update={"epochs": 1}))
    assert 0 < furthest(start, with_average.network) < furthest(start, without.network)


def test_patience_ends_a_training_that_gets_no_better(card: ModelCard, dataset: Dataset) -> None:
    """At a learning rate of next to nothing the first epoch stays the best."""
    still = RECIPE.model_copy(update={"learning_rate": 1e-30, "patience": 3, "epochs": 50})
    found = fitted(plain(), card, dataset, still)
    assert (len(found.history), found.best_epoch) == (4, 1)


def test_a_time_limit_ends_with_the_schedule_run_to_its_end(card: ModelCard, dataset: Dataset) -> None:
    """Far fewer epochs than asked for, and a learning rate near nothing in the last of them."""
    limited = RECIPE.model_copy(update={"epochs": 100_000, "time_limit": 2 / 60})
    start = time.perf_counter()
    found = fitted(plain(), card, dataset, limited)
    assert 1.5 < time.perf_counter() - start < 10
    assert 1 < len(found.history) < 10_000
    assert found.history["learning_rate"].iloc[-1] < 0.1 * found.history["learning_rate"].max()


def test_several_seeds(card: ModelCard, dataset: Dataset) -> None:
    """Each trains by itself; the best on the validation split is kept, and its rows stand first."""
    rows = dataset.rows("train")
    balance = balanced(rows, dataset.labels[rows], dataset.class_names, "none", seed=0)
    told: list[tuple[int, float]] = []
    recipe = RECIPE.model_copy(update={"seed": 4, "seeds": 3})
    done = train(card, dataset, balance, Policy(), recipe, lambda seed, epoch: told.append((seed, epoch.row["epoch"])))
    assert told == [(seed, epoch) for seed in (4, 5, 6) for epoch in (1, 2)]
    assert done.seeds["val_accuracy"].max() == done.metrics["best_val_accuracy"]
    assert done.seeds["shipped"].tolist() == [True, False, False]
    assert done.history["seed"].tolist()[:2] == [done.seed, done.seed]
    assert done.seeds["weights"].nunique() == 3
    alone = train(card, dataset, balance, Policy(), RECIPE.model_copy(update={"seed": 5}), lambda seed, epoch: None)
    assert alone.seeds["weights"][0] == done.seeds.set_index("seed")["weights"][5]


@pytest.mark.slow
def test_two_processes_train_what_one_does(digit_folder: Path, tmp_path: Path) -> None:
    """`train.processes: 2` runs under torchrun with gloo: the same effective batch, the same metrics within the
    rounding of sums, on a network without batch norm and dropout; one set of results is written, by the leader."""
    made = {}
    for processes in (1, 2):
        recipe = {"processes": processes, "epochs": 3, "learning_rate": 0.02}
        root = workspace(tmp_path / str(processes), digit_folder, recipe, "lenet5", "none")
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", "train", "simple_cnn", *INPUTS, "out"],
            cwd=root, env=environment(root), capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("epoch   1") == 1
        network, _ = weights.load(root / "out" / "checkpoint.safetensors")
        made[processes] = network, read_table(root / "out" / "history.csv")
    (one, alone), (two, together) = made[1], made[2]
    assert furthest(one, two) < 1e-3
    assert np.abs(alone - together).max().max() < 1e-3


def test_a_gradient_that_is_not_finite_stops_it_before_anything_is_saved(card: ModelCard, dataset: Dataset) -> None:
    """The loss is still finite in that step, the weights are not any more."""

    class Spoiled(Plain):
        def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = nn.Sequential.forward(self, images_NCHW)  # type: ignore[no-untyped-call]  # torch types it for itself only
            if logits.requires_grad:
                logits.register_hook(lambda gradient: gradient * float("inf"))
            return logits

    with pytest.raises(ValueError, match=r"not finite in epoch 1, step 1 of 5, at learning rate"):
        fitted(Spoiled(), card, dataset, RECIPE)
