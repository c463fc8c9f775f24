"""One self-contained page of thumbnails: every finding of `validate`, so that a person can judge it by eye."""

import io

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.artifacts import unreadable
from pipeline.inspection.expectations import Finding, Validation
from pipeline.pages import render

MOST, NAMED = 24, 100  # thumbnails, or pairs of them, a finding; files that could not be read
SHOWN = {"intact": "note", "colour": "colourfulness"}  # beside a thumbnail, where it is not the check's own column
WORST_FIRST = {"brightness_outlier", "sharpness_outlier", "aspect", "size"}
# Findings about pairs: what the two must differ in, and whether exact copies count
PAIRED = {
    "one_label": ("class", (True,)),
    "near_one_label": ("class", (False,)),
    "leakage": ("source_split", (True, False)),
    "copies": (None, (True,)),
    "near_duplicates": (None, (False,)),
}


def page(found: Validation, quarantine: pd.DataFrame, pixels_NHWC: np.ndarray) -> str:
    """The HTML. `pixels_NHWC` are the images of the manifest."""
    sections, aside, paths = [], unreadable(quarantine), found.images["path"]
    # Failed before passed, critical before warning
    for finding in sorted(found.findings, key=lambda finding: (finding.passed, finding.severity)):
        shown = _pairs(finding, found) if finding.check in PAIRED else _singles(finding, found.images)
        figures = [(text, paths.iloc[rows], [_png(pixels_NHWC[row]) for row in rows]) for text, rows in shown]
        sections.append({"finding": finding, "figures": figures})
    named = aside.head(NAMED).to_dict("records")
    return render("findings.html.j2", sections=sections, total=len(paths), quarantine=named, quarantined=len(aside))


def _singles(finding: Finding, images: pd.DataFrame) -> list[tuple[str, list[int]]]:
    """A caption and the row of each image that is shown."""
    if not finding.rows:
        return []
    values = images[SHOWN.get(finding.check, finding.check)]
    rows = sorted(finding.rows, key=lambda row: -values.iloc[row]) if finding.check in WORST_FIRST else finding.rows
    texts = [value if isinstance(value, str) else f"{values.name} {value:.4g}" for value in values.iloc[rows[:MOST]]]
    return [(text, [row]) for text, row in zip(texts, rows, strict=False)]


def _pairs(finding: Finding, found: Validation) -> list[tuple[str, list[int]]]:
    """A caption and the rows of each pair that is shown."""
    column, exact = PAIRED[finding.check]
    chosen = found.pairs[found.pairs["exact"].isin(exact)]
    if column is not None:
        values = found.images[column].to_numpy()
        chosen = chosen[values[chosen["first"]] != values[chosen["second"]]]
    # The doubtful ones last: a person looks at the first
    chosen = chosen.sort_values("similarity", ascending=False, kind="stable").head(MOST)
    return [
        ("the same bytes" if exact else f"similarity {similarity:.3f}", [first, second])
        for first, second, similarity, exact, *_ in chosen.itertuples(index=False)
    ]


def _png(pixels_HWC: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels_HWC).save(buffer, "PNG")
    return buffer.getvalue()
