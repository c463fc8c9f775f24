"""Numbers from probabilities [N, classes] and labels [N]; every share is of 1."""

import numpy as np
import pandas as pd

from pipeline.evaluation.statistics import share_interval


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return float((probabilities.argmax(axis=1) == labels).mean())


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Share of the images to which two networks give the same class, from their probabilities."""
    return accuracy(first, second.argmax(axis=1))


def summary(probabilities: np.ndarray, labels: np.ndarray, group: np.ndarray, bins: int) -> dict[str, float]:
    """The headline numbers of one split; `ece` is the expected calibration error over `bins` bins.

    The interval of the accuracy counts the alike images of a `group` [N] once; all other numbers are over images.
    """
    from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss  # takes a second to import

    predicted = probabilities.argmax(axis=1)
    low, high = share_interval(predicted == labels, group)
    top5 = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    wide = probabilities.astype(np.float64)
    return {
        "accuracy": accuracy(probabilities, labels),
        "accuracy_low": low,
        "accuracy_high": high,
        "balanced_accuracy": float(balanced_accuracy_score(labels, predicted)),
        "macro_f1": float(f1_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0)),
        "top5_accuracy": float((top5 == labels[:, None]).any(axis=1).mean()),
        "log_loss": float(log_loss(labels, wide / wide.sum(axis=1, keepdims=True), labels=range(wide.shape[1]))),
        "ece": expected_calibration_error(probabilities, labels, bins),
        "images": len(labels),
    }


def calibration(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> pd.DataFrame:
    """A row per non-empty confidence bin: `confidence` (mean), `accuracy`, `share` of the images."""
    confidence, right = probabilities.max(axis=1), (probabilities.argmax(axis=1) == labels).astype(float)
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    grouped = pd.DataFrame({"confidence": confidence.astype(np.float64), "accuracy": right}).groupby(bin_of)
    return grouped.mean().assign(share=grouped.size() / len(labels))


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """Naeini et al. 2015 (AAAI): mean gap between confidence and accuracy, weighted by the bins' shares."""
    table = calibration(probabilities, labels, bins)
    return float((table["share"] * (table["accuracy"] - table["confidence"]).abs()).sum())


def per_class(probabilities: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]) -> pd.DataFrame:
    """A row per class: precision, recall, f1 and the number of images of the class."""
    from sklearn.metrics import precision_recall_fscore_support

    classes = list(range(len(class_names)))
    numbers = precision_recall_fscore_support(labels, probabilities.argmax(axis=1), labels=classes, zero_division=0)
    precision, recall, f1, images = numbers
    return pd.DataFrame({"class": class_names, "precision": precision, "recall": recall, "f1": f1, "images": images})
