"""Bringing a run up to date with what the stages left, each thing once."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts import LINEAGE, read_json, read_table, sha256
from pipeline.config import Params
from pipeline.tracking.runs import (
    CHECKPOINT_TAG,
    EPOCH_METRICS,
    MEMO,
    create_run,
    data_lineage,
    find_run,
    log_params,
    recalled,
    remembered,
    run_of,
    sent_steps,
)
from pipeline.tracking.server import connect, expect_server, forgiving

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MODEL_STAGES = ("train", "ensemble", "prune", "export", "quantize", "evaluate")
# A run's metrics are read side by side: the headline ones get short names
PREFIX = {"train": "", "ensemble": "", "evaluate": "test_"}


def sync_or_warn(params: Params, model: str, artifacts: Path) -> None:
    """`sync`, for stages: a server that is down is worth a warning, never the stage."""
    with forgiving(f"the results of {model}"):
        expect_server()
        sync(connect(), params, model, artifacts)


def sync(client: MlflowClient, params: Params, model: str, artifacts: Path) -> str:
    """Bring the run of the model's checkpoint up to date with the stages' outputs; the run's id.

    Only outputs that were made from this very checkpoint are sent, each version of them once.
    """
    folder = artifacts / params.maker(model) / model
    checkpoint = sha256(folder / "checkpoint.safetensors")
    memo = artifacts.parent / "resume" / "train" / model / MEMO
    run = (
        _adopted(client, params, model, memo, checkpoint)
        or find_run(client, params, model, checkpoint)
        or _backfilled(client, params, model, checkpoint)
    )
    if model in params.models:  # an ensemble has no epochs
        _send_history(client, run.info.run_id, folder / "history.csv")
    data = data_lineage(artifacts)
    digest = data.get("lineage.splits.sha256", "")
    if digest == read_json(folder / LINEAGE)["splits"]:  # what it was trained on; they may have changed since

        def send() -> None:
            client.log_artifact(run.info.run_id, str(artifacts / "split" / "splits.parquet"), "data")
            for key, value in data.items():
                client.set_tag(run.info.run_id, key, value)

        _log_once(client, run, "recorded.splits", digest, send)
    for stage in MODEL_STAGES:
        _record(client, run, stage, artifacts / stage / model, checkpoint)
    benchmark = artifacts / "benchmark" / "benchmark.json"
    if benchmark.exists():
        rows = [r for r in read_json(benchmark)["variants"] if r["model"] == model and r["checkpoint"] == checkpoint]
        if rows:
            timings = _numbers({r["variant"]: r for r in rows}, "benchmark.")
            digest = sha256(benchmark)
            _log_once(client, run, "recorded.benchmark", digest, lambda: _log_metrics(client, run.info.run_id, timings))
    if recalled(memo).get("checkpoint") == checkpoint:
        memo.unlink()
    return str(run.info.run_id)


def _adopted(client: MlflowClient, params: Params, model: str, memo: Path, checkpoint: str) -> Run | None:
    """The run of a training whose end the server perhaps did not hear of."""
    run = remembered(client, memo, "checkpoint", checkpoint)
    if run is None:
        return None
    known = client.get_run(run_of(client, params, model, checkpoint, run.info.run_id))
    if known.info.status != "FINISHED":
        client.set_terminated(known.info.run_id)
    return known


def _backfilled(client: MlflowClient, params: Params, model: str, checkpoint: str) -> Run:
    """A run for a checkpoint that MLflow does not know; its history follows from the file."""
    run = create_run(client, params, model)
    log_params(client, params, model, run.info.run_id)
    client.set_tag(run.info.run_id, CHECKPOINT_TAG, checkpoint)
    client.set_terminated(run.info.run_id)
    return client.get_run(run.info.run_id)


def _send_history(client: MlflowClient, run_id: str, history: Path) -> None:
    """The epochs that the run has not got yet: of the shipped seed, and of each by itself where there are several."""
    from mlflow.entities import Metric

    table = read_table(history)
    shipped = table[table["seed"] == table["seed"].iloc[0]]
    each = [(f"seed_{seed}.", rows) for seed, rows in table.groupby("seed")] if table["seed"].nunique() > 1 else []
    now = int(time.time() * 1000)
    for prefix, rows in [("", shipped), *each]:
        sent = sent_steps(client, run_id, prefix)
        missing = rows[~rows["epoch"].isin(sent)].to_dict("records")
        for i in range(0, len(missing), 100):  # a request may hold 1,000 metrics
            metrics = [
                Metric(prefix + name, float(row[name]), now, int(row["epoch"]))
                for row in missing[i : i + 100]
                for name in EPOCH_METRICS
            ]
            client.log_batch(run_id, metrics=metrics)


def _record(client: MlflowClient, run: Run, stage: str, folder: Path, checkpoint: str) -> None:
    """Metrics, pictures, tables and models of one stage's output folder."""
    if not (folder / LINEAGE).exists() or read_json(folder / LINEAGE)["checkpoint"] != checkpoint:
        return
    run_id = run.info.run_id

    def send() -> None:
        _log_metrics(client, run_id, _numbers(read_json(folder / "metrics.json"), PREFIX.get(stage, f"{stage}.")))
        client.log_artifacts(run_id, str(folder), stage)

    digest = hashlib.sha256(
        b"".join(bytes.fromhex(sha256(f)) for f in sorted(folder.rglob("*")) if f.is_file())
    ).hexdigest()
    _log_once(client, run, f"recorded.{stage}", digest, send)


def _log_once(client: MlflowClient, run: Run, tag: str, digest: str, send: Callable[[], None]) -> None:
    """Send what has this digest, unless the run's tag says that it is there."""
    if run.data.tags.get(tag) != digest:
        send()
        client.set_tag(run.info.run_id, tag, digest)


def _log_metrics(client: MlflowClient, run_id: str, values: Mapping[str, float]) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    client.log_batch(run_id, metrics=[Metric(name, value, now, 0) for name, value in values.items()])


def _numbers(content: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """All numbers of nested metrics, by their dotted path."""
    numbers: dict[str, float] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            numbers |= _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float):
            numbers[f"{prefix}{key}"] = float(value)
    return numbers
