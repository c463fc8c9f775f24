"""The run of a training while it goes on."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from pipeline.artifacts import sha256, write_json
from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.tracking.runs import (
    EPOCH_METRICS,
    create_run,
    log_params,
    recalled,
    remembered,
    run_of,
    sent_steps,
)
from pipeline.tracking.server import AWAY_SECONDS, connect, expect_server, forgiving

if TYPE_CHECKING:
    from mlflow import MlflowClient

SYSTEM_SECONDS = 10.0  # between two looks at the machine


@dataclass
class LiveRun:
    """What a training run says while it goes on. Epochs that could not be sent wait for another try some time later,
    so that training does not wait for a server that is away; what is left at the end is for `sync`."""

    params: Params
    model: str
    memo: Path | None
    key: str
    client: MlflowClient | None = None  # none yet: the server was away from the start
    run_id: str = ""
    again: float = 0.0  # no try before this time
    unsent: dict[str, list[tuple[int, int, dict[str, float]]]] = field(default_factory=dict)
    sent: dict[str, set[int]] = field(default_factory=dict)

    def send(self, what: str) -> None:
        """Open the run, if it is not yet, and send what waits."""
        if time.monotonic() < self.again:
            return
        from mlflow.entities import Metric

        with forgiving(what) as attempt:
            expect_server()
            if self.client is None:
                client = connect()
                self.run_id = _reopened(client, self.memo, self.key) or self._new_run(client)
                log_params(client, self.params, self.model, self.run_id)
                self.client = client
            for prefix, epochs in self.unsent.items():
                if prefix not in self.sent:
                    self.sent[prefix] = sent_steps(self.client, self.run_id, prefix)
                while epochs:
                    step, now, values = epochs[0]
                    if step not in self.sent[prefix]:  # a killed training may do an epoch again
                        metrics = [Metric(prefix + name, float(value), now, step) for name, value in values.items()]
                        self.client.log_batch(self.run_id, metrics=metrics)
                    del epochs[0]
        if attempt.failed:
            self.again = time.monotonic() + AWAY_SECONDS
            self.sent.clear()  # what failed may have arrived

    def epoch(self, row: Mapping[str, float], cost: Mapping[str, float], prefix: str = "") -> None:
        """`prefix` stands before the names of the metrics, for one of several seeds."""
        values = {name: row[name] for name in EPOCH_METRICS} | dict(cost)
        self.unsent.setdefault(prefix, []).append((int(row["epoch"]), int(time.time() * 1000), values))
        self.send("the epoch's metrics")

    def _new_run(self, client: MlflowClient) -> str:
        run_id = str(create_run(client, self.params, self.model).info.run_id)
        if self.memo is not None:
            write_json(self.memo, {"key": self.key, "run_id": run_id})
        return run_id

    def finished(self, checkpoint: Path, tags: Mapping[str, str]) -> None:
        digest = sha256(checkpoint)
        if self.memo is not None and self.memo.exists():
            write_json(self.memo, recalled(self.memo) | {"checkpoint": digest})  # for `sync`, if the server is away now
        if self.client is None:
            return
        with forgiving("the end of the run"):
            expect_server()
            for key, value in tags.items():
                self.client.set_tag(self.run_id, key, value)
            if run_of(self.client, self.params, self.model, digest, self.run_id) != self.run_id:
                self.client = None  # there is nothing to close

    def close(self, status: str) -> None:
        if self.client is not None:
            with forgiving("the end of the run"):
                expect_server()
                self.client.set_terminated(self.run_id, status)


@contextmanager
def live_run(
    params: Params, model: str, memo: Path | None = None, key: str = "", wanted: bool = True
) -> Iterator[LiveRun]:
    """A run of `model` that is open while the block runs, and marked FAILED or KILLED if it ends badly.

    Its id is kept in the file `memo`, and a training of the same `key` that goes on later goes on in the same run. Not
    `wanted`: no run, for the processes of a team that do not lead it.
    """
    live = LiveRun(params, model, memo, key, again=0.0 if wanted else math.inf)
    with _only_one(memo if wanted else None, model, patient=params.recipe(model).processes == 1):
        live.send("the start of the run")
        try:
            with _system_metrics(live):
                yield live
        except BaseException as error:
            live.close("FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        live.close("FINISHED")


@contextmanager
def _only_one(memo: Path | None, model: str, patient: bool) -> Iterator[None]:
    """A DVC that is killed by itself leaves its training, which ends some time, and would share the next one's run.

    The leader of several processes is not `patient`, as the others would give up on it: it raises UserError.
    """
    if memo is None:
        yield
        return
    memo.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(memo.with_name(f"{memo.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not patient:
            raise UserError(f"another training of {model} goes on: wait for its end, or stop it") from None
        print(f"another training of {model} goes on: waiting for it to end", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


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
        if time.monotonic() >= live.again:  # else its thread may hang in a call to the server
            monitor.finish()
