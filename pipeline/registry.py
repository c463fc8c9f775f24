"""MLflow's model registry: what may become a challenger, and when a challenger becomes the champion."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.artifacts import LEFT_OUT, Dataset, read_json, read_table, sha256
from pipeline.config import Params, Registry
from pipeline.errors import UserError
from pipeline.evaluation.metrics import accuracy
from pipeline.evaluation.statistics import paired_test
from pipeline.inference.predictor import Predictor
from pipeline.preprocessing import Preprocessing
from pipeline.tracking import CHECKPOINT_TAG, connect, data_lineage, lineage, sync

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

# What a client needs to load the model through MLflow; inferring it would take mlflow seconds
SERVING_PACKAGES = ("mlflow", "numpy", "onnx", "onnxruntime")
CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"


@dataclass(frozen=True)
class Decision:
    """The outcome of a promotion: the champion's version after it, and why."""

    promoted: bool
    champion: str
    reason: str


def choose(rows: list[dict[str, Any]], budgets: Registry) -> dict[str, Any]:
    """The row of benchmark.json with the best validation accuracy among those that keep their budgets.

    The test split has no say here, or its accuracy would not be honest afterwards. Ties go to the smaller file.
    Raises UserError naming what each candidate breaks.
    """
    broken: dict[str, str] = {}
    kept = []
    for row in rows:
        if row["variant"] not in budgets.variants:
            continue
        over = [
            text
            for breaks, text in (
                (row["val_accuracy"] < budgets.min_accuracy,
                 f"validation accuracy {row['val_accuracy']:.2%} is under {budgets.min_accuracy:.2%}"),
                (row["size_mb"] > budgets.max_size_mb, f"{row['size_mb']:.1f} MB is over {budgets.max_size_mb:g}"),
                (row["latency_ms"] > budgets.max_latency_ms,
                 f"{row['latency_ms']:.2f} ms is over {budgets.max_latency_ms:g}"),
            )
            if breaks
        ]  # fmt: skip
        if over:
            broken[f"{row['model']} {row['variant']}"] = " and ".join(over)
        else:
            kept.append(row)
    if not kept:
        reasons = "; ".join(f"{name}: {why}" for name, why in broken.items())
        raise UserError(f"no candidate keeps the budgets of params.yaml: registry ({reasons})")
    return max(kept, key=lambda row: (row["val_accuracy"], -row["size_mb"]))


def onnx_file(artifacts: Path, row: dict[str, Any]) -> Path:
    stage = "quantize" if "int8" in row["variant"] else "export"
    path: Path = artifacts / stage / row["model"] / f"{row['variant']}.onnx"
    return path


def register(params: Params, artifacts: Path) -> tuple[str, dict[str, Any]]:
    """Register the best candidate and give it the alias `challenger`; its version and its row of benchmark.json."""
    benchmark = artifacts / "benchmark" / "benchmark.json"
    if not benchmark.exists():
        raise UserError(f"{benchmark} does not exist: run `dvc repro` first")
    rows = read_json(benchmark)["variants"]
    for row in rows:
        checkpoint = artifacts / params.maker(row["model"]) / row["model"] / "checkpoint.safetensors"
        if not checkpoint.exists() or sha256(checkpoint) != row["checkpoint"]:
            raise UserError(f"{benchmark} is not of the present {checkpoint}: run `dvc repro` first")
    client = connect()
    runs = {model: sync(client, params, model, artifacts) for model in dict.fromkeys(row["model"] for row in rows)}
    best = choose(rows, params.registry)
    path = onnx_file(artifacts, best)
    name = params.registry.name
    version = _version_of(client, name, sha256(path)) or _log_version(
        client, name, path, best, runs[best["model"]], lineage() | data_lineage(artifacts)
    )
    client.set_registered_model_alias(name, CHALLENGER, version)
    return version, best


def _version_of(client: MlflowClient, name: str, digest: str) -> str | None:
    """The version that holds this very file, if it was registered before."""
    found = client.search_model_versions(f"name = '{name}' and tags.`sha256` = '{digest}'")
    return str(max(int(version.version) for version in found)) if found else None


def _log_version(
    client: MlflowClient, name: str, path: Path, row: dict[str, Any], run_id: str, origin: dict[str, str]
) -> str:
    import mlflow
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    card = Predictor(path).card
    side, classes = card.preprocessing.size, len(card.class_names)
    scores = [TensorSpec(np.dtype(np.float32), (-1, classes), output) for output in ("logits", "probabilities")]
    # It warns that an environment made by uv has no pip
    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)
    ended = client.get_run(run_id).info
    with mlflow.start_run(run_id):
        info = mlflow.onnx.log_model(
            onnx.load(path),
            name="model",
            registered_model_name=name,
            signature=ModelSignature(
                Schema([TensorSpec(np.dtype(np.uint8), (-1, side, side, 3), "image")]), Schema([*scores])
            ),
            metadata={"class_names": list(card.class_names), "preprocessing": card.preprocessing.record()},
            pip_requirements=[f"{package}=={installed(package)}" for package in SERVING_PACKAGES],
            onnx_execution_providers=["CPUExecutionProvider"],  # what was tested; else each load warns of a missing GPU
            save_as_external_data=False,  # the default would move the weights out of the one file, and of our copy
        )
    # Resuming the run moved its end: the training did not take until now
    client.set_terminated(run_id, ended.status, ended.end_time)
    version = str(info.registered_model_version)
    numbers = {key: f"{value:.6g}" for key, value in row.items() if isinstance(value, int | float)}
    tags = {
        "model": row["model"], "variant": row["variant"], "sha256": sha256(path),
        CHECKPOINT_TAG: row["checkpoint"], **numbers, **origin,
    }  # fmt: skip
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, value)
    return version


def promote(params: Params, dataset: Dataset, preprocessing: Preprocessing) -> Decision:
    """Make the challenger champion if it beats the champion on the same test images; write why either way."""
    client = connect()
    name = params.registry.name
    aliases = _aliases(client, name)
    if CHALLENGER not in aliases:
        raise UserError(f"{name} has no challenger: run `python -m pipeline register` first")
    challenger, champion = aliases[CHALLENGER], aliases.get(CHAMPION)
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


def _aliases(client: MlflowClient, name: str) -> dict[str, str]:
    from mlflow.exceptions import MlflowException

    try:
        return {alias: str(v) for alias, v in client.get_registered_model(name).aliases.items()}
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise UserError(f"no model {name!r} is registered: run `python -m pipeline register` first") from None


def _compare(
    client: MlflowClient, name: str, challenger: str, champion: str, dataset: Dataset, preprocessing: Preprocessing
) -> Decision:
    new, old = load(name, challenger), load(name, champion)
    rows = dataset.rows("test")
    splits = dataset.splits
    for version, predictor in ((champion, old), (challenger, new)):
        if predictor.card.class_names != dataset.class_names:
            raise UserError(
                f"{name} version {version} knows other classes than this dataset: "
                f"give this dataset a `registry.name` of its own"
            )
        if not predictor.card.preprocessing.agrees(preprocessing):
            raise UserError(
                f"{name} version {version} takes images prepared as {predictor.card.preprocessing}, this dataset has "
                f"{preprocessing}: keep ingest's size, resize and background and the images' bits, or give it a "
                f"`registry.name` of its own"
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
    by_new, by_old = new.probabilities(images), old.probabilities(images)
    new_right, old_right = (scores.argmax(axis=1) == labels for scores in (by_new, by_old))
    p_value = paired_test(new_right, old_right, splits["group"].to_numpy()[rows])
    ours, theirs = accuracy(by_new, labels), accuracy(by_old, labels)
    scores = (
        f"version {challenger} scores {ours:.2%} and champion version {champion} {theirs:.2%} on {len(labels):,} test "
        f"images (McNemar p = {p_value:.2g})"
    )
    return Decision(ours > theirs, challenger if ours > theirs else champion, scores)


def _taught(client: MlflowClient, name: str, version: str) -> pd.Series:
    """SHA-256 of the images that a version was trained or chosen on, from the splits in its run: names may change."""
    import mlflow

    run_id = client.get_model_version(name, version).run_id
    splits = read_table(Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="data/splits.parquet")))
    if "sha256" not in splits:
        raise UserError(
            f"data/splits.parquet in run {run_id} has no column sha256, so that nobody can tell which test images are "
            f"new to {name} version {version}: train and register it again, or take its alias away"
        )
    return splits.loc[splits["split"].isin(["train", "val"]), "sha256"]


def load(name: str, version_or_alias: str) -> Predictor:
    """A registered model, by version number or alias. Raises UserError when there is none."""
    import mlflow
    from mlflow.exceptions import MlflowException

    connect()
    uri = f"models:/{name}/{version_or_alias}" if version_or_alias.isdigit() else f"models:/{name}@{version_or_alias}"
    try:
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    except MlflowException as error:
        if error.error_code == "INTERNAL_ERROR":  # of the server, or none answers
            raise
        raise UserError(
            f"{uri} is not in the registry at {mlflow.get_tracking_uri()} ({' '.join(str(error).split())[:160]}): "
            f"run `python -m pipeline register` and `python -m pipeline promote` first"
        ) from None
    return Predictor(next(folder.glob("*.onnx")))
