"""Workers that share a batch compute what one would, whatever their number, and draw by themselves."""

import pytest
import torch
import torchvision
from torch import nn

from pipeline.artifacts import Dataset, ModelCard
from pipeline.augmentation.policy import Policy
from pipeline.networks.weights import weights_hash
from pipeline.training.data_parallel import _dropout, workers_for
from pipeline.training.loop import fit
from tests.inputs import inputs_of, recipe


def network(*extra: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), *extra, nn.Tanh(), nn.Flatten(), nn.Linear(8 * 7 * 7, 3))


def test_any_number_of_workers_takes_the_steps_of_one(card: ModelCard, dataset: Dataset) -> None:
    """With batch norm, dropout, mixed and augmented images and weights of the classes; bit for bit. The batch is three
    shares, so that 1, 2 and 4 threads each do something else."""
    found = []
    for threads in (4, 2, 2, 1):  # 1 at last, as in other tests' recipe
        how = recipe(batch_size=128, clip_gradient=0.0, threads=threads)
        inputs = inputs_of(dataset, how, Policy(rotation=10, brightness=0.2, mixup=0.4), "loss_weights")
        found.append(fit(network(nn.BatchNorm2d(8), nn.Dropout(0.2)), card, inputs, how))
    *others, alone = found
    for other in others:
        assert weights_hash(other.network) == weights_hash(alone.network)
        assert other.history.equals(alone.history)


def test_how_many_workers() -> None:
    """No more than threads or shares; none for a single share, and where a network draws what none could repeat, which
    dropout is not. To look for that leaves no trace in the network's statistics or torch's generator."""
    looked_at = network(nn.BatchNorm2d(8), nn.Dropout(0.5))
    before, state = weights_hash(looked_at), torch.get_rng_state()
    for shares, threads, count in ((4, 2, 2), (2, 16, 2), (1, 16, 0), (4, 1, 1)):
        assert workers_for(looked_at, 16, shares, threads) == count
    assert weights_hash(looked_at) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert workers_for(torchvision.models.convnext_tiny(num_classes=3), 32, shares=4, threads=2) == 0


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_dropout_leaves_the_mean(share: float) -> None:
    """What passes is scaled up; the shares are right to about half a percent; neighbours are independent."""
    found = _dropout(torch.ones(1000, 1001), share, torch.Generator().manual_seed(0))
    assert float((found == 0).float().mean()) == pytest.approx(share, abs=0.005)
    assert float(found.mean()) == pytest.approx(float(share < 1), abs=0.005)
    passed = (found > 0).float().flatten() - (1 - share)
    for distance in (1, 4, 8):
        assert abs(float((passed[distance:] * passed[:-distance]).mean())) < 0.002
