"""Versions of the registered model: which candidate becomes one, what is kept with it, and loading it checked."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from pipeline import layout
from pipeline.artifacts import ModelCard, read_dataset, read_json, read_table, sha256
from pipeline.config import Params, Registry
from pipeline.errors import UserError
from pipeline.evaluation.selection import best_by_validation
from pipeline.inference.predictor import Predictor
from pipeline.preprocessing import Preprocessing
from pipeline.registry import history as log
from pipeline.registry.model_card import model_card
from pipeline.registry.packaging import log_args
from pipeline.tracking.runs import CHECKPOINT_TAG, recorded_lineage
from pipeline.tracking.server import connect, explained
from pipeline.tracking.sync import sync

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
SHA256, CARD = "sha256", "card"  # tags of a version: of its ONNX file, and the file's model card
GOLDEN, MOST_TEXT = 16, 5000  # images that are kept with a version; characters of a description in MLflow
# Without these nobody finds the way back from a version to what made it
LINEAGE = ("lineage.git.commit", "lineage.data.sha256", "lineage.splits.sha256", "lineage.environment.sha256")


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


@dataclass(frozen=True)
class Loaded:
    """A registered version whose ONNX file is the one that was registered: its SHA-256 has been checked."""

    version: str
    file: Path
    tags: Mapping[str, str]
    taught: pd.Series  # SHA-256 of the images that it was trained or chosen on: names may change

    @property
    def size_mb(self) -> float:
        return self.file.stat().st_size / 1e6


class Registered(NamedTuple):
    """`row`: of benchmark.json. `withdrawn`: why the version is not offered, or ""."""

    version: str
    row: dict[str, Any]
    withdrawn: str


@explained()
def register(params: Params) -> Registered:
    """Register the best candidate and give it the alias `challenger`, unless it was withdrawn before. The same file
    is registered once. Raises UserError for a model of other classes or other images than the champion's."""
    rows = read_json(layout.BENCHMARK)["variants"]
    for row in rows:
        checkpoint = layout.checkpoint(params.weights_stage(row["model"]), row["model"])
        if sha256(checkpoint) != row["checkpoint"]:
            raise UserError(f"{layout.BENCHMARK} is not of the present {checkpoint}: run `dvc repro` first")
    client, name = connect(), params.registry.name
    runs = {model: sync(client, params, model) for model in dict.fromkeys(row["model"] for row in rows)}
    best = choose(rows, params.registry)
    path = layout.onnx(best["variant"], best["model"])
    predictor, digest = Predictor(path), sha256(path)
    card = predictor.card
    champion = aliases_of(client, name).get(CHAMPION)
    if champion:
        theirs = card_of(name, client.get_model_version(name, champion))
        expect_same_task(name, champion, theirs, card.class_names, card.preprocessing)
    same = client.search_model_versions(f"name = '{name}' and tags.`{SHA256}` = '{digest}'")
    if same:
        version = str(max(int(each.version) for each in same))
    else:
        version = _new_version(client, params, path, digest, predictor, best, runs[best["model"]])
    withdrawn = log.read(client, name).withdrawn.get(version)
    if withdrawn is None:
        client.set_registered_model_alias(name, CHALLENGER, version)
    return Registered(version, best, str(withdrawn) if withdrawn else "")


def _new_version(
    client: MlflowClient,
    params: Params,
    path: Path,
    digest: str,
    predictor: Predictor,
    row: dict[str, Any],
    run_id: str,
) -> str:
    """With all its tags in one step: a kill before it leaves nothing that looks like a version. What the gate needs
    later is kept in the version itself, as runs get deleted."""
    name, card = params.registry.name, predictor.card
    with tempfile.TemporaryDirectory() as folder:
        golden, described = _golden(predictor, Path(folder) / "golden.npz"), Path(folder) / "model_card.md"
        text = model_card(params, row, card)
        described.write_text(text, encoding="utf-8")
        (scratch := Path(folder) / "scratch").mkdir()
        # Not mlflow.pyfunc.log_model, which would open the run again and so move its end
        made = log_args(path, digest, card, scratch, layout.SPLITS, golden, described)
        info = Model.log(None, mlflow.pyfunc, name="model", run_id=run_id, **made)
    numbers = {key: float(value) for key, value in row.items() if isinstance(value, int | float)}
    now = int(time.time() * 1000)
    metrics = [
        Metric(f"version/{key}", value, now, 0, model_id=info.model_id, run_id=run_id) for key, value in numbers.items()
    ]
    client.log_batch(run_id, metrics=metrics)
    tags = {key: f"{value:.6g}" for key, value in numbers.items()}
    tags |= {"model": row["model"], "variant": row["variant"], CHECKPOINT_TAG: row["checkpoint"]}
    tags |= {SHA256: digest, CARD: card.to_json(), **recorded_lineage(client, run_id)}
    log.create_model(client, name)
    source = f"models:/{info.model_id}"
    made = {"model_id": info.model_id, "description": text[:MOST_TEXT]}
    return str(client.create_model_version(name, source, run_id, tags, **made).version)


def _golden(predictor: Predictor, file: Path) -> Path:
    """Some validation images and what the model makes of them, for whoever loads it: does it still say the same?"""
    images, _ = read_dataset().of("val")
    some = images[:GOLDEN]
    np.savez(file, images_NHWC=some, probabilities=predictor.probabilities(some))
    return file


def aliases_of(client: MlflowClient, name: str) -> dict[str, str]:
    registered = client.search_registered_models(f"name = '{name}'")
    return {alias: str(version) for model in registered for alias, version in model.aliases.items()}


def version_of(client: MlflowClient, name: str, wanted: str) -> ModelVersion:
    """By number or alias. Raises UserError when there is none."""
    try:
        if wanted.isdigit():
            return client.get_model_version(name, wanted)
        return client.get_model_version_by_alias(name, wanted)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise UserError(
            f"{name}@{wanted} is not in the registry at {mlflow.get_tracking_uri()}: see `python -m pipeline registry "
            f"list`; `python -m pipeline register` and `python -m pipeline promote` add to it"
        ) from error


def fetch(client: MlflowClient, name: str, wanted: str, folder: Path) -> Loaded:
    """A version, by number or alias, in a folder. Raises UserError when there is none, or when it is damaged."""
    known = version_of(client, name, wanted)
    try:
        uri = f"models:/{name}/{known.version}"
        local = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder / str(known.version))))
        found = {sha256(file): file for file in local.rglob("*.onnx")}
    except (MlflowException, OSError) as error:
        said = f"version {known.version} of {name} cannot be downloaded ({' '.join(str(error).split())[:150]})"
        raise UserError(f"{said}: is its store there? If its files are gone: `registry rollback`") from error
    if known.tags[SHA256] not in found:
        ways = "`python -m pipeline registry rollback` puts the previous champion back, or restore it from a backup"
        raise UserError(
            f"version {known.version} of {name} is damaged: its ONNX file in {known.source} is not the one that was "
            f"registered: {ways}"
        )
    splits = read_table(next(local.rglob("splits.parquet"), None) or _run_splits(known))
    taught = splits.loc[splits["split"].isin(["train", "val"]), "sha256"]
    return Loaded(str(known.version), found[known.tags[SHA256]], known.tags, taught)


def _run_splits(known: ModelVersion) -> Path:
    """Of a version that was registered before versions kept their splits: those of its run."""
    return Path(mlflow.artifacts.download_artifacts(run_id=known.run_id, artifact_path="data/splits.parquet"))


@explained()
def load(name: str, wanted: str) -> Predictor:
    """A registered model, by version number or alias, whose file is checked. Raises UserError when there is none."""
    client = connect()
    with tempfile.TemporaryDirectory() as folder:
        return Predictor(fetch(client, name, wanted, Path(folder)).file)


def card_of(name: str, known: ModelVersion) -> ModelCard:
    """Versions that were registered before they had the tag have it in their file."""
    return ModelCard.from_json(known.tags[CARD]) if CARD in known.tags else load(name, str(known.version)).card


def expect_same_task(
    name: str, version: str, theirs: ModelCard, class_names: tuple[str, ...], ours: Preprocessing
) -> None:
    """Raises UserError where a version knows other classes, or other images, than the data here."""
    if theirs.class_names != class_names or not theirs.preprocessing.agrees(ours):
        raise UserError(
            f"{name} version {version} knows other classes, or images prepared otherwise ({theirs.preprocessing}, here "
            f"{ours}): keep ingest's settings, or give this dataset a `registry.name` of its own"
        )


def lineage_problems(tags: Mapping[str, str]) -> tuple[str, ...]:
    """A project without git, as in a container, has no commit (`none`): that is known."""
    return tuple(f"{key} is unknown" for key in LINEAGE if tags.get(key, "unknown") == "unknown")
