"""`report`: one self-contained HTML page: every number and picture of this run, readable without a network."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline import layout, pages
from pipeline.artifacts import SPLITS, Dataset, read_dataset, read_json, read_table, unreadable, write_whole
from pipeline.config import Params
from pipeline.diagnosis.rules import findings_of
from pipeline.errors import UserError
from pipeline.evaluation import plots
from pipeline.evaluation.selection import best_by_validation
from pipeline.evaluation.statistics import holm, paired_test

SHOWN_CLASSES, SAMPLES = 10, 12
LEVEL = 0.05  # of the chance of any false alarm among the comparisons


def run(config: Params) -> list[str]:
    """Only the models of params.yaml are read."""
    dataset = read_dataset()
    counts = pd.crosstab(dataset.splits["class"], dataset.splits["split"]).reindex(columns=list(SPLITS), fill_value=0)
    models = [_model(config, name) for name in config.names]
    accuracies = {model["name"]: model["train"]["best_val_accuracy"] for model in models}
    best = best_by_validation(accuracies)
    page = pages.render(
        "report.html.j2",
        params=config,
        layout=layout,
        totals={split: len(dataset.rows(split)) for split in SPLITS},
        left_out=int((~dataset.splits["split"].isin(SPLITS)).sum()),
        classes=dataset.class_names,
        counts_picture=plots.png(plots.class_counts(counts, "Images per class and split"), dpi=100),
        samples_picture=plots.png(_samples(dataset), dpi=100),
        quarantine=unreadable(read_table(layout.QUARANTINE)).to_dict("records"),
        validation=read_json(layout.VALIDATION),
        suspects=read_table(layout.SUSPECTS).to_dict("records"),
        stats=read_json(layout.NORM_STATS),
        models=models,
        audited_accuracy=max(accuracies[name] for name in config.models),
        best=best,
        differences=differences(best, {name: read_table(layout.predictions(name)) for name in config.names}),
        benchmark=read_json(layout.BENCHMARK),
    )
    write_whole(layout.REPORT, page.encode())
    return [f"{layout.REPORT} ({len(page) / 1e6:.1f} MB)"]


def _model(params: Params, name: str) -> dict[str, Any]:
    """What made a model and how its training went, where it is no ensemble, and what it is worth."""
    made = read_json(layout.metrics(params.weights_stage(name), name))
    model = {
        "name": name,
        "train": made,
        "test": read_json(layout.metrics("evaluate", name)),
        "per_class": read_table(layout.per_class(name)).to_dict("records"),
    }
    if name in params.ensembles:
        return model | {"members": params.ensembles[name].members, "prune": made["prune"]}
    recipe, examined = params.recipe(name), read_json(layout.examined(name))
    history = read_table(layout.history("train", name))
    return model | {
        "members": [],
        "architecture": params.models[name].architecture,
        "recipe": recipe,
        "prune": read_json(layout.metrics("prune", name)),
        "examined": examined,
        # The remedies change keys of a training by gradients
        "findings": findings_of(history, recipe, examined) if made["by_gradients"] else [],
        "seeds": read_table(layout.tested_seeds(name)).to_dict("records"),
    }


def differences(reference: str, tested: dict[str, pd.DataFrame]) -> dict[str, tuple[str, float]]:
    """Of every other model's test accuracy to the `reference`'s: a verdict, and its p-value (with Holm's correction).
    `tested` are predictions.parquet by model.

    The reference is chosen by validation: the best on the test split would be partly the luckiest there.
    """
    right = {name: (table["label"] == table["predicted"]).to_numpy() for name, table in tested.items()}
    for name, table in tested.items():
        if not table["sha256"].equals(tested[reference]["sha256"]):
            raise UserError(f"{name} and {reference} were tested on other images: run `dvc repro` first")
    others = [name for name in tested if name != reference]
    p_values = [paired_test(right[name], right[reference], tested[name]["group"].to_numpy()) for name in others]
    verdicts = {}
    for name, p_value in zip(others, holm(p_values), strict=True):
        proven = "better" if right[name].sum() > right[reference].sum() else "worse"
        verdicts[name] = (proven if p_value < LEVEL else "no proven difference", p_value)
    return verdicts


def _samples(dataset: Dataset) -> Figure:
    """A row of training images per class."""
    rows, chosen = dataset.rows("train"), []
    names = dataset.class_names[:SHOWN_CLASSES]
    for label in range(len(names)):
        of_class = rows[dataset.labels[rows] == label]
        chosen.append(of_class[np.linspace(0, len(of_class) - 1, SAMPLES).astype(int)])
    captions = [plots.label(name) for name in names for _ in range(SAMPLES)]
    return plots.image_grid(dataset.images_NHWC[np.concatenate(chosen)], captions, SAMPLES, "Training images", side=0.8)
