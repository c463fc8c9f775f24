"""HOG and a linear support vector machine: the features of scikit-image, a fit without gradients, all stages."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.feature import hog
from sklearn.datasets import load_sample_images

from pipeline.artifacts import Dataset, ModelCard
from pipeline.config import Export, Prune, Quantize, Train
from pipeline.errors import UserError
from pipeline.evaluation.metrics import accuracy
from pipeline.networks.architectures import build
from pipeline.networks.architectures.hog_svm import HOG, Options, solve, statistics
from pipeline.networks.deployable import last_dense
from pipeline.networks.weights import weights_hash
from pipeline.stages.export import export
from pipeline.stages.prune import prune
from pipeline.stages.quantize import quantize
from pipeline.stages.train import train
from pipeline.tracking.runs import EPOCH_METRICS
from pipeline.training.closed_form import best_temperature, fit_closed_form, sample_weights
from tests.inputs import inputs_of

CPU = torch.device("cpu")
RECIPE = Train(device="cpu")


@pytest.fixture
def hog_card(card: ModelCard) -> ModelCard:
    mean, std = statistics(Options())
    return replace(card, architecture="hog_svm", mean=mean, std=std)


@pytest.mark.parametrize(("side", "cell", "orientations"), [(32, 4, 9), (30, 7, 8)])
def test_the_features_are_those_of_scikit_image(side: int, cell: int, orientations: int) -> None:
    """On photographs, also where cells do not fill the image and where bins end at 45 degrees."""
    photos = load_sample_images().images
    places = [(row, column) for row in range(0, 350, 90) for column in range(0, 550, 90)]
    images_NHWC = np.stack([p[row : row + side, column : column + side] for p in photos for row, column in places])
    ours = HOG(cell, orientations)(torch.from_numpy(images_NHWC).permute(0, 3, 1, 2) / 255).numpy()
    theirs = [hog(image, orientations, (cell, cell), (2, 2), channel_axis=-1) for image in images_NHWC]
    assert np.abs(ours - np.stack(theirs)).max() < 1e-5


def test_opposite_directions_are_one_orientation() -> None:
    """Dark to light and light to dark, also at exactly 0 and 180 degrees; a grey area has none."""
    image = torch.zeros(1, 3, 16, 16)
    assert not HOG(4, 9)(image + 0.5).any()
    image[..., 8:] = 1
    assert torch.equal(HOG(4, 9)(image), HOG(4, 9)(1 - image))


def test_cells_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"options\.cell is 9"):
        build("hog_svm", classes=3, size=16, options={"cell": 9})


def test_it_learns_without_gradients_and_passes_all_stages(
    hog_card: ModelCard, dataset: Dataset, tmp_path: Path
) -> None:
    """There is nothing to prune and nothing to quantize: it comes through whole, and ONNX Runtime agrees."""
    told: list[dict[str, float]] = []
    inputs = inputs_of(dataset)
    trained = train(hog_card, inputs, RECIPE, lambda seed, row, cost: told.append(row))
    network, history = trained.fitted.network, trained.fitted.history
    assert trained.metrics["best_val_accuracy"] > 0.9 and not trained.metrics["by_gradients"]
    assert told == history.to_dict("records") and set(EPOCH_METRICS) <= set(history)
    before = weights_hash(network)
    assert weights_hash(train(hog_card, inputs, RECIPE).fitted.network) == before
    pruned, metrics = prune(network, hog_card, inputs, RECIPE, Prune())
    assert (metrics["parameters_kept"], metrics["macs_kept"], weights_hash(pruned.network)) == (1, 1, before)
    assert export(network, hog_card, *dataset.of("val"), Export(), tmp_path / "fp32.onnx")["agreement"] == 1
    copied = quantize(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", dataset, Quantize())
    assert copied["quantized_layers"] == 0
    assert (tmp_path / "int8.onnx").read_bytes() == (tmp_path / "fp32.onnx").read_bytes()


@pytest.mark.parametrize("classes", [2, 3])
def test_an_image_of_weight_two_counts_like_two_images(classes: int) -> None:
    """With two classes, where the machine has one score, and with more."""
    draw = np.random.default_rng(0)
    labels = np.arange(60) % classes
    features_NF = draw.normal(size=(60, 5)) + 2 * np.eye(5)[labels]
    twice = draw.random(60) < 0.3
    listed = np.concatenate([np.arange(60), np.flatnonzero(twice)])
    weighed, biases = solve(features_NF, labels, 1.0 + twice, Options(), 0)
    doubled, _ = solve(features_NF[listed], labels[listed], np.ones(len(listed)), Options(), 0)
    assert weighed == pytest.approx(doubled, abs=1e-3)
    assert accuracy(features_NF @ weighed.T + biases, labels) > 0.7


@pytest.mark.parametrize("mode", ["sampler", "loss_weights"])
def test_rare_classes_count_more(dataset: Dataset, mode: str) -> None:
    splits = dataset.splits.copy()
    rare = np.flatnonzero((splits["split"] == "train") & (dataset.labels == 0))
    splits.loc[rare[5:], "split"] = "unused"
    inputs = inputs_of(replace(dataset, splits=splits), mode=mode)
    sums = np.bincount(inputs.labels[inputs.rows], weights=sample_weights(inputs))
    assert sums == pytest.approx(len(inputs.rows) / 3)


def test_logit_offsets_are_taken_off(hog_card: ModelCard, dataset: Dataset) -> None:
    """A class that was said to be frequent loses as much of its logit."""
    plain = inputs_of(dataset)
    biases = []
    for offsets in (plain.logit_offsets, np.array([1.0, 0, -2])):
        network, inputs = build("hog_svm", classes=3, size=16), replace(plain, logit_offsets=offsets)
        fit_closed_form(network, hog_card, inputs, RECIPE, lambda row, cost: None)
        biases.append(last_dense(network).bias.detach())
    assert (biases[0] - biases[1]).tolist() == pytest.approx([1, 0, -2], abs=1e-5)


def test_the_temperature_makes_probabilities_of_scores() -> None:
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(20_000, 4)) * 2
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (draw.random((20_000, 1)) > chances.cumsum(axis=1)).sum(axis=1)
    assert best_temperature(logits * 10, labels) == pytest.approx(10, rel=0.05)
