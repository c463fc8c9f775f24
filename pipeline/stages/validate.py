"""`validate`: a Great Expectations suite over the manifest; a critical failure stops the pipeline."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.artifacts import unreadable
from pipeline.config import CheckName, Validate
from pipeline.errors import UserError
from pipeline.inspection.drift import drift
from pipeline.inspection.duplicates import alike, partners
from pipeline.inspection.expectations import Bounds, judge
from pipeline.inspection.findings import FIRST, Finding


@dataclass(frozen=True)
class Validation:
    """`images` is the manifest with what was compared across rows; `pairs` are copies and near-duplicates."""

    findings: list[Finding]
    images: pd.DataFrame
    pairs: pd.DataFrame


def validate(
    manifest: pd.DataFrame,
    quarantine: pd.DataFrame,
    images_NHWC: np.ndarray,
    accepted: dict[str, Any] | None,
    config: Validate,
    docs: Path,
) -> Validation:
    """Judge the data; Data Docs (HTML) are written to the folder `docs`. Look at `findings.raise_critical` next.

    `accepted` is the profile of the data set that was accepted before (see `pipeline.inspection.drift`), if any.
    """
    if manifest.empty:
        why = f", first {quarantine.iloc[0]['path']}: {quarantine.iloc[0]['reason']}" if len(quarantine) else ""
        raise UserError(f"not one image could be read{why}: quarantine.csv says why for each file")
    pairs = alike(manifest, images_NHWC, config.max_hash_distance, config.min_similarity)
    images = compared(manifest, pairs)
    aside = unreadable(quarantine)
    missing, unknown = _classes(manifest, quarantine, config.classes)
    confusable = _confusable(manifest["class"])
    shifts = drift(accepted, manifest) if accepted else {}
    facts = pd.DataFrame({
        "wrong_classes": [len(missing) + len(unknown)],
        "confusable_classes": [len(confusable)],
        "share_quarantined": [len(aside) / (len(manifest) + len(aside))],
        "drift": [max(shifts.values(), default=0.0)],
    })  # fmt: skip
    about_images, about_all = image_checks(config), dataset_checks(config, compare=accepted is not None)
    tables = {"images": (images, about_images), "dataset": (facts, about_all)}
    passed = judge(tables, not_null=manifest.columns.tolist(), docs=docs)
    named = {
        "known_classes": [f"{name} (no image)" for name in missing] + [f"{name} (not expected)" for name in unknown],
        "class_names": confusable,
        "readable": aside["path"].tolist(),
        "drift": [f"{name} {psi:.2f}" for name, psi in shifts.items() if psi > config.max_drift],
    }
    classes = manifest["class"].nunique()
    of = {"known_classes": classes + len(missing), "class_names": classes, "drift": len(shifts)}
    findings = [
        Finding(check.name, check.says, check.severity, passed[check.name], len(named[check.name]),
                of.get(check.name, len(manifest) + len(aside)), named[check.name][:FIRST])
        for check in about_all
    ]  # fmt: skip
    for check in about_images:
        rows = np.flatnonzero(check.missed_by(images)).tolist()
        first = images["path"].iloc[rows[:FIRST]].tolist()
        findings.append(
            Finding(check.name, check.says, check.severity, passed[check.name], len(rows), len(images), first, rows)
        )
    return Validation(findings, images, pairs)


def compared(manifest: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """The manifest with a column for whatever a check compares across rows."""
    content = manifest.groupby("sha256")
    per_class = manifest.groupby("class")["path"].transform("size")
    sides = manifest[["width", "height"]]
    side = np.sqrt(sides.prod(axis=1))
    times = side / side.median()
    near = pairs[~pairs["exact"]]
    distinct = ~manifest["sha256"].duplicated()
    count, labels, splits = len(manifest), manifest["class"].to_numpy(), manifest["source_split"].to_numpy()
    colourless = manifest["mode"].isin(("1", "L", "LA", "I", "I;16", "F")) | (manifest["colourfulness"] < GREY)
    return manifest.assign(
        class_images=per_class,
        times_smaller=per_class.max() / per_class,
        copies=content["path"].transform("size"),
        labels_of_content=content["class"].transform("nunique"),
        near_duplicates=partners(near, count),
        near_labels=partners(near, count, differ=labels),
        leaks=partners(near, count, differ=splits) + content["source_split"].transform("nunique") - 1,
        repairs=(manifest["note"] != "").astype(int),
        short_side=sides.min(axis=1),
        aspect=sides.max(axis=1) / sides.min(axis=1),
        size_ratio=np.maximum(times, 1 / times),
        brightness_outlier=_deviations(manifest["brightness"], distinct).abs(),
        # Only blur is a fault; and sharpness is a matter of factors, hence the logarithm
        sharpness_outlier=-_deviations(np.log1p(manifest["sharpness"]), distinct).clip(upper=0),
        # Where most images are grey, grey is no fault
        colourless=(colourless & (colourless.mean() < 0.5)).astype(int),
    )


GREY = 0.5  # colourfulness under which nobody sees a colour
NEGLIGIBLE = 0.01  # deviations of brightness and log sharpness that nobody sees; alike images would be outliers else


def _deviations(values: pd.Series, distinct: pd.Series) -> pd.Series:
    """Distance from the median in robust standard deviations (Iglewicz and Hoaglin 1993), both of distinct images: a
    thousand copies of one file would make outliers of all the others."""
    from_median = values - values[distinct].median()
    spread = float(from_median[distinct].abs().median()) / 0.6745
    return from_median / max(spread, NEGLIGIBLE)


def _classes(manifest: pd.DataFrame, quarantine: pd.DataFrame, wanted: list[str]) -> tuple[list[str], list[str]]:
    """Classes without a readable image, and classes that are not wanted (none, where any will do)."""
    there = set(manifest["class"])
    known = set(wanted) or there | (set(quarantine["class"]) - {""})
    return sorted(known - there), sorted(there - known)


def _confusable(names: pd.Series) -> list[str]:
    """Classes that a person would take for one: they differ in case, outer spaces or the form of their letters."""
    found = pd.Series(sorted(set(names)))
    plain = found.map(lambda name: unicodedata.normalize("NFKC", name).strip().casefold())
    return [repr(name) for name in found[plain.duplicated(keep=False)]]


def dataset_checks(config: Validate, compare: bool) -> list[Bounds]:
    """What is asked of the data set as a whole."""
    classes = f"the classes are {', '.join(config.classes)}" if config.classes else "every class has a readable image"
    bounds = [
        _check(config, "known_classes", classes, "wrong_classes", maximum=0),
        _check(config, "class_names", "no two classes have names that look the same", "confusable_classes", maximum=0),
        _check(config, "readable", f"at most {config.max_quarantined:.1%} of the files are unreadable",
               "share_quarantined", maximum=config.max_quarantined),
    ]  # fmt: skip
    if compare:
        says = f"no measure has moved from the accepted data by more than {config.max_drift:g} (stability index)"
        bounds.append(_check(config, "drift", says, "drift", maximum=config.max_drift))
    return bounds


def image_checks(config: Validate) -> list[Bounds]:
    """What is asked of each image; adding a check is adding a line, and its name to `config.CheckName`."""
    low, high = config.brightness
    some = config.tolerated
    return [
        _check(config, "class_images", f"every class has at least {config.min_images_per_class} images",
               "class_images", minimum=config.min_images_per_class),
        _check(config, "one_label", "no image stands under two labels", "labels_of_content", maximum=1),
        _check(config, "near_one_label", "no near-duplicates stand under two labels", "near_labels", maximum=0),
        _check(config, "leakage", "no image stands, or nearly so, in two splits of the source", "leaks", maximum=0),
        _check(config, "intact", "no file has a fault that viewers pass over", "repairs", maximum=0),
        _check(config, "copies", "no file stands twice", "copies", maximum=1),
        _check(config, "near_duplicates", "no image is nearly the same as another", "near_duplicates", maximum=0),
        _check(config, "balance", f"the largest class is at most {config.max_imbalance:g} times any other",
               "times_smaller", maximum=config.max_imbalance),
        _check(config, "side", f"sides are at least {config.min_side} pixels", "short_side", minimum=config.min_side),
        _check(config, "aspect", f"the longer side is at most {config.max_aspect:g} times the shorter", "aspect",
               maximum=config.max_aspect),
        _check(config, "size", f"no image is over {config.max_size_ratio:g} times larger or smaller than the median",
               "size_ratio", maximum=config.max_size_ratio),
        _check(config, "brightness", f"mean brightness lies between {low:g} and {high:g}", "brightness",
               minimum=low, maximum=high, tolerated=some),
        _check(config, "contrast", f"contrast is at least {config.min_contrast:g}", "contrast",
               minimum=config.min_contrast, tolerated=some),
        _check(config, "brightness_outlier", f"brightness is within {config.max_outlier:g} deviations of the others",
               "brightness_outlier", maximum=config.max_outlier, tolerated=some),
        _check(config, "sharpness_outlier", f"no image is over {config.max_outlier:g} deviations more blurred",
               "sharpness_outlier", maximum=config.max_outlier, tolerated=some),
        _check(config, "colour", "no image is grey among coloured ones", "colourless", maximum=0, tolerated=some),
    ]  # fmt: skip


def _check(
    config: Validate, name: CheckName, says: str, column: str,
    minimum: float | None = None, maximum: float | None = None, tolerated: float = 0.0,
) -> Bounds:  # fmt: skip
    severity = "critical" if name in config.critical else "warning"
    return Bounds(name, says, column, severity, minimum, maximum, tolerated)
