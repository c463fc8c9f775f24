"""`report`: one self-contained HTML page: every number and picture of this run, readable without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from pipeline.artifacts import SPLITS, Dataset, data_uri, read_dataset, read_json, read_table, unreadable
from pipeline.config import Params
from pipeline.diagnosis.rules import findings_of
from pipeline.errors import UserError
from pipeline.evaluation import plots
from pipeline.evaluation.statistics import holm, paired_test

TEMPLATE = Path(__file__).parent.parent / "report.html.j2"
PICTURES = ("confusion", "reliability", "mistakes")
SHOWN_CLASSES, SAMPLES, SUSPECTS = 10, 12, 100
LEVEL = 0.05  # of the chance of any false alarm among the comparisons


def render(params: Params, artifacts: Path) -> str:
    """The page. `artifacts` is the folder of the stages' outputs; only the models of params.yaml are read."""
    dataset = read_dataset(artifacts / "ingest" / "images.npy", artifacts / "split" / "splits.parquet")
    quarantine = unreadable(read_table(artifacts / "ingest" / "quarantine.csv"))
    benchmark = read_json(artifacts / "benchmark" / "benchmark.json")
    models = [_model(params, artifacts, name, benchmark["variants"]) for name in params.everything]
    best = max(models, key=lambda model: model["train"]["best_val_accuracy"])["name"]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "percent": lambda share: f"{share:.2%}",
        "thousands": lambda n: f"{n:,}",
        "p_value": lambda p: f"= {p:.3f}" if p >= 0.001 else "< 0.001",
    }
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        params=params,
        counts=_counts(dataset),
        totals={split: len(dataset.rows(split)) for split in SPLITS},
        left_out=int((~dataset.splits["split"].isin(SPLITS)).sum()),
        classes=dataset.class_names,
        counts_picture=_embedded(plots.class_counts(_counts(dataset), "Images per class and split")),
        samples_picture=_embedded(_samples(dataset)),
        quarantine=quarantine.head(20).to_dict("records"),
        quarantined=len(quarantine),
        validation=read_json(artifacts / "validate" / "validation.json"),
        suspects=read_table(artifacts / "audit" / "suspects.csv").head(SUSPECTS).to_dict("records"),
        suspected=len(read_table(artifacts / "audit" / "suspects.csv")),
        suspects_picture=_file(artifacts / "audit" / "suspects.png"),
        preview_picture=_file(artifacts / "augment" / "preview.png"),
        stats=read_json(artifacts / "augment" / "norm_stats.json"),
        models=models,
        audited_accuracy=max(model["train"]["best_val_accuracy"] for model in models if model["name"] in params.models),
        best=best,
        differences=differences(best, {name: artifacts / "evaluate" / name for name in params.everything}),
        benchmark=benchmark,
        pareto_picture=_file(artifacts / "benchmark" / "pareto.png"),
    )


def _model(params: Params, artifacts: Path, name: str, variants: list[dict[str, Any]]) -> dict[str, Any]:
    tested = artifacts / "evaluate" / name
    return {
        "name": name,
        **_made(params, artifacts, name),
        "test": read_json(tested / "metrics.json"),
        "per_class": read_table(tested / "per_class.csv").to_dict("records"),
        "variants": [row for row in variants if row["model"] == name],
        **{picture: _file(tested / f"{picture}.png") for picture in PICTURES},
    }


def _made(params: Params, artifacts: Path, name: str) -> dict[str, Any]:
    """What made a model, and how its training went; an ensemble has `members` in place of a recipe."""
    made = read_json(artifacts / params.maker(name) / name / "metrics.json")
    if name in params.ensembles:
        return {"members": params.ensembles[name].members, "train": made, "prune": made["prune"]}
    tested, trained = artifacts / "evaluate" / name, artifacts / "train" / name
    recipe, examined = params.recipe(name), read_json(trained / "examined.json")
    # The remedies of all findings turn keys of a training by gradients
    history = read_table(trained / "history.csv")
    return {
        "members": [],
        "architecture": params.models[name].architecture,
        "recipe": recipe,
        "train": made,
        "prune": read_json(artifacts / "prune" / name / "metrics.json"),
        "examined": examined,
        "findings": findings_of(history, recipe, examined) if made["by_gradients"] else [],
        "seeds": read_table(tested / "seeds.csv").to_dict("records"),
        "curves": _file(tested / "curves.png"),
    }


def differences(reference: str, tested: dict[str, Path]) -> dict[str, tuple[str, float]]:
    """Of every other model's test accuracy to the `reference`'s: a verdict, and its p-value (exact paired test on the
    same images, alike ones as one; Holm's correction for all of them). `tested` are folders of `evaluate` by model.

    The reference is chosen by validation: the best on the test split would be partly the luckiest there.
    """
    tables = {name: read_table(folder / "predictions.parquet") for name, folder in tested.items()}
    right = {name: (table["label"] == table["predicted"]).to_numpy() for name, table in tables.items()}
    for name, table in tables.items():
        if not table["sha256"].equals(tables[reference]["sha256"]):
            raise UserError(f"{name} and {reference} were tested on other images: run `dvc repro` first")
    others = [name for name in tested if name != reference]
    tests = [paired_test(right[name], right[reference], tables[name]["group"].to_numpy()) for name in others]
    verdicts = {}
    for name, test, p_value in zip(others, tests, holm([test.p_value for test in tests]), strict=True):
        direction = "better" if test.only_first > test.only_second else "worse"
        verdicts[name] = (direction if p_value < LEVEL else "no proven difference", p_value)
    return verdicts


def _counts(dataset: Dataset) -> pd.DataFrame:
    table = pd.crosstab(dataset.splits["class"], dataset.splits["split"])
    return table.reindex(columns=list(SPLITS), fill_value=0)


def _samples(dataset: Dataset) -> Figure:
    """A row of training images per class."""
    rows = dataset.rows("train")
    chosen: list[int] = []
    captions: list[str] = []
    for label, name in enumerate(dataset.class_names[:SHOWN_CLASSES]):
        of_class = rows[dataset.labels[rows] == label]
        picked = of_class[np.linspace(0, len(of_class) - 1, SAMPLES).astype(int)]
        chosen += picked.tolist()
        captions += [plots.label(name)] * SAMPLES
    return plots.image_grid(dataset.images_NHWC[chosen], captions, SAMPLES, "Training images", side=0.8)


def _embedded(figure: Figure) -> str:
    return data_uri(plots.png(figure, dpi=100))


def _file(path: Path) -> str:
    return data_uri(path.read_bytes())
