"""Batch norm's statistics: of the shares of a batch, caught up with the weights before these are judged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.artifacts import Dataset, ModelCard
from pipeline.augmentation.policy import Policy
from pipeline.config import Train
from pipeline.evaluation.metrics import accuracy
from pipeline.networks.architectures.torchvision_model import Classifier
from pipeline.networks.deployable import probabilities
from pipeline.networks.weights import weights_hash
from pipeline.stages.train import training_data
from pipeline.training.balance import balanced
from pipeline.training.batch_norm import Collected, learning, observer
from pipeline.training.loop import fit


def norms(momentum: float | None = 0.1) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=momentum))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_batch_moves_the_statistics_once(momentum: float | None) -> None:
    """By the mean over its shares, whoever saw which: what torch does for one share, the mean of them for several."""
    shares = torch.randn(4, 8, 3, 6, 6)
    alone = norms(momentum).train()
    for _ in range(2):
        alone(shares[0])
    for split in ([[0, 1], [2, 3]], [[0], [1, 2, 3]], [[0, 1, 2, 3], []]):
        network = norms(momentum)
        twins = [norms().train(), norms().train()]
        found = Collected(network, twins)
        for _ in range(2):
            found.reset()
            for twin, numbers in zip(twins, split, strict=True):
                for number in numbers:
                    twin(shares[number])
            found.gather([found.take(0), found.take(1)])
        each = []
        for share in shares:
            single = norms(momentum).train()
            for _ in range(2):
                single(share)
            each.append(single.get_buffer("1.running_var"))
        assert torch.allclose(network.get_buffer("1.running_var"), torch.stack(each).mean(dim=0), atol=1e-5)
        assert int(network.get_buffer("1.num_batches_tracked")) == 2


def test_norms_that_are_kept_still_stay_as_they_are() -> None:
    """Of a frozen backbone, neither while training nor when statistics are computed anew."""
    frozen = Classifier(norms(), 0, frozen=True)
    twin = Classifier(norms(), 0, frozen=True).train()
    for collected in (Collected(frozen, [twin]), Collected(frozen, [observer(frozen)])):
        collected.reset()
        twin(torch.randn(8, 3, 6, 6) + 5)
        collected.gather([collected.take(0)], anew=True)
    assert torch.equal(frozen.network.get_buffer("1.running_mean"), torch.zeros(4))
    assert not learning(frozen)


@pytest.mark.parametrize(("momentum", "ema"), [(0.001, 0.0), (0.1, 0.99)])
def test_weights_are_judged_with_statistics_that_have_caught_up(
    card: ModelCard, dataset: Dataset, momentum: float, ema: float
) -> None:
    """Three digits in 9 steps an epoch, with statistics that would follow in a thousand steps: the curves and what is
    kept are right at nearly all images, where the statistics of the steps give a third of them."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2), nn.BatchNorm2d(16, momentum=momentum), nn.ReLU(), nn.Conv2d(16, 16, 3, 2),
        nn.BatchNorm2d(16, momentum=momentum), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 9, 3),
    )  # fmt: skip
    rows = dataset.rows("train")
    recipe = Train(epochs=4, batch_size=32, learning_rate=0.05, device="cpu", precision="float32", ema=ema)
    balance = balanced(rows, dataset.labels[rows], dataset.class_names, "none", seed=0)
    data = training_data(dataset, balance, recipe)
    found = fit(network, card, data, recipe, Policy(), lambda epoch: None)
    assert found.history["val_accuracy"].iloc[-1] > 0.95
    images, labels = dataset.of("train")
    assert accuracy(probabilities(found.network, card, images, torch.device("cpu")), np.asarray(labels)) > 0.95


def test_statistics_are_computed_from_any_number_of_images(card: ModelCard, dataset: Dataset) -> None:
    """65 training images at batch size 64 leave no batch of one image, over which batch norm has no variance."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 16), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))
    rows = dataset.rows("train")[:65]
    recipe = Train(epochs=1, batch_size=64, device="cpu", precision="float32")
    balance = balanced(rows, dataset.labels[rows], dataset.class_names, "none", seed=0)
    data = training_data(dataset, balance, recipe)
    assert len(fit(network, card, data, recipe, Policy(), lambda epoch: None).history) == 1


def test_computing_statistics_again_changes_nothing() -> None:
    """A training that is stopped while it validates and goes on does so twice, and must give the same bytes."""
    network = norms()
    hashes = []
    for _ in range(2):
        twin = observer(network)
        seen = Collected(network, [twin])
        seen.reset()
        twin(torch.linspace(0, 1, 8 * 3 * 36).reshape(8, 3, 6, 6))
        seen.gather([seen.take(0)], anew=True)
        hashes.append(weights_hash(network))
    assert hashes[0] == hashes[1]


def test_batches_of_an_epoch_are_of_one_size(card: ModelCard, dataset: Dataset) -> None:
    """Give or take an image; together they are the training images, each once."""
    from pipeline.training.checkpointing import NOWHERE
    from pipeline.training.data_loading import feed
    from pipeline.training.device import Placement
    from pipeline.training.loop import _Training
    from pipeline.training.step import Engine

    rows = dataset.rows("train")
    balance = balanced(rows, dataset.labels[rows], dataset.class_names, "none", seed=0)
    for size in (2, 33, len(rows) - 1, 10_000):
        recipe = Train(batch_size=size, device="cpu", precision="float32")
        data = training_data(dataset, balance, recipe)
        placement = Placement(torch.device("cpu"), None, "")
        engine = Engine(norms(), card, (data.class_weights, data.logit_offsets), recipe, Policy(), placement, {})
        source = feed(data.images_NHWC, data.labels, rows, "resident", placement.device)
        batches = _Training(engine, data, source, NOWHERE, lambda epoch: None)._batches(1)
        sizes = [len(batch) for batch in batches]
        assert max(sizes) <= size and max(sizes) - min(sizes) <= 1 and min(sizes) >= 1
        assert sorted(np.concatenate(batches)) == sorted(rows)
