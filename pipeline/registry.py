"""MLflow's model registry: what may become a challenger, and when a challenger becomes the champion."""

import logging
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import numpy as np
import onnx
import pandas as pd
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from pipeline import layout
from pipeline.artifacts import LEFT_OUT, Dataset, read_json, read_table, sha256
from pipeline.config import Params, Registry
from pipeline.errors import UserError
from pipeline.evaluation.selection import best_by_validation
from pipeline.evaluation.statistics import paired_test
from pipeline.inference.predictor import Predictor
from pipeline.preprocessing import Preprocessing
from pipeline.tracking.runs import CHECKPOINT_TAG, recorded_lineage
from pipeline.tracking.server import connect, explained
from pipeline.tracking.sync import sync

# What a client needs to load the model through MLflow; inferring it would take mlflow seconds
SERVING_PACKAGES = ("mlflow", "numpy", "onnx", "onnxruntime")
CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"


class Decision(NamedTuple):
    """The outcome of a promotion: the champion's version after it, and why."""

    promoted: bool
    champion: str
    reason: str


def choose(rows: list[dict[str, Any]], budgets: Registry) -> dict[str, Any]:
    """The row of benchmark.json with the best validation accuracy among those that keep their budgets.

    The test split has no say here, or its accuracy would not be honest afterwards. Ties go to the smaller file.
    Raises UserError naming what each candidate breaks.
    """
    smallest_first = sorted(rows, key=lambda row: float(row["size_mb"]))
    candidates = {f"{r['model']} {r['variant']}": r for r in smallest_first if r["variant"] in budgets.variants}
    broken = {name: reasons for name, row in candidates.items() if (reasons := _broken(row, budgets))}
    within = {name: row["val_accuracy"] for name, row in candidates.items() if name not in broken}
    if not within:
        reasons = "; ".join(f"{name}: {why}" for name, why in broken.items())
        raise UserError(f"no candidate keeps the budgets of params.yaml: registry ({reasons})")
    return candidates[best_by_validation(within)]


def _broken(row: dict[str, Any], budgets: Registry) -> str:
    accuracy, megabytes, milliseconds = row["val_accuracy"], row["size_mb"], row["latency_ms"]
    reasons = {
        f"validation accuracy {accuracy:.2%} is under {budgets.min_accuracy:.2%}": accuracy < budgets.min_accuracy,
        f"{megabytes:.1f} MB is over {budgets.max_size_mb:g}": megabytes > budgets.max_size_mb,
        f"{milliseconds:.2f} ms is over {budgets.max_latency_ms:g}": milliseconds > budgets.max_latency_ms,
    }
    return " and ".join(reason for reason, applies in reasons.items() if applies)


@explained()
def register(params: Params) -> tuple[str, dict[str, Any]]:
    """Register the best candidate and give it the alias `challenger`; its version and its row of benchmark.json."""
    rows = read_json(layout.BENCHMARK)["variants"]
    for row in rows:
        checkpoint = layout.checkpoint(params.maker(row["model"]), row["model"])
        if sha256(checkpoint) != row["checkpoint"]:
            raise UserError(f"{layout.BENCHMARK} is not of the present {checkpoint}: run `dvc repro` first")
    client = connect()
    runs = {model: sync(client, params, model) for model in dict.fromkeys(row["model"] for row in rows)}
    best = choose(rows, params.registry)
    name, path, run_id = params.registry.name, layout.onnx(best["variant"], best["model"]), runs[best["model"]]
    same = client.search_model_versions(f"name = '{name}' and tags.`sha256` = '{sha256(path)}'")
    version = str(max(int(v.version) for v in same)) if same else _log_version(client, name, path, best, run_id)
    client.set_registered_model_alias(name, CHALLENGER, version)
    return version, best


def _log_version(client: MlflowClient, name: str, path: Path, row: dict[str, Any], run_id: str) -> str:
    card = Predictor(path).card
    side, classes = card.preprocessing.size, len(card.class_names)
    scores = [TensorSpec(np.dtype(np.float32), (-1, classes), output) for output in ("logits", "probabilities")]
    # It warns that an environment made by uv has no pip
    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)
    # Not mlflow.onnx.log_model, which would open the run again and so move its end
    image = TensorSpec(np.dtype(np.uint8), (-1, side, side, 3), "image")
    info = Model.log(
        None, mlflow.onnx, name="model", run_id=run_id, registered_model_name=name,
        metadata={"class_names": list(card.class_names), "preprocessing": card.preprocessing.record()},
        onnx_model=onnx.load(path),
        signature=ModelSignature(Schema([image]), Schema([*scores])),
        pip_requirements=[f"{package}=={installed(package)}" for package in SERVING_PACKAGES],
        onnx_execution_providers=["CPUExecutionProvider"],  # what was tested; else each load warns of a missing GPU
        save_as_external_data=False,  # the default would move the weights out of the one file, and of our copy
    )  # fmt: skip
    version = str(info.registered_model_version)
    tags = {key: f"{value:.6g}" for key, value in row.items() if isinstance(value, int | float)}
    tags |= {"model": row["model"], "variant": row["variant"], CHECKPOINT_TAG: row["checkpoint"]}
    for key, value in (tags | {"sha256": sha256(path)} | recorded_lineage(client, run_id)).items():
        client.set_model_version_tag(name, version, key, value)
    return version


@explained()
def promote(params: Params, dataset: Dataset, preprocessing: Preprocessing) -> Decision:
    """Make the challenger champion if it beats the champion on the same test images; write why either way."""
    client = connect()
    name = params.registry.name
    registered = client.search_registered_models(f"name = '{name}'")
    aliases = {alias: str(version) for model in registered for alias, version in model.aliases.items()}
    challenger, champion = aliases.get(CHALLENGER), aliases.get(CHAMPION)
    if challenger is None:
        raise UserError(f"{name} has no challenger: run `python -m pipeline register` first")
    if challenger == champion:
        return Decision(False, champion, f"version {champion} is challenger and champion already")
    if champion is None:
        decision = Decision(True, challenger, "there was no champion")
    else:
        decision = _compare(client, name, challenger, champion, dataset, preprocessing)
    if decision.promoted:
        if champion is not None:
            client.set_registered_model_alias(name, PREVIOUS, champion)
        client.set_registered_model_alias(name, CHAMPION, challenger)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    verdict = "promoted" if decision.promoted else "refused"
    client.set_model_version_tag(name, challenger, f"promotion.{now}", f"{verdict}: {decision.reason}")
    return decision


def _compare(
    client: MlflowClient, name: str, challenger: str, champion: str, dataset: Dataset, preprocessing: Preprocessing
) -> Decision:
    new, old = load(name, challenger), load(name, champion)
    rows = dataset.rows("test")
    splits = dataset.splits
    for version, predictor in ((champion, old), (challenger, new)):
        card = predictor.card
        if card.class_names != dataset.class_names or not card.preprocessing.agrees(preprocessing):
            raise UserError(
                f"{name} version {version} knows other classes, or images prepared otherwise ({card.preprocessing}, "
                f"here {preprocessing}): keep ingest's settings, or give this dataset a `registry.name` of its own"
            )
        # Other splits than today's: a test image of now, or one that is like it, may have taught this version
        taught = splits[splits["sha256"].isin(_taught(client, name, version))]
        left_out = taught["split"] == LEFT_OUT  # which have no group with test images any more
        known = splits["group"].isin(taught["group"]) | splits["alike"].isin(taught["alike"][left_out])
        rows = rows[~known.to_numpy()[rows]]
    if not len(rows):
        raise UserError(
            f"every test image, or one that is like it, has taught version {challenger} or {champion}: keep split.seed"
        )
    images, labels = dataset.images_NHWC[rows], dataset.labels[rows]
    new_right, old_right = (model.probabilities(images).argmax(axis=1) == labels for model in (new, old))
    p_value = paired_test(new_right, old_right, splits["group"].to_numpy()[rows])
    ours, theirs = float(new_right.mean()), float(old_right.mean())
    scores = f"version {challenger} scores {ours:.2%} and champion version {champion} {theirs:.2%}"
    reason = f"{scores} on {len(labels):,} test images (McNemar p = {p_value:.2g})"
    return Decision(ours > theirs, challenger if ours > theirs else champion, reason)


def _taught(client: MlflowClient, name: str, version: str) -> pd.Series:
    """SHA-256 of the images that a version was trained or chosen on, from the splits in its run: names may change."""
    run_id = client.get_model_version(name, version).run_id
    splits = read_table(Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="data/splits.parquet")))
    return splits.loc[splits["split"].isin(["train", "val"]), "sha256"]


@explained()
def load(name: str, version_or_alias: str) -> Predictor:
    """A registered model, by version number or alias. Raises UserError when there is none."""
    connect()
    uri = f"models:/{name}/{version_or_alias}" if version_or_alias.isdigit() else f"models:/{name}@{version_or_alias}"
    try:
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise UserError(
            f"{uri} is not in the registry at {mlflow.get_tracking_uri()}: run `python -m pipeline register` and "
            f"`python -m pipeline promote` first"
        ) from error
    return Predictor(next(folder.glob("*.onnx")))
