"""`audit`: wrong labels are found, right ones are left alone, and the picture shows them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.artifacts import Dataset, ModelCard
from pipeline.augmentation.policy import POLICIES
from pipeline.config import Audit
from pipeline.stages.audit import audit, held_out_probabilities
from pipeline.stages.train import train
from tests.inputs import inputs_of, recipe

CPU = torch.device("cpu")


def test_planted_label_errors_are_found(card: ModelCard, dataset: Dataset) -> None:
    """A tenth of the labels is wrong, also in the training split, which the network has learned by heart."""
    draw = np.random.default_rng(0)
    wrong = draw.choice(len(dataset.labels), 12, replace=False)
    labels = dataset.labels.copy()
    labels[wrong] = (labels[wrong] + 1) % 3
    names = np.array(dataset.class_names)
    spoiled = Dataset(
        dataset.images_NHWC, labels, dataset.splits.assign(**{"class": names[labels]}), dataset.class_names
    )
    fitted = train(card, inputs_of(spoiled, policy=POLICIES["digits"]), recipe(epochs=12)).fitted
    found = audit("simple_cnn", fitted.network, card, spoiled, Audit(shown=5), CPU)
    suspected = set(found.suspects["path"])
    planted = set(dataset.splits["path"].iloc[wrong])
    assert len(suspected & planted) >= 10
    assert len(suspected - planted) <= 3
    right = found.suspects.merge(dataset.splits[["path", "class"]], on="path", suffixes=("", "_true"))
    of_planted = right[right["path"].isin(planted)]
    assert (of_planted["suggested"] == of_planted["class_true"]).mean() > 0.8


def test_good_labels_are_not_doubted(dataset: Dataset) -> None:
    """Features that separate the classes contradict nobody, and no picture is made of nothing."""
    features = np.eye(3)[dataset.labels] * 5 + np.random.default_rng(0).normal(0, 0.3, (len(dataset.labels), 3))
    scores = held_out_probabilities(features.astype(np.float32), dataset.labels, np.arange(len(features)))
    assert (scores.argmax(axis=1) == dataset.labels).all()
    assert scores.sum(axis=1) == pytest.approx(np.ones(len(scores)))


def test_twins_do_not_vouch_for_each_others_wrong_label() -> None:
    """Pictures that lie together, far from the others of their class: only they themselves speak for the label."""
    draw = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 40)
    features = draw.normal(0, 1, (120, 8)) + 3 * np.eye(3, 8)[labels]
    twins = np.arange(30)  # shown thirty times
    features[twins] = np.eye(8)[1] * 3 + np.eye(8)[5] * 6 + draw.normal(0, 0.1, (30, 8))
    group = np.where(np.isin(np.arange(120), twins), 0, np.arange(120))
    scores = held_out_probabilities(features.astype(np.float32), labels, group)
    assert (scores.argmax(axis=1)[twins] == 1).all()
    apart = held_out_probabilities(features.astype(np.float32), labels, np.arange(120))
    assert (apart.argmax(axis=1)[twins] == 0).all()


def test_a_class_of_one_group_is_not_doubted() -> None:
    """There is nothing to hold it against: a single image, or one video."""
    labels = np.array([0] * 10 + [1] * 10 + [2] * 4)
    group = np.array([*range(20), 20, 20, 20, 20])
    features = np.eye(3)[labels] + np.random.default_rng(0).normal(0, 0.1, (24, 3))
    scores = held_out_probabilities(features.astype(np.float32), labels, group)
    assert (scores.argmax(axis=1) == labels).all()
    assert (held_out_probabilities(features, labels, labels) == np.eye(3)[labels]).all()


def test_many_images_are_judged_by_some_of_each_class() -> None:
    """What the classifier is fitted on is bounded; every image is judged all the same."""
    labels = np.repeat([0, 1], [30_000, 200])
    features = pd.get_dummies(labels).to_numpy(np.float32) + np.random.default_rng(0).normal(0, 0.2, (30_200, 2))
    scores = held_out_probabilities(features.astype(np.float32), labels, np.arange(30_200))
    assert (scores.argmax(axis=1) == labels).mean() > 0.98
