"""`validate`: a Great Expectations suite over the manifest; a critical failure stops the pipeline."""

import unicodedata
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import layout
from pipeline.artifacts import read_images, read_table, sha256, unreadable, write_json, write_table, write_whole
from pipeline.config import Params, Validate
from pipeline.errors import UserError
from pipeline.inspection import duplicates, gallery
from pipeline.inspection.drift import drift, read_profile
from pipeline.inspection.expectations import FIRST, Bounds, Finding, Validation, judge

GREY = 0.5  # colourfulness under which nobody sees a colour
NEGLIGIBLE = 0.01  # deviations of brightness and log sharpness that nobody sees; alike images would be outliers else


def run(config: Params) -> list[str]:
    """Raises UserError where a check fails that is critical."""
    quarantine, images = read_table(layout.QUARANTINE), read_images(layout.IMAGES)
    manifest, accepted = read_table(layout.MANIFEST), read_profile()
    found = validate(manifest, quarantine, images, accepted, config.validate_, layout.DATA_DOCS)
    write_json(layout.VALIDATION, {"manifest": sha256(layout.MANIFEST), **found.report()})
    write_table(layout.DUPLICATES, found.pairs)
    write_whole(layout.FINDINGS, gallery.page(found, quarantine, images).encode())
    print(f"thumbnails of all findings: {layout.FINDINGS}")
    found.conclude()
    return [f"{sum(finding.passed for finding in found.findings)} of {len(found.findings)} checks passed"]


def validate(
    manifest: pd.DataFrame, quarantine: pd.DataFrame, images_NHWC: np.ndarray, accepted: dict[str, Any] | None,
    config: Validate, docs: Path,
) -> Validation:  # fmt: skip
    """Judge the data by themselves and by the profile of the data set that was `accepted` before, if there is one."""
    if manifest.empty:
        why = "".join(f", first {row.path}: {row.reason}" for row in quarantine.head(1).itertuples())
        raise UserError(f"not one image could be read{why}: quarantine.csv says why for each file")
    pairs = duplicates.find(manifest, images_NHWC, config.max_hash_distance, config.min_similarity)
    images, of_images = compared(manifest, pairs), image_checks(config)
    of_all = dataset_checks(manifest, quarantine, accepted, config)
    facts = pd.DataFrame({check.name: [len(outside) / of] for check, outside, of in of_all})
    tables = {"images": (images, of_images), "dataset": (facts, [check for check, _, _ in of_all])}
    passed = judge(tables, config.critical, docs)

    def finding(check: Bounds, outside: list[str], of: int, rows: list[int]) -> Finding:
        severity = "critical" if check.name in config.critical else "warning"
        return Finding(check.name, check.says, severity, passed[check.name], len(outside), of, outside[:FIRST], rows)

    findings = [finding(*check, []) for check in of_all]
    for check in of_images:
        rows = np.flatnonzero(~images[check.name].between(check.minimum, check.maximum)).tolist()
        findings.append(finding(check, images["path"].iloc[rows].tolist(), len(images), rows))
    return Validation(findings, images, pairs)


def dataset_checks(
    manifest: pd.DataFrame, quarantine: pd.DataFrame, accepted: dict[str, Any] | None, config: Validate
) -> list[tuple[Bounds, list[str], int]]:
    """What is asked of the data set as a whole: bounds of the share that is outside, what is outside, of how many."""
    there, aside = set(manifest["class"]), unreadable(quarantine)["path"].tolist()
    known = set(config.classes) or there | (set(quarantine["class"]) - {""})
    classes = "the classes are those of validate.classes" if config.classes else "every class has a readable image"
    names = pd.Series(sorted(there))  # some may look the same: but for case, outer spaces, form of the letters
    plain = names.map(lambda name: unicodedata.normalize("NFKC", name).strip().casefold())
    confusable = [repr(name) for name in names[plain.duplicated(keep=False)]]
    missing = [f"{name} (no image)" for name in sorted(known - there)]
    unknown = [f"{name} (not expected)" for name in sorted(there - known)]
    most, total = config.max_quarantined, len(manifest) + len(aside)
    checks = [
        (Bounds("known_classes", classes, maximum=0), missing + unknown, len(known | there)),
        (Bounds("class_names", "no two classes look the same by name", maximum=0), confusable, len(there)),
        (Bounds("readable", f"at most {most:.1%} of the files are unreadable", maximum=most), aside, total),
    ]
    if accepted:
        says = f"no measure has moved from the accepted data by more than {config.max_drift:g} (stability index)"
        shifts = drift(accepted, manifest)
        moved = [f"{name} {psi:.2f}" for name, psi in shifts.items() if psi > config.max_drift]
        checks.append((Bounds("drift", says, maximum=0), moved, len(shifts)))
    return checks


def compared(manifest: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """The manifest with a column for each check that it has no measure for, under the name of the check."""
    content, distinct = manifest.groupby("sha256"), ~manifest["sha256"].duplicated()
    per_class = manifest.groupby("class")["path"].transform("size")
    sides = manifest[["width", "height"]]
    side = np.sqrt(sides.prod(axis=1))
    times = side / side.median()
    near, count = pairs[~pairs["exact"]], len(manifest)
    labels, splits = manifest["class"].to_numpy(), manifest["source_split"].to_numpy()
    colourless = manifest["mode"].isin(("1", "L", "LA", "I", "I;16", "F")) | (manifest["colourfulness"] < GREY)
    return manifest.assign(
        class_images=per_class,
        balance=per_class.max() / per_class,
        copies=content["path"].transform("size"),
        one_label=content["class"].transform("nunique"),
        near_duplicates=duplicates.partners(near, count),
        near_one_label=duplicates.partners(near, count, differ=labels),
        leakage=duplicates.partners(near, count, differ=splits) + content["source_split"].transform("nunique") - 1,
        intact=(manifest["note"] != "").astype(int),
        side=sides.min(axis=1),
        aspect=sides.max(axis=1) / sides.min(axis=1),
        size=np.maximum(times, 1 / times),
        brightness_outlier=_deviations(manifest["brightness"], distinct).abs(),
        # Only blur is a fault; and sharpness is a matter of factors, hence the logarithm
        sharpness_outlier=-_deviations(np.log1p(manifest["sharpness"]), distinct).clip(upper=0),
        # Where most images are grey, grey is no fault
        colour=(colourless & (colourless.mean() < 0.5)).astype(int),
    )


def _deviations(values: pd.Series, distinct: pd.Series) -> pd.Series:
    """Distance from the median in robust standard deviations (Iglewicz and Hoaglin 1993), both of distinct images: a
    thousand copies of one file would make outliers of all the others."""
    from_median = values - values[distinct].median()
    spread = float(from_median[distinct].abs().median()) / 0.6745
    return from_median / max(spread, NEGLIGIBLE)


def image_checks(config: Validate) -> list[Bounds]:
    """What is asked of each image; a new check is a line here, its column in `compared` and its name in `CheckName`."""
    (low, high), far, some = config.brightness, config.max_outlier, config.tolerated
    least, most, large = config.min_images_per_class, config.max_imbalance, config.max_size_ratio
    return [
        Bounds("class_images", f"every class has at least {least} images", least),
        Bounds("one_label", "no image has two labels", maximum=1),
        Bounds("near_one_label", "no near-duplicates have two labels", maximum=0),
        Bounds("leakage", "no image is, or nearly so, in two splits of the source", maximum=0),
        Bounds("intact", "no file has a fault that viewers pass over", maximum=0),
        Bounds("copies", "no file is there twice", maximum=1),
        Bounds("near_duplicates", "no image is nearly the same as another", maximum=0),
        Bounds("balance", f"the largest class is at most {most:g} times any other", maximum=most),
        Bounds("side", f"sides are at least {config.min_side} pixels", config.min_side),
        Bounds("aspect", f"sides are within a factor of {config.max_aspect:g}", maximum=config.max_aspect),
        Bounds("size", f"no image is over {large:g} times larger or smaller than the median", maximum=large),
        Bounds("brightness", f"mean brightness lies between {low:g} and {high:g}", low, high, some),
        Bounds("contrast", f"contrast is at least {config.min_contrast:g}", config.min_contrast, tolerated=some),
        Bounds("brightness_outlier", f"brightness is within {far:g} deviations of the others", -inf, far, some),
        Bounds("sharpness_outlier", f"no image is over {far:g} deviations more blurred", -inf, far, some),
        Bounds("colour", "no image is grey among coloured ones", maximum=0, tolerated=some),
    ]
