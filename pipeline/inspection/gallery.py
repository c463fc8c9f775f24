"""One self-contained page of thumbnails: every finding of `validate`, so that a person can judge it by eye."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.artifacts import unreadable
from pipeline.inspection.findings import Finding
from pipeline.pages import render

MOST = 24  # thumbnails, or pairs of them, a finding
NAMED = 100  # files that could not be read
# What stands beside the path of a finding's thumbnail, with columns of `validate.compared`
CAPTIONS = {
    "class_images": "images of the class: {class_images:,}",
    "balance": "{balance:.0f} x fewer than the largest class",
    "intact": "{note}",
    "side": "{side:.0f} pixels",
    "aspect": "{aspect:.1f} : 1",
    "size": "{size:.1f} x the median, or a fraction of it",
    "brightness": "brightness {brightness:.3f}",
    "contrast": "contrast {contrast:.4f}",
    "brightness_outlier": "{brightness_outlier:.1f} deviations",
    "sharpness_outlier": "{sharpness_outlier:.1f} deviations",
    "colour": "colourfulness {colourfulness:.1f}",
}
WORST_FIRST = {"brightness_outlier", "sharpness_outlier", "aspect", "size"}
# Findings about pairs: what the two must differ in, and whether exact copies count
PAIRED = {
    "one_label": ("class", (True,)),
    "near_one_label": ("class", (False,)),
    "leakage": ("source_split", (True, False)),
    "copies": (None, (True,)),
    "near_duplicates": (None, (False,)),
}


def page(
    findings: list[Finding],
    images: pd.DataFrame,
    pairs: pd.DataFrame,
    quarantine: pd.DataFrame,
    pixels_NHWC: np.ndarray,
) -> str:
    """The HTML. `images` and `pairs` as `validate` returns them; the rows of the findings are rows of `images`."""
    sections, aside = [], unreadable(quarantine)
    # Failed before passed, critical before warning
    for finding in sorted(findings, key=lambda finding: (finding.passed, finding.severity)):
        if finding.check in PAIRED:
            shown = _pairs(finding.check, images, pairs)
        else:
            shown = _singles(finding.check, finding.rows, images)
        figures = [
            (caption, images["path"].iloc[rows].tolist(), [thumbnail(pixels_NHWC[row]) for row in rows])
            for caption, rows in shown
        ]
        sections.append({"finding": finding, "names": [] if finding.rows else finding.first, "figures": figures})
    return render(
        "findings.html.j2",
        sections=sections,
        total=len(images),
        quarantine=aside.head(NAMED).to_dict("records"),
        quarantined=len(aside),
    )


def _singles(check: str, rows: list[int], images: pd.DataFrame) -> list[tuple[str, list[int]]]:
    """A caption and the row of each image that is shown."""
    if check in WORST_FIRST:
        rows = sorted(rows, key=lambda row: -images[check].iloc[row])
    return [(CAPTIONS[check].format(**images.iloc[row].to_dict()), [row]) for row in rows[:MOST]]


def _pairs(check: str, images: pd.DataFrame, pairs: pd.DataFrame) -> list[tuple[str, list[int]]]:
    """A caption and the rows of each pair that is shown."""
    column, exact = PAIRED[check]
    chosen = pairs[pairs["exact"].isin(exact)]
    if column is not None:
        values = images[column].to_numpy()
        chosen = chosen[values[chosen["first"]] != values[chosen["second"]]]
    # The doubtful ones last: a person looks at the first
    chosen = chosen.sort_values("similarity", ascending=False, kind="stable").head(MOST)
    return [
        ("the same bytes" if pair.exact else f"similarity {pair.similarity:.3f}", [pair.first, pair.second])
        for pair in chosen.itertuples()
    ]


def thumbnail(pixels_HWC: np.ndarray) -> bytes:
    """A PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels_HWC).save(buffer, "PNG")
    return buffer.getvalue()
