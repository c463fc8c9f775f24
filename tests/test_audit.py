"""`audit`: wrong labels are found, right ones are left alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.artifacts import Dataset, ModelCard
from pipeline.networks.weights import fresh
from pipeline.stages.audit import audit, held_out_probabilities


def test_planted_label_errors_are_found(card: ModelCard, dataset: Dataset) -> None:
    """A tenth of the labels is wrong. Even an untrained network's features tell three digits apart."""
    torch.manual_seed(0)
    wrong = np.random.default_rng(0).choice(len(dataset.labels), 12, replace=False)
    labels = dataset.labels.copy()
    labels[wrong] = (labels[wrong] + 1) % 3
    given = dataset.splits.assign(**{"class": np.array(dataset.class_names)[labels]})
    spoiled = replace(dataset, labels=labels, splits=given)
    suspects, picture = audit("m", fresh(card), card, spoiled, 5, torch.device("cpu"))
    planted = dataset.splits.iloc[wrong].set_index("path")["class"]
    found = suspects[suspects["path"].isin(planted.index)]
    assert len(found) >= 10 and len(suspects) - len(found) <= 3
    assert (found["suggested"] == planted[found["path"]].to_numpy()).mean() > 0.8
    assert len(picture.axes[0].images) == 5


@pytest.mark.parametrize(
    ("labels", "group"),
    [
        (np.repeat([0, 1, 2], 40), np.arange(120)),
        # A class of one group, such as a video: there is nothing to hold it against
        (np.repeat([0, 1, 2], [10, 10, 4]), np.array([*range(20), *[20] * 4])),
        (np.repeat([0, 1, 2], 4), np.repeat([0, 1, 2], 4)),
        # A rare class is judged all the same
        (np.repeat([0, 1], [30_000, 200]), np.arange(30_200)),
    ],
)
def test_good_labels_are_not_doubted(labels: np.ndarray, group: np.ndarray) -> None:
    features = np.eye(3)[labels] + np.random.default_rng(0).normal(0, 0.1, (len(labels), 3))
    scores = held_out_probabilities(features.astype(np.float32), labels, group)
    assert (scores.argmax(axis=1) == labels).all()
    assert scores.sum(axis=1) == pytest.approx(np.ones(len(scores)))


def test_twins_do_not_vouch_for_each_others_wrong_label() -> None:
    """Pictures that lie together, far from the others of their class: only they themselves speak for the label."""
    draw = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 40)
    features = draw.normal(0, 1, (120, 8)) + 3 * np.eye(3, 8)[labels]
    twins = np.arange(30)  # shown thirty times
    features[twins] = np.eye(8)[1] * 3 + np.eye(8)[5] * 6 + draw.normal(0, 0.1, (30, 8))
    for group, label in ((np.where(np.arange(120) < 30, 0, np.arange(120)), 1), (np.arange(120), 0)):
        scores = held_out_probabilities(features.astype(np.float32), labels, group)
        assert (scores.argmax(axis=1)[twins] == label).all()
