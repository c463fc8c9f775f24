"""`audit`: labels that a trained network contradicts, to be looked at by a person.

Confident learning: C. Northcutt, L. Jiang, I. Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels,
JAIR 2021 (https://arxiv.org/abs/1911.00068), by its library cleanlab.

It needs probabilities from a model that has not seen the label in question. The network has, and learns wrong labels by
heart; so its last layer is replaced by a linear classifier on its features, fitted again without the fold in question.
"""

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from torch import nn

from pipeline import layout
from pipeline.artifacts import Dataset, ModelCard, read_dataset, read_json, write_table
from pipeline.config import Params
from pipeline.evaluation.plots import image_grid, label, save
from pipeline.evaluation.selection import best_by_validation
from pipeline.networks import weights
from pipeline.networks.deployable import features
from pipeline.training.device import choose_device

FOLDS = 5


def run(config: Params) -> list[str]:
    found = {name: read_json(layout.metrics("train", name)) for name in config.models}
    best = best_by_validation({name: numbers["best_val_accuracy"] for name, numbers in found.items()})
    network, card = weights.load(layout.checkpoint("train", best))
    dataset, device = read_dataset(), choose_device(config.device(best))
    suspects, picture = audit(best, network, card, dataset, config.audit.shown, device)
    write_table(layout.SUSPECTS, suspects)
    save(picture, layout.SUSPECTS_PICTURE)
    return [f"labels that {best} contradicts: {len(suspects):,} ({layout.SUSPECTS})"]


def audit(
    name: str, network: nn.Module, card: ModelCard, dataset: Dataset, most: int, device: torch.device
) -> tuple[pd.DataFrame, Figure]:
    """suspects.csv: of all images, the labels that the network called `name` contradicts, the most confident first,
    each with the class that is suggested and the probability of the given one; and a picture of the first `most`."""
    from cleanlab.filter import find_label_issues

    seen, labels = features(network, card, dataset.images_NHWC, device), dataset.labels
    scores = held_out_probabilities(seen, labels, dataset.splits["alike"].to_numpy())
    ranked = {"filter_by": "both", "return_indices_ranked_by": "normalized_margin"}
    rows = find_label_issues(labels, scores, n_jobs=1, **ranked)
    suggested = np.array(card.class_names)[scores[rows].argmax(axis=1)]
    suspects = dataset.splits.iloc[rows][["path", "class", "split"]].reset_index(drop=True)
    suspects = suspects.assign(suggested=suggested, probability=scores[rows, labels[rows]].round(4))
    shown = suspects.head(most).to_dict("records")
    captions = [f"{label(row['class'])}\nrather {label(row['suggested'])}?" for row in shown]
    agreement = (scores.argmax(axis=1) == labels).mean()
    title = f"labels that {name} contradicts: {len(suspects):,} (it agrees with {agreement:.1%} of all)"
    return suspects, image_grid(dataset.images_NHWC[rows[:most]], captions, 8, title)


def held_out_probabilities(features_NF: np.ndarray, labels: np.ndarray, group: np.ndarray) -> np.ndarray:
    """[N, classes]: of each image by a linear discriminant that was fitted without its fold.

    A discriminant has a closed form, and wrong labels hardly move its class means. A `group` [N] of alike images is in
    one fold, or its images would vouch for each other's wrong label. Where a class has one group there is nothing to
    hold its labels against: they are taken for right.
    """
    # The groups of each class, by their first image, are dealt out to the folds in turn; scikit-learn's
    # StratifiedGroupKFold takes 10 s for 20,000 images
    _, first, group_of = np.unique(group, return_index=True, return_inverse=True)
    order = np.random.default_rng(0).permutation(len(first))
    fold_of = np.empty(len(first), dtype=np.int64)
    fold_of[order] = pd.Series(order).groupby(labels[first[order]]).cumcount() % FOLDS
    fold = fold_of[group_of]
    scores: np.ndarray = np.eye(labels.max() + 1)[labels]
    rows = np.flatnonzero(pd.Series(fold).groupby(labels).transform("nunique") > 1)
    known = np.unique(labels[rows])
    if len(known) > 1:
        discriminant = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        cut = {"cv": PredefinedSplit(fold[rows]), "method": "predict_proba"}
        scores[rows] = 0
        scores[np.ix_(rows, known)] = cross_val_predict(discriminant, features_NF[rows], labels[rows], **cut)
    return scores
