"""Batch norm's statistics: of the shares of a batch, caught up with the weights before these are judged."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from pipeline.artifacts import Dataset, ModelCard
from pipeline.evaluation.metrics import accuracy
from pipeline.networks.architectures.torchvision_model import Classifier
from pipeline.networks.deployable import probabilities
from pipeline.networks.weights import weights_hash
from pipeline.training.batch_norm import gather, observer, replica, take
from pipeline.training.loop import fit
from tests.inputs import inputs_of, recipe


def norms(momentum: float | None = 0.1) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=momentum))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_batch_moves_the_statistics_once(momentum: float | None) -> None:
    """By the mean over its shares, whoever saw which: what torch does for one share, the mean of them for several."""
    shares = torch.randn(4, 8, 3, 6, 6)
    alone = [norms(momentum).train() for _ in shares]
    for single, share in zip(alone, shares, strict=True):
        for _ in range(2):
            single(share)
    wanted = torch.stack([single.get_buffer("1.running_var") for single in alone]).mean(dim=0)
    for border in (2, 1, 4):  # the first replica's shares, and the second's
        network = norms(momentum)
        twins = [replica(network).train() for _ in range(2)]
        for _ in range(2):
            for number, share in enumerate(shares):
                twins[number >= border](share)
            gather(network, [take(twin) for twin in twins])
        assert torch.allclose(network.get_buffer("1.running_var"), wanted, atol=1e-5)
        assert int(network.get_buffer("1.num_batches_tracked")) == 2


def test_frozen_norms_stay_as_they_are() -> None:
    """Of a frozen backbone, neither while training nor when statistics are computed again."""
    frozen = Classifier(norms(), 0, frozen=True)
    for twin in (replica(frozen).train(), observer(frozen)):
        twin(torch.randn(8, 3, 6, 6) + 5)
        gather(frozen, [take(twin)], reset=True)
    assert torch.equal(frozen.network.get_buffer("1.running_mean"), torch.zeros(4))


@pytest.mark.parametrize(("momentum", "ema"), [(0.001, 0.0), (0.1, 0.99)])
def test_weights_are_judged_with_statistics_that_have_caught_up(
    card: ModelCard, dataset: Dataset, momentum: float, ema: float
) -> None:
    """Three digits in 9 steps an epoch, with statistics that would follow in a thousand steps: the curves and the
    result are right at nearly all images, where the statistics of the steps give a third of them."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2), nn.BatchNorm2d(16, momentum=momentum), nn.ReLU(), nn.Conv2d(16, 16, 3, 2),
        nn.BatchNorm2d(16, momentum=momentum), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 9, 3),
    )  # fmt: skip
    found = fit(network, card, inputs_of(dataset), recipe(epochs=4, batch_size=32, ema=ema))
    assert found.history["val_accuracy"].iloc[-1] > 0.95
    images, labels = dataset.of("train")
    assert accuracy(probabilities(found.network, card, images, torch.device("cpu")), labels) > 0.95


def test_statistics_are_computed_from_any_number_of_images(card: ModelCard, dataset: Dataset) -> None:
    """65 training images at batch size 64 leave no batch of one image, over which batch norm has no variance."""
    network = nn.Sequential(nn.Conv2d(3, 4, 16), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))
    inputs = replace(inputs_of(dataset), rows=dataset.rows("train")[:65])
    assert len(fit(network, card, inputs, recipe(epochs=1, batch_size=64)).history) == 1


def test_computing_statistics_again_changes_nothing() -> None:
    """A training that is stopped while it validates and goes on does so twice, and must give the same bytes."""
    network, hashes = norms(), set()
    for _ in range(2):
        twin = observer(network)
        twin(torch.linspace(0, 1, 8 * 3 * 36).reshape(8, 3, 6, 6))
        gather(network, [take(twin)], reset=True)
        hashes.add(weights_hash(network))
    assert len(hashes) == 1
