"""The run of a training while it goes on."""

import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from pipeline.artifacts import write_json
from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.tracking import runs
from pipeline.tracking.lineage import device_name, machine
from pipeline.tracking.server import AWAY_SECONDS, attempt, connect

SYSTEM_SECONDS = 10.0  # between two looks at the machine
SHARE, LONGEST = 0.01, 600.0  # of the time of training that epochs may cost, as far as a pause of so many seconds goes


@dataclass
class LiveRun:
    """What a training run says while it goes on. Epochs that could not be sent wait for another try some time later,
    so that training does not wait for a server that is away; what is left at the end is for `sync`."""

    params: Params
    model: str
    memo: Path
    key: str
    client: MlflowClient | None = None  # none yet: the server was away from the start
    run_id: str = ""
    again: float = 0.0  # no try before this time
    pause: float = 0.0  # nor an epoch before this one: short ones are sent together
    unsent: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    sent: dict[str, set[int]] = field(default_factory=dict)  # what the server had before this process

    def send(self, what: str) -> None:
        """Open the run, if it is not yet, and send the epochs that wait."""
        if time.monotonic() >= self.again and not attempt(what, self._send):
            self.again = time.monotonic() + AWAY_SECONDS
            self.sent.clear()  # what failed may have arrived

    def _send(self) -> None:
        if self.client is None:
            client = connect()
            run = runs.noted_run(client, self.params, self.memo, "key", self.key)
            if run is None:
                noted = runs.read_memo(self.memo)
                run = runs.create_run(client, self.params, self.model, noted)
                write_json(self.memo, noted | {"run_id": run.info.run_id})
            else:
                client.update_run(run.info.run_id, status="RUNNING")
            self.client, self.run_id = client, run.info.run_id
            runs.send_kept(client, run, self.memo)
        for prefix, rows in self.unsent.items():
            if prefix not in self.sent:
                self.sent[prefix] = runs.sent_epochs(self.client, self.run_id, prefix)
            runs.send_epochs(self.client, self.run_id, prefix, rows, self.sent[prefix])
            rows.clear()

    def epoch(self, row: Mapping[str, float], cost: Mapping[str, float], prefix: str = "") -> None:
        """`prefix` stands before the names of the metrics, for one of several seeds."""
        values = {name: row[name] for name in ("epoch", *runs.EPOCH_METRICS)} | dict(cost)
        self.unsent.setdefault(prefix, []).append(values)
        if (start := time.monotonic()) >= self.pause:
            self.send("the epoch's metrics")
            self.pause = start + min((time.monotonic() - start) / SHARE, LONGEST)

    def finished(self, checkpoint: Path, tags: Mapping[str, str]) -> None:
        """`sync` finds the run by the memo, and gives it the tag of its checkpoint. `tags`: device, precision."""
        tags = {**tags, "lineage.device": device_name(tags.get("device", "unknown"))}
        tags = runs.note_end(self.memo, checkpoint, tags | {"lineage.threads": machine()["threads"]})
        if client := self.client:
            attempt("the end of the run", lambda: runs.set_tags(client, self.run_id, tags))


@contextmanager
def live_run(params: Params, model: str, key: str, is_main: bool = True) -> Iterator[LiveRun]:
    """A run that is open while the block runs, and marked FAILED or KILLED if it ends badly; a training of the same
    `key` goes on in it. Of a distributed training only the main process tells MLflow."""
    live = LiveRun(params, model, runs.run_memo(model), key, again=0.0 if is_main else math.inf)
    if not is_main:
        yield live
        return
    with _only_one(live, patient=params.recipe(model).processes == 1):
        runs.note_training(params, model, live.memo, key)
        live.send("the start of the run")
        monitor = _system_metrics(live.run_id) if live.client else None
        status = "FINISHED"
        try:
            yield live
        except BaseException as error:
            status = "FAILED" if isinstance(error, Exception) else "KILLED"
            raise
        finally:
            if monitor and time.monotonic() >= live.again:  # else its thread may hang in a call to the server
                monitor.finish()
            if client := live.client:
                if any(live.unsent.values()):
                    live.send("the last epochs")
                attempt("the end of the run", lambda: client.set_terminated(live.run_id, status))


def _only_one(live: LiveRun, patient: bool) -> AbstractContextManager[object]:
    """A DVC that is killed by itself leaves its training, which would share the next one's run. The main one of several
    processes is not `patient`, as the others would give up on it: it raises UserError."""
    live.memo.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{live.memo}.lock")
    with suppress(Timeout):
        return lock.acquire(timeout=0)
    if not patient:
        raise UserError(f"another training of {live.model} goes on: wait for its end, or stop it")
    print(f"another training of {live.model} goes on: waiting for it to end", file=sys.stderr, flush=True)
    return lock.acquire()


def _system_metrics(run_id: str) -> SystemMetricsMonitor:
    """CPU, memory, disk, network and GPUs of this machine, in the run's `System metrics`, by a thread of MLflow."""
    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)  # it says that there is no GPU, each time
    monitor = SystemMetricsMonitor(run_id, SYSTEM_SECONDS, samples_before_logging=1, resume_logging=True)
    monitor.start()
    return monitor
