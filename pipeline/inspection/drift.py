"""Has the data set moved away from the one that was accepted? Population stability index on every measure.

PSI over the deciles of the accepted data; above 0.25 is the usual sign of a shift. Without drift PSI / (1/n + 1/m) is
chi-square distributed (B. Yurdakul, Statistical Properties of Population Stability Index, 2018), so chance is no shift.
"""

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import chi2

from pipeline import layout
from pipeline.artifacts import read_json
from pipeline.errors import UserError

PROFILE = layout.REFERENCE / "profile.json"
MEASURES = ("brightness", "contrast", "sharpness", "colourfulness", "width", "height")
BINS = 10
CHANCE = 0.001  # a shift that is at least this likely by chance is none: several measures are looked at
PSEUDO = 0.5  # is added to every count, so that a bin that happens to be empty is not infinitely far away


def profile(manifest: pd.DataFrame) -> dict[str, Any]:
    """profile.json: the number of images, images per class, deciles of each measure and the counts between them."""
    measures = {}
    for name in MEASURES:
        values = manifest[name].to_numpy(dtype=np.float64)
        edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1]))
        measures[name] = {"edges": edges.tolist(), "counts": _counts(values, edges).tolist()}
    classes = manifest["class"].value_counts().sort_index().to_dict()
    return {"images": len(manifest), "classes": classes, "measures": measures}


def read_profile() -> dict[str, Any] | None:
    """The accepted data set's; None where none was accepted. Raises UserError if the file is damaged."""
    try:
        content: dict[str, Any] | None = read_json(PROFILE) if PROFILE.exists() else None
    except ValueError:
        raise UserError(f"{PROFILE} is damaged: restore it, or run `python -m pipeline accept` again") from None
    return content


def drift(accepted: dict[str, Any], manifest: pd.DataFrame) -> dict[str, float]:
    """PSI of each measure and of the classes; 0 where the difference may be chance."""
    shifts = {}
    for name, known in accepted["measures"].items():
        shifts[name] = _psi(np.array(known["counts"]), _counts(manifest[name].to_numpy(), np.array(known["edges"])))
    classes = pd.DataFrame({"before": accepted["classes"], "now": manifest["class"].value_counts()}).fillna(0)
    return shifts | {"classes": _psi(classes["before"].to_numpy(), classes["now"].to_numpy())}


def _counts(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)


def _psi(before: np.ndarray, now: np.ndarray) -> float:
    before, now = before + PSEUDO, now + PSEUDO
    p, q = before / before.sum(), now / now.sum()
    psi = float(((q - p) * np.log(q / p)).sum())
    by_chance = chi2.sf(psi / (1 / before.sum() + 1 / now.sum()), max(1, len(before) - 1))
    return psi if by_chance < CHANCE else 0.0
