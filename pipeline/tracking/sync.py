"""Bringing a run up to date with what the stages left, each thing once."""

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Run

from pipeline import layout
from pipeline.artifacts import read_json, read_table, sha256
from pipeline.config import Params
from pipeline.tracking import runs
from pipeline.tracking.server import attempt, connect, explained

MODEL_STAGES = ("train", "ensemble", "prune", "export", "quantize", "evaluate")
# A run's metrics are read side by side: the headline ones get short names
PREFIX = {"train": "", "ensemble": "", "evaluate": "test_"}


def sync_or_warn(params: Params, model: str) -> None:
    """`sync`, for stages: a server that is down is worth a warning, never the stage."""
    attempt(f"the results of {model}", lambda: sync(connect(), params, model))


@explained()
def sync(client: MlflowClient, params: Params, model: str) -> str:
    """Bring the run of the model's checkpoint up to date with the outputs that were made from it; the run's id."""
    maker = params.weights_stage(model)
    checkpoint = sha256(layout.checkpoint(maker, model))
    run = _run_of(client, params, model, checkpoint)
    run_id = str(run.info.run_id)
    if model in params.models:  # an ensemble has no epochs
        _send_history(client, run_id, model)
    data = runs.data_lineage()
    digest = data.get("lineage.splits.sha256", "")
    trained_on = read_json(layout.lineage(maker, model))["splits"]  # the splits that are there may be new since
    if digest == trained_on and run.data.tags.get("lineage.splits.sha256") != digest:
        client.log_artifact(run_id, str(layout.SPLITS), "data")
        for key, value in data.items():
            client.set_tag(run_id, key, value)
    for stage in MODEL_STAGES:
        lineage, folder = layout.lineage(stage, model), layout.folder(stage, model)
        if lineage.exists() and read_json(lineage)["checkpoint"] == checkpoint:
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            digest = hashlib.sha256(b"".join(bytes.fromhex(sha256(path)) for path in files)).hexdigest()
            values = _numbers(read_json(layout.metrics(stage, model)), PREFIX.get(stage, f"{stage}."))
            _send_once(client, run, stage, digest, values, folder)
    if layout.BENCHMARK.exists():
        rows = read_json(layout.BENCHMARK)["variants"]
        timings = {r["variant"]: r for r in rows if r["model"] == model and r["checkpoint"] == checkpoint}
        _send_once(client, run, "benchmark", sha256(layout.BENCHMARK), _numbers(timings, "benchmark."))
    return run_id


def _run_of(client: MlflowClient, params: Params, model: str, checkpoint: str) -> Run:
    """One run a checkpoint: the one that has it, or else that of the training that has just ended, or else a new one,
    where DVC restored the checkpoint from its cache."""
    known = runs.find_run(client, params, f"tags.`{runs.CHECKPOINT_TAG}` = '{checkpoint}' and tags.model = '{model}'")
    memo = runs.run_memo(model)
    trained = runs.noted_run(client, params, memo, "checkpoint", checkpoint)
    run = known or trained or runs.create_run(client, params, model)
    if known is None:
        client.set_tag(run.info.run_id, runs.CHECKPOINT_TAG, checkpoint)
    if run.info.status != "FINISHED":
        client.set_terminated(run.info.run_id)
    if trained is not None:
        if trained.info.run_id != run.info.run_id:  # it was done again, and came to the same weights
            client.delete_run(trained.info.run_id)
        memo.unlink()
    return run


def _send_history(client: MlflowClient, run_id: str, model: str) -> None:
    """The epochs of the shipped seed, which comes first, and of each by itself where there are several."""
    seeds = list(read_table(layout.history("train", model)).groupby("seed", sort=False))
    each = [(f"seed_{seed}.", rows) for seed, rows in seeds] if len(seeds) > 1 else []
    for prefix, rows in [("", seeds[0][1]), *each]:
        epochs = rows[["epoch", *runs.EPOCH_METRICS]].to_dict("records")
        runs.send_epochs(client, run_id, prefix, epochs, runs.sent_epochs(client, run_id, prefix))


def _send_once(
    client: MlflowClient, run: Run, what: str, digest: str, values: Mapping[str, float], folder: Path | None = None
) -> None:
    """Metrics, and the pictures, tables and models of a folder, unless the run's tag says that these are there."""
    tag = f"recorded.{what}"
    if run.data.tags.get(tag) != digest:
        now = int(time.time() * 1000)
        client.log_batch(run.info.run_id, metrics=[Metric(name, value, now, 0) for name, value in values.items()])
        if folder is not None:
            client.log_artifacts(run.info.run_id, str(folder), what)
        client.set_tag(run.info.run_id, tag, digest)


def _numbers(content: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """All numbers of nested metrics, by their dotted path."""
    (flat,) = pd.json_normalize(dict(content)).to_dict("records")
    return {f"{prefix}{key}": float(value) for key, value in flat.items() if isinstance(value, int | float)}
