"""`predict`: image files in, classes out."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.table import table
from pipeline.config import load


def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    model: Annotated[str, typer.Option(help="An alias or a version of the registered model.")] = "champion",
) -> None:
    """Classify image files with the champion."""
    import numpy as np

    from pipeline.errors import UserError
    from pipeline.image_files import load as load_image
    from pipeline.registry.versions import load as load_version

    predictor = load_version(load().registry.name, model)
    readable, pixels, refused = [], [], []
    for path in images:
        try:
            pixels.append(load_image(path, predictor.card.preprocessing))
            readable.append(path)
        except UserError as error:
            refused.append(str(error))
    if readable:
        rows = []
        for path, scores in zip(readable, predictor.probabilities(np.stack(pixels)), strict=True):
            best = (-scores).argsort(kind="stable")[:5]
            top = [{"class": predictor.card.class_names[i], "confidence": round(float(scores[i]), 6)} for i in best]
            rows.append({"image": str(path), **top[0], "top5": top})
        lines = [("image", "class", "confidence", "top 5"), *map(_line, rows)]
        print(json.dumps(rows, indent=2, ensure_ascii=False) if as_json else table(lines))
    for said in refused:
        print(f"error: {said}", file=sys.stderr)
    if refused:
        raise typer.Exit(1)


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    ranking = "  ".join(f"{entry['class']} {entry['confidence']:.1%}" for entry in row["top5"])
    return row["image"], row["class"], f"{row['confidence']:.1%}", ranking
