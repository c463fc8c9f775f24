"""Workers that share a batch compute what one would, whatever their number, and draw by themselves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torchvision
from torch import nn

from pipeline.artifacts import Dataset, ModelCard
from pipeline.augmentation.policy import POLICIES, Policy
from pipeline.config import Train
from pipeline.networks.weights import weights_hash
from pipeline.stages.train import training_data
from pipeline.training.balance import balanced
from pipeline.training.data_parallel import Crew, _dropped, workers_for
from pipeline.training.loop import Fitted, fit

RECIPE = Train(epochs=2, batch_size=128, learning_rate=0.05, device="cpu", precision="float32", clip_gradient=0.0)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """The tests set the number; what follows shall have what it had."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def trained(card: ModelCard, dataset: Dataset, threads: int, network: nn.Module, policy: Policy) -> Fitted:
    rows = dataset.rows("train")
    balance = balanced(rows, dataset.labels[rows], dataset.class_names, "loss_weights", seed=0)
    recipe = RECIPE.model_copy(update={"threads": threads})
    return fit(network, card, training_data(dataset, balance, recipe), recipe, policy, lambda epoch: None)


def network(*extra: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), *extra, nn.Tanh(), nn.Flatten(), nn.Linear(8 * 7 * 7, 3))


@pytest.mark.parametrize("threads", [2, 4])
def test_any_number_of_workers_takes_the_steps_of_one(card: ModelCard, dataset: Dataset, threads: int) -> None:
    """With batch norm, dropout, mixed and augmented images and weights of the classes; bit for bit. The batch is three
    shares, so that 1, 2 and 4 threads each do something else."""
    policy = Policy(rotation=10, brightness=0.2, mixup=0.4)
    made = [trained(card, dataset, n, network(nn.BatchNorm2d(8), nn.Dropout(0.2)), policy) for n in (1, threads)]
    assert weights_hash(made[0].network) == weights_hash(made[1].network)
    assert made[0].history.equals(made[1].history)


def test_workers_are_deterministic(card: ModelCard, dataset: Dataset) -> None:
    """With dropout, batch norm and augmentation, bit for bit."""
    made = [
        trained(card, dataset, 2, network(nn.BatchNorm2d(8), nn.Dropout(0.5)), POLICIES["digits"]).network
        for _ in range(3)
    ]
    assert len({weights_hash(each) for each in made}) == 1


def test_how_many_workers() -> None:
    """No more than threads or shares; none for a single share, and where a network draws what none could repeat."""
    assert workers_for(network(), 16, shares=4, threads=2) == 2
    assert workers_for(network(), 16, shares=2, threads=16) == 2
    assert workers_for(network(), 16, shares=1, threads=16) == 0
    assert workers_for(network(), 16, shares=4, threads=1) == 1
    assert workers_for(network(nn.Dropout(0.5)), 16, shares=4, threads=2) == 2
    stochastic_depth = torchvision.models.convnext_tiny(num_classes=3)
    assert workers_for(stochastic_depth, 32, shares=4, threads=2) == 0


def test_looking_for_draws_leaves_no_trace() -> None:
    """Neither in the network's statistics nor in torch's generator."""
    looked_at = network(nn.BatchNorm2d(8), nn.Dropout(0.5))
    before, drawn = weights_hash(looked_at), torch.get_rng_state()
    workers_for(looked_at, 16, shares=4, threads=2)
    assert weights_hash(looked_at) == before
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_dropout_keeps_the_mean(share: float) -> None:
    """What is kept is scaled up; the shares are right to about half a percent; neighbours are independent."""
    values = torch.ones(1000, 1001)
    found = _dropped(values, share, torch.Generator().manual_seed(0))
    assert float((found == 0).float().mean()) == pytest.approx(share, abs=0.005)
    if share < 1:
        assert float(found.mean()) == pytest.approx(1, abs=0.005)
    if 0 < share < 1:
        kept = (found > 0).float().flatten() - (1 - share)
        for distance in (1, 4, 8):
            assert abs(float((kept[distance:] * kept[:-distance]).mean())) < 0.002


def test_without_workers_it_is_the_network_itself() -> None:
    """Nothing is copied where there is nothing to share."""
    alone = network()
    assert Crew(alone, 0).networks[0] is alone
