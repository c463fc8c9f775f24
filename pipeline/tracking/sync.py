"""Bringing a run up to date with what the stages left, each thing once."""

import hashlib
from collections.abc import Mapping
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline import layout
from pipeline.artifacts import read_json, read_table, sha256, write_json
from pipeline.config import Params
from pipeline.tracking import runs
from pipeline.tracking.lineage import LOCK, locked, unchanged
from pipeline.tracking.server import attempt, connect, explained

MODEL_STAGES = ("train", "ensemble", "prune", "export", "quantize", "evaluate")


def sync_or_warn(params: Params, model: str) -> None:
    """`sync`, for stages: a server that is down is worth a warning, never the stage."""
    attempt(f"the results of {model}", lambda: sync(connect(), params, model))


@explained()
def sync(client: MlflowClient, params: Params, model: str) -> str:
    """Bring the run of the model's checkpoint up to date with the outputs that were made from it; the run's id."""
    maker = params.weights_stage(model)
    checkpoint = sha256(layout.checkpoint(maker, model))
    lock = LOCK.read_bytes() if LOCK.exists() else b""
    run = _run_of(client, params, model, checkpoint, lock)
    run_id = str(run.info.run_id)
    if model in params.models:  # an ensemble has no epochs
        _send_history(client, run_id, model)
    digest = hashlib.sha256(lock).hexdigest()
    if run.data.tags.get(runs.LOCK_TAG) != digest and _locked(lock, params, model):
        client.log_text(run_id, lock.decode(), f"lineage/{LOCK}")
        client.set_tag(run_id, runs.LOCK_TAG, digest)
    data = runs.data_lineage()
    digest = data.get("lineage.splits.sha256", "")
    trained_on = read_json(layout.lineage(maker, model))["splits"]  # the splits that are there may be new since
    if digest == trained_on and run.data.tags.get("lineage.splits.sha256") != digest:
        runs.send_data(client, params, run_id, data)
    for stage in MODEL_STAGES:
        lineage, folder = layout.lineage(stage, model), layout.folder(stage, model)
        if lineage.exists() and read_json(lineage)["checkpoint"] == checkpoint:
            values = {_named(stage, key): n for key, n in _numbers(read_json(layout.metrics(stage, model))).items()}
            runs.send_once(client, run, stage, runs.digest_of(folder), values, folder)
    if layout.BENCHMARK.exists():
        rows = read_json(layout.BENCHMARK)["variants"]
        timed = {r["variant"]: r for r in rows if r["model"] == model and r["checkpoint"] == checkpoint}
        timed = {_named("benchmark", key): number for key, number in _numbers(timed).items()}
        runs.send_once(client, run, "benchmark", sha256(layout.BENCHMARK), timed)
    return run_id


def _run_of(client: MlflowClient, params: Params, model: str, checkpoint: str, lock: bytes) -> Run:
    """One run a checkpoint: the one that has it, or else that of the training that has just ended, or else a new one,
    where DVC restored the checkpoint from its cache."""
    known = runs.find_run(client, params, f"tags.`{runs.CHECKPOINT_TAG}` = '{checkpoint}' and tags.model = '{model}'")
    memo = runs.run_memo(model)
    noted = runs.read_memo(memo)
    if noted.get("checkpoint") != checkpoint:
        noted = {}
    trained = runs.noted_run(client, params, memo, "checkpoint", checkpoint)
    run = known or trained or runs.create_run(client, params, model, noted or _unknown(params, model, checkpoint, lock))
    run_id = run.info.run_id
    if known is None:
        runs.set_tags(client, run_id, {**noted.get("tags", {}), runs.CHECKPOINT_TAG: checkpoint})
        if noted and trained is None:
            noted["run_id"] = run_id
            write_json(memo, noted)
    if noted.get("run_id") == run_id:
        runs.send_kept(client, run, memo)
    if run.info.status != "FINISHED":
        client.set_terminated(run_id)
    if trained is not None and trained.info.run_id != run_id:  # done again, it came to the same weights
        client.delete_run(trained.info.run_id)
    if noted.get("key"):  # the next training of this key is another one; the rest serves another server
        write_json(memo, noted | {"key": "", "run_id": run_id})
    return run


def _locked(lock: bytes, params: Params, model: str) -> dict[str, dict[str, Any]]:
    maker = params.weights_stage(model)
    return locked(lock, f"{maker}@{model}", layout.checkpoint(maker, model))


def _unknown(params: Params, model: str, checkpoint: str, lock: bytes) -> dict[str, Any]:
    """Of a training that was not noted here: the params that DVC's lock has for it, if they are the present ones."""
    sections = unchanged(_locked(lock, params, model))
    found = runs.run_params(params, model, sections) if sections else {}
    return {"name": f"{model}-{checkpoint[:7]}", "tags": runs.UNKNOWN, "params": found}


def _send_history(client: MlflowClient, run_id: str, model: str) -> None:
    """The epochs of the shipped seed, which comes first, and of each by itself where there are several."""
    seeds = list(read_table(layout.history("train", model)).groupby("seed", sort=False))
    each = [(f"seed_{seed}.", rows) for seed, rows in seeds] if len(seeds) > 1 else []
    for prefix, rows in [("", seeds[0][1]), *each]:
        epochs = rows[["epoch", *runs.EPOCH_METRICS]].to_dict("records")
        runs.send_epochs(client, run_id, prefix, epochs, runs.sent_epochs(client, run_id, prefix))


def _named(stage: str, key: str) -> str:
    """The name of a metric: those of the test split in `test`, and of all that is made of a network in `variants`."""
    if stage in ("train", "ensemble"):
        return runs.metric_name(key)
    return f"test/{key}" if stage == "evaluate" else f"variants/{stage}.{key}"


def _numbers(content: Mapping[str, Any]) -> dict[str, float]:
    """All numbers of nested metrics, by their dotted path."""
    (flat,) = pd.json_normalize(dict(content)).to_dict("records")
    return {str(key): float(value) for key, value in flat.items() if isinstance(value, int | float)}
