"""One self-contained page of thumbnails: every finding of `validate`, so that a person can judge it by eye."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined
from PIL import Image

from pipeline.artifacts import data_uri, unreadable
from pipeline.inspection.findings import Finding

TEMPLATE = Path(__file__).parent.parent / "findings.html.j2"
MOST = 24  # thumbnails, or pairs of them, a finding
NAMED = 100  # files that could not be read
# What the caption of a finding's thumbnail gives beside the path: a column and its format
MEASURED = {
    "class_images": ("class_images", "images of the class: {:,}"),
    "balance": ("times_smaller", "{:.0f} x fewer than the largest class"),
    "intact": ("note", "{}"),
    "side": ("short_side", "{:.0f} pixels"),
    "aspect": ("aspect", "{:.1f} : 1"),
    "size": ("size_ratio", "{:.1f} x the median, or a fraction of it"),
    "brightness": ("brightness", "brightness {:.3f}"),
    "contrast": ("contrast", "contrast {:.4f}"),
    "brightness_outlier": ("brightness_outlier", "{:.1f} deviations"),
    "sharpness_outlier": ("sharpness_outlier", "{:.1f} deviations"),
    "colour": ("colourfulness", "colourfulness {:.1f}"),
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


@dataclass(frozen=True)
class Shown:
    """One or two thumbnails with a caption."""

    pictures: list[str]
    paths: list[str]
    says: str


def page(
    findings: list[Finding],
    images: pd.DataFrame,
    pairs: pd.DataFrame,
    quarantine: pd.DataFrame,
    pixels_NHWC: np.ndarray,
) -> str:
    """The HTML. `images` and `pairs` as `validate` returns them; the rows of the findings are rows of `images`."""
    sections, aside = [], unreadable(quarantine)
    for finding in findings:
        if finding.check in PAIRED:
            shown = _pairs(finding.check, images, pairs, pixels_NHWC)
        else:
            shown = _singles(finding.check, finding.rows, images, pixels_NHWC)
        sections.append({"finding": finding, "names": [] if finding.rows else finding.first, "shown": shown})
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        sections=sorted(sections, key=_urgency),
        total=len(images),
        quarantine=aside.head(NAMED).to_dict("records"),
        quarantined=len(aside),
    )


def _urgency(section: dict[str, Any]) -> tuple[bool, str]:
    return section["finding"].passed, section["finding"].severity  # failed before passed, critical before warning


def _singles(check: str, rows: list[int], images: pd.DataFrame, pixels_NHWC: np.ndarray) -> list[Shown]:
    if not rows:
        return []
    column, form = MEASURED[check]
    values = images[column].to_numpy()
    if check in WORST_FIRST:
        rows = sorted(rows, key=lambda row: -values[row])
    return [
        Shown([thumbnail(pixels_NHWC[row])], [images["path"].iloc[row]], form.format(values[row]))
        for row in rows[:MOST]
    ]


def _pairs(check: str, images: pd.DataFrame, pairs: pd.DataFrame, pixels_NHWC: np.ndarray) -> list[Shown]:
    column, exact = PAIRED[check]
    chosen = pairs[pairs["exact"].isin(exact)]
    if column is not None:
        values = images[column].to_numpy()
        chosen = chosen[values[chosen["first"]] != values[chosen["second"]]]
    # The doubtful ones last: a person looks at the first
    chosen = chosen.sort_values("similarity", ascending=False, kind="stable").head(MOST)
    return [
        Shown(
            [thumbnail(pixels_NHWC[pair[row]]) for row in ("first", "second")],
            [pair["first_path"], pair["second_path"]],
            "the same bytes" if pair["exact"] else f"similarity {pair['similarity']:.3f}",
        )
        for pair in chosen.to_dict("records")
    ]


def thumbnail(pixels_HWC: np.ndarray) -> str:
    """A picture as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels_HWC).save(buffer, "PNG")
    return data_uri(buffer.getvalue())
