"""Has the data set moved away from the one that was accepted? Population stability index on every measure.

PSI over the deciles of the accepted data; above 0.25 is the usual sign of a shift. Under "no drift" PSI / (1/n + 1/m)
follows a chi-square distribution (B. Yurdakul, Statistical Properties of Population Stability Index, 2018), which keeps
small data sets from being accused by chance.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from pydantic import BaseModel

from pipeline import layout
from pipeline.errors import UserError

PROFILE = layout.REFERENCE / "profile.json"
MEASURES = ("brightness", "contrast", "sharpness", "colourfulness", "width", "height")
BINS = 10
CHANCE = 0.001  # a shift that is at least this likely by chance is none: several measures are looked at
PSEUDO = 0.5  # is added to every count, so that a bin that happens to be empty is not infinitely far away


class Measured(BaseModel):
    """The deciles of a measure, and how many images lie between them."""

    edges: list[float]
    counts: list[int]


class Profile(BaseModel):
    """What an accepted data set was like: number of images, images per class, each of MEASURES."""

    images: int
    classes: dict[str, int]
    measures: dict[str, Measured]


def profile(manifest: pd.DataFrame) -> Profile:
    measures = {}
    for name in MEASURES:
        values = manifest[name].to_numpy(dtype=np.float64)
        edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1]))
        measures[name] = Measured(edges=edges.tolist(), counts=_counts(values, edges).tolist())
    classes = manifest["class"].value_counts().sort_index().to_dict()
    return Profile(images=len(manifest), classes=classes, measures=measures)


def read_profile() -> Profile | None:
    """The accepted data set's; None where none was accepted. Raises UserError if the file is damaged."""
    if not PROFILE.exists():
        return None
    try:
        return Profile.model_validate_json(PROFILE.read_bytes())
    except ValueError:
        raise UserError(
            f"{PROFILE} is damaged: restore it from git, or delete it and run `python -m pipeline accept` anew"
        ) from None


def drift(accepted: Profile, manifest: pd.DataFrame) -> dict[str, float]:
    """PSI of each measure and of the classes; 0 where the difference may be chance."""
    shifts = {}
    for name, known in accepted.measures.items():
        now = _counts(manifest[name].to_numpy(dtype=np.float64), np.array(known.edges))
        shifts[name] = _psi(np.array(known.counts), now)
    before, now = pd.Series(accepted.classes).align(manifest["class"].value_counts(), fill_value=0)
    return shifts | {"classes": _psi(before.to_numpy(), now.to_numpy())}


def _counts(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)


def _psi(before: np.ndarray, now: np.ndarray) -> float:
    from scipy.stats import chi2

    before, now = before + PSEUDO, now + PSEUDO
    p, q = before / before.sum(), now / now.sum()
    psi = float(((q - p) * np.log(q / p)).sum())
    by_chance = chi2.sf(psi / (1 / before.sum() + 1 / now.sum()), max(1, len(before) - 1))
    return psi if by_chance < CHANCE else 0.0
