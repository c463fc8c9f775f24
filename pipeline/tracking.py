"""The only module that speaks to MLflow's tracking server (registry.py: to its registry).

One run per trained model, found by content: the run carries the SHA-256 of its checkpoint as a tag. Whatever is
sent twice is there once, and what a stage could not send, because the server was down or because DVC restored the
stage from its cache, the next call of `sync` sends.
"""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from pipeline.artifacts import LINEAGE, read_json, read_table, sha256, write_json
from pipeline.config import Params

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

CHECKPOINT_TAG = "checkpoint.sha256"
MEMO = "run.json"  # of a training that is not over, or that the server does not know the end of
MODEL_STAGES = ("train", "ensemble", "prune", "export", "quantize", "evaluate")
# A run's metrics are read side by side: the headline ones get short names
PREFIX = {"train": "", "ensemble": "", "evaluate": "test_"}
EPOCH_METRICS = (
    "learning_rate", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "gradient_norm", "gradient_norm_max",
)  # fmt: skip
SENT_MARK = "val_accuracy"  # an epoch that has it has all
SYSTEM_SECONDS = 10.0  # between two looks at the machine


def connect() -> MlflowClient:
    """A client of MLFLOW_TRACKING_URI, or of the embedded default: `mlflow.db` and `mlruns/` in the current folder."""
    uri = os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{Path('mlflow.db').resolve()}")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # The defaults retry for minutes; training must not wait for a server that is down
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    import mlflow

    mlflow.set_tracking_uri(uri)
    if not uri.startswith("sqlite:///"):
        return mlflow.MlflowClient(uri)
    # The client opens the store, and several that open a fresh one at once crash in its migrations: one at a time
    with FileLock(uri.removeprefix("sqlite:///") + ".lock"):
        return mlflow.MlflowClient(uri)


def experiment_id(client: MlflowClient, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        local = client.tracking_uri.startswith("sqlite:///")
        try:
            return str(client.create_experiment(name, Path("mlruns").resolve().as_uri() if local else None))
        except MlflowException:  # another process was quicker
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise ValueError(f"the MLflow experiment {name!r} is deleted: restore it, or set another `experiment`")
    return str(found.experiment_id)


@dataclass
class LiveRun:
    """What a training run says while it goes on. After the first epoch that could not be sent it sends no more of
    them, so that training does not wait for each: `sync` mends. Without a client there is no run at all."""

    client: MlflowClient | None
    run_id: str = ""
    silent: bool = False
    memo: Path | None = None
    sent: dict[str, set[int]] = field(default_factory=dict)

    def epoch(self, row: Mapping[str, float], cost: Mapping[str, float], prefix: str = "") -> None:
        """`prefix` stands before the names of the metrics, for one of several seeds."""
        if self.client is None or self.silent:
            return
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        step = int(row["epoch"])
        values = {name: row[name] for name in EPOCH_METRICS} | dict(cost)
        with _forgiving("the epoch's metrics") as attempt:
            if prefix not in self.sent:
                self.sent[prefix] = _sent_steps(self.client, self.run_id, prefix)
            if step not in self.sent[prefix]:  # a killed training may do an epoch again
                metrics = [Metric(prefix + name, float(value), now, step) for name, value in values.items()]
                self.client.log_batch(self.run_id, metrics=metrics)
        self.silent = attempt.failed

    def finished(self, checkpoint: Path, tags: Mapping[str, str]) -> None:
        digest = sha256(checkpoint)
        if self.memo is not None and self.memo.exists():
            _remember(self.memo, _recalled(self.memo) | {"checkpoint": digest})  # for `sync`, if the server is away now
        if self.client is None:
            return
        with _forgiving("the end of the run"):
            for key, value in {**tags, CHECKPOINT_TAG: digest}.items():
                self.client.set_tag(self.run_id, key, value)


@contextmanager
def live_run(
    params: Params, model: str, memo: Path | None = None, key: str = "", wanted: bool = True
) -> Iterator[LiveRun]:
    """A run of `model` that is open while the block runs, and marked FAILED or KILLED if it ends badly.

    Its id is kept in the file `memo`, and a training of the same `key` that goes on later goes on in the same run. Not
    `wanted`: no run, for the processes of a team that do not lead it.
    """
    live = LiveRun(None, memo=memo)
    if wanted:
        with _forgiving("the start of the run"):
            client = connect()
            live = LiveRun(client, _reopened(client, memo, key) or _opened(client, params, model, memo, key), memo=memo)
            _log_params(client, params, model, live.run_id)
    try:
        with _system_metrics(live):
            yield live
    except BaseException as error:
        _close(live, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    _close(live, "FINISHED")


def _opened(client: MlflowClient, params: Params, model: str, memo: Path | None, key: str) -> str:
    run_id = str(_create_run(client, params, model).info.run_id)
    if memo is not None:
        _remember(memo, {"key": key, "run_id": run_id})
    return run_id


def _reopened(client: MlflowClient, memo: Path | None, key: str) -> str:
    """The id of the run that was begun, running again; nothing if there is none, or it was deleted since."""
    run = _remembered(client, memo, "key", key)
    if run is None:
        return ""
    client.update_run(run.info.run_id, status="RUNNING")
    return str(run.info.run_id)


def _adopted(client: MlflowClient, memo: Path, checkpoint: str) -> Run | None:
    """The run of a training whose end the server did not hear of."""
    run = _remembered(client, memo, "checkpoint", checkpoint)
    if run is None:
        return None
    client.set_tag(run.info.run_id, CHECKPOINT_TAG, checkpoint)
    client.set_terminated(run.info.run_id)
    return client.get_run(run.info.run_id)


def _remembered(client: MlflowClient, memo: Path | None, field: str, value: str) -> Run | None:
    """The run in the memo, if `field` of the memo has this value and the server knows the run."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

    known = _recalled(memo) if memo is not None else {}
    if known.get(field) != value:
        return None
    try:
        run = client.get_run(known["run_id"])
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        return None
    return None if run.info.lifecycle_stage == "deleted" else run


def _remember(memo: Path, content: Mapping[str, str]) -> None:
    """Replaced as a whole: a kill leaves the old memo or the new one."""
    new = memo.with_suffix(".new")
    write_json(new, content)
    new.replace(memo)


def _recalled(memo: Path) -> dict[str, str]:
    return dict(read_json(memo)) if memo.exists() else {}


@contextmanager
def _system_metrics(live: LiveRun) -> Iterator[None]:
    """CPU, memory, disk, network and GPUs of this machine, in the run's `System metrics`, by a thread of MLflow."""
    if live.client is None:
        yield
        return
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)  # it says that there is no GPU, each time
    monitor = SystemMetricsMonitor(
        live.run_id, sampling_interval=SYSTEM_SECONDS, samples_before_logging=1, resume_logging=True
    )
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def _close(live: LiveRun, status: str) -> None:
    if live.client is not None:
        with _forgiving("the end of the run"):
            live.client.set_terminated(live.run_id, status)


def sync_or_warn(params: Params, model: str, artifacts: Path) -> None:
    """`sync`, for stages: a server that is down is worth a warning, never the stage."""
    with _forgiving(f"the results of {model}"):
        sync(connect(), params, model, artifacts)


def sync(client: MlflowClient, params: Params, model: str, artifacts: Path) -> str:
    """Bring the run of the model's checkpoint up to date with the stages' outputs; the run's id.

    Only outputs that were made from this very checkpoint are sent, each version of them once.
    """
    folder = artifacts / params.maker(model) / model
    checkpoint = sha256(folder / "checkpoint.safetensors")
    memo = artifacts.parent / "resume" / "train" / model / MEMO
    run = (
        find_run(client, params, model, checkpoint)
        or _adopted(client, memo, checkpoint)
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
    if _recalled(memo).get("checkpoint") == checkpoint:
        memo.unlink()
    return str(run.info.run_id)


def find_run(client: MlflowClient, params: Params, model: str, checkpoint: str) -> Run | None:
    """The newest run of this model that made this checkpoint."""
    where = f"tags.`{CHECKPOINT_TAG}` = '{checkpoint}' and tags.model = '{model}'"
    runs = client.search_runs([experiment_id(client, params.experiment)], where, max_results=1)
    return runs[0] if runs else None


def lineage() -> dict[str, str]:
    """Where a result comes from: code, environment and DVC's lock."""
    commit = _git("rev-parse", "HEAD")
    tags = {"git.commit": commit or "none", "git.dirty": str(bool(_git("status", "--porcelain"))).lower()}
    for tag, name in (("dvc_lock.sha256", "dvc.lock"), ("environment.sha256", "requirements.lock")):
        if Path(name).exists():
            tags[tag] = sha256(Path(name))
    return {f"lineage.{key}": value for key, value in tags.items()}


def data_lineage(artifacts: Path) -> dict[str, str]:
    """The data: a hash of the manifest, which holds the hash of every image, and one of the splits."""
    files = {"data": artifacts / "ingest" / "manifest.parquet", "splits": artifacts / "split" / "splits.parquet"}
    return {f"lineage.{name}.sha256": sha256(path) for name, path in files.items() if path.exists()}


def _git(*arguments: str) -> str:
    result = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else ""


def _create_run(client: MlflowClient, params: Params, model: str) -> Run:
    architecture = _own_params(params, model)["architecture"]
    return client.create_run(
        experiment_id(client, params.experiment),
        run_name=model,
        tags={"model": model, "architecture": architecture, "mlflow.source.name": "dvc repro", **lineage()},
    )


def _log_params(client: MlflowClient, params: Params, model: str, run_id: str) -> None:
    """The recipe under its plain names, everything else under its section's; what is there already changes nothing."""
    from mlflow.entities import Param

    values = _own_params(params, model)
    for section, content in params.model_dump(by_alias=True, exclude={"models", "ensembles", "train"}).items():
        values |= {f"{section}.{k}": v for k, v in content.items()} if isinstance(content, dict) else {section: content}
    client.log_batch(run_id, params=[Param(key, str(value)) for key, value in values.items()])


def _own_params(params: Params, model: str) -> dict[str, Any]:
    """What made a model: its architecture with its options and its recipe, or, of an ensemble, its members."""
    if model in params.ensembles:
        return {"architecture": "ensemble", "members": ", ".join(params.ensembles[model].members)}
    entry = params.models[model]
    options = {f"options.{key}": value for key, value in entry.options.items()}
    return {"architecture": entry.architecture, **options, **params.recipe(model).model_dump()}


def _backfilled(client: MlflowClient, params: Params, model: str, checkpoint: str) -> Run:
    """A run for a checkpoint that MLflow does not know; its history follows from the file."""
    run = _create_run(client, params, model)
    _log_params(client, params, model, run.info.run_id)
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
        sent = _sent_steps(client, run_id, prefix)
        missing = rows[~rows["epoch"].isin(sent)].to_dict("records")
        for i in range(0, len(missing), 100):  # a request may hold 1,000 metrics
            metrics = [
                Metric(prefix + name, float(row[name]), now, int(row["epoch"]))
                for row in missing[i : i + 100]
                for name in EPOCH_METRICS
            ]
            client.log_batch(run_id, metrics=metrics)


def _sent_steps(client: MlflowClient, run_id: str, prefix: str) -> set[int]:
    return {metric.step for metric in client.get_metric_history(run_id, prefix + SENT_MARK)}


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


class _Attempt:
    failed = False


@contextmanager
def _forgiving(what: str) -> Iterator[_Attempt]:
    """Tracking never kills training: a failure to send is said once, in a sentence, and `sync` sends it later."""
    attempt = _Attempt()
    try:
        with explained():
            yield attempt
    except ValueError as error:
        attempt.failed = True
        print(f"warning: {what} not sent: {error}; `python -m pipeline track` sends it later", file=sys.stderr)


@contextmanager
def explained() -> Iterator[None]:
    """What goes wrong between us and MLflow becomes a ValueError with one sentence."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        raise ValueError(f"MLflow at {uri} failed: {reason}") from error
