"""The run of a training while it goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.artifacts import sha256, write_json
from pipeline.config import Params
from pipeline.tracking.runs import (
    CHECKPOINT_TAG,
    EPOCH_METRICS,
    create_run,
    log_params,
    recalled,
    remembered,
    sent_steps,
)
from pipeline.tracking.server import connect, forgiving

if TYPE_CHECKING:
    from mlflow import MlflowClient

SYSTEM_SECONDS = 10.0  # between two looks at the machine


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
        with forgiving("the epoch's metrics") as attempt:
            if prefix not in self.sent:
                self.sent[prefix] = sent_steps(self.client, self.run_id, prefix)
            if step not in self.sent[prefix]:  # a killed training may do an epoch again
                metrics = [Metric(prefix + name, float(value), now, step) for name, value in values.items()]
                self.client.log_batch(self.run_id, metrics=metrics)
        self.silent = attempt.failed

    def finished(self, checkpoint: Path, tags: Mapping[str, str]) -> None:
        digest = sha256(checkpoint)
        if self.memo is not None and self.memo.exists():
            write_json(self.memo, recalled(self.memo) | {"checkpoint": digest})  # for `sync`, if the server is away now
        if self.client is None:
            return
        with forgiving("the end of the run"):
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
        with forgiving("the start of the run"):
            client = connect()
            live = LiveRun(client, _reopened(client, memo, key) or _opened(client, params, model, memo, key), memo=memo)
            log_params(client, params, model, live.run_id)
    try:
        with _system_metrics(live):
            yield live
    except BaseException as error:
        _close(live, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    _close(live, "FINISHED")


def _opened(client: MlflowClient, params: Params, model: str, memo: Path | None, key: str) -> str:
    run_id = str(create_run(client, params, model).info.run_id)
    if memo is not None:
        write_json(memo, {"key": key, "run_id": run_id})
    return run_id


def _reopened(client: MlflowClient, memo: Path | None, key: str) -> str:
    """The id of the run that was begun, running again; nothing if there is none, or it was deleted since."""
    run = remembered(client, memo, "key", key)
    if run is None:
        return ""
    client.update_run(run.info.run_id, status="RUNNING")
    return str(run.info.run_id)


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
        with forgiving("the end of the run"):
            live.client.set_terminated(live.run_id, status)
