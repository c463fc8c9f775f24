"""Verbs around the registry: register, promote, predict, track."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import DEFAULT_ARTIFACTS, DEFAULT_PARAMS, Artifacts, ParamsFile
from pipeline.config import load
from pipeline.errors import UserError


def register(artifacts: Artifacts = DEFAULT_ARTIFACTS, params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Register the best candidate that keeps its budgets, as `challenger`."""
    from pipeline.registry import register as run
    from pipeline.tracking import explained

    config = load(params)
    with explained():
        version, row = run(config, artifacts)
    print(
        f"registered {config.registry.name} version {version} as challenger: {row['model']} {row['variant']}, "
        f"validation accuracy {row['val_accuracy']:.2%}, {row['size_mb']:.2f} MB, {row['latency_ms']:.2f} ms"
    )


def promote(artifacts: Artifacts = DEFAULT_ARTIFACTS, params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Make the challenger champion, if it beats the champion on the same test split."""
    from pipeline.artifacts import read_dataset, read_json, read_table
    from pipeline.preprocessing import Preprocessing
    from pipeline.registry import promote as run
    from pipeline.tracking import explained

    config = load(params)
    ingested = artifacts / "ingest"
    dataset = read_dataset(ingested / "images.npy", artifacts / "split" / "splits.parquet")
    if not dataset.splits["sha256"].equals(read_table(ingested / "manifest.parquet")["sha256"]):
        raise UserError(f"the splits in {artifacts} are not of the images there: run `dvc repro` first")
    with explained():
        decision = run(config, dataset, Preprocessing.from_record(read_json(ingested / "preprocessing.json")))
    verb = "promoted: champion is now" if decision.promoted else "not promoted: champion stays"
    print(f"{verb} {config.registry.name} version {decision.champion} ({decision.reason})")


def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    model: Annotated[str, typer.Option(help="An alias or a version of the registered model.")] = "champion",
    params: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Classify image files with the champion."""
    import numpy as np

    from pipeline.image_files import load as load_image
    from pipeline.registry import load as load_model
    from pipeline.tracking import explained

    with explained():
        predictor = load_model(load(params).registry.name, model)
    readable, pixels, errors = [], [], []
    for path in images:
        try:
            pixels.append(load_image(path, predictor.card.preprocessing))
            readable.append(path)
        except ValueError as error:
            errors.append(str(error))
    if readable:
        scores = predictor.probabilities(np.stack(pixels))
        rows = [_ranked(path, row, predictor.card.class_names) for path, row in zip(readable, scores, strict=True)]
        print(json.dumps(rows, indent=2, ensure_ascii=False) if as_json else _table(rows))
    for said in errors:
        print(f"error: {said}", file=sys.stderr)
    if errors:
        raise typer.Exit(1)


def _ranked(path: Path, scores: object, names: tuple[str, ...]) -> dict[str, object]:
    import numpy as np

    values = np.asarray(scores, dtype=np.float64)
    best = np.argsort(-values, kind="stable")[:5]
    top = [{"class": names[i], "confidence": round(float(values[i]), 6)} for i in best]
    return {"image": str(path), **top[0], "top5": top}


def _table(rows: list[dict[str, object]]) -> str:
    lines = [("image", "class", "confidence", "top 5")]
    for row in rows:
        top = row["top5"]
        assert isinstance(top, list)
        ranking = "  ".join(f"{entry['class']} {entry['confidence']:.1%}" for entry in top)
        lines.append((str(row["image"]), str(row["class"]), f"{row['confidence']:.1%}", ranking))
    widths = [max(len(line[i]) for line in lines) for i in range(3)]
    return "\n".join("  ".join([*(line[i].ljust(widths[i]) for i in range(3)), line[3]]) for line in lines)


def track(artifacts: Artifacts = DEFAULT_ARTIFACTS, params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Send to MLflow whatever it has not got yet: after an outage, or when DVC restored stages from its cache."""
    from pipeline.tracking import connect, explained, sync

    config = load(params)
    for model in config.everything:
        if not (artifacts / config.maker(model) / model / "checkpoint.safetensors").exists():
            print(f"{model}: not made yet")
            continue
        with explained():
            run = sync(connect(), config, model, artifacts)
        print(f"{model}: run {run} is up to date")
