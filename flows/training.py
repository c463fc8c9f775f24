"""The training flow: a Prefect task for each DVC stage, then registration and promotion of the model.

    python -m flows.training [--parallel N] [--no-promote]

Two runs in one workspace at the same time do no harm, since each waits for the stages that the other is busy with, but
they may do work twice. The deployment in `prefect.yaml` therefore runs one at a time.
"""

import os
import warnings

from pipeline.proxies import bypass_proxy

if __name__ == "__main__":  # Prefect looks at these as soon as it is imported
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    warnings.filterwarnings("ignore", "Failed to create the Prefect home")  # `main` says it better
    bypass_proxy()  # Prefect's server for this run is on this machine

import logging
import re
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, wait
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, PREFECT_HOME
from prefect.states import Cancelled, Completed, Failed
from pydantic import Field

from flows.graph import find_alone, read_graph, release_dead
from flows.processes import Children, Finished, Stopped, child_environment
from flows.ui import show_results, show_stages, wait_until_recorded
from pipeline.layout import REPORT

ROOT = Path(__file__).resolve().parents[1]
# Another DVC works on the same files. `--wait-for-lock` waits for DVC's bookkeeping only.
BUSY = re.compile(r"ERROR: .*(Unable to acquire lock|is busy, it is being blocked)")
PAUSE = 5.0  # seconds between two looks whether the other one is ready
COMMAND_FAILED = re.compile(r"ERROR: .*exited with (-?\d+)$")


@flow(name="training")
def training(parallel: Annotated[int, Field(ge=1)] = 2, promote: bool = True) -> None:
    """Bring all stages up to date, `parallel` at a time, then register the model and perhaps promote it."""
    verbs = ["register", "promote"] if promote else ["register"]
    run_training(ROOT, parallel, {verb: (sys.executable, "-m", "pipeline", verb) for verb in verbs})


def run_training(root: Path, parallel: int, verbs: Mapping[str, Sequence[str]]) -> None:
    """Inside a flow: run the stages of the DVC project in `root`, then the commands of `verbs`, in order.

    Raises RuntimeError that says which of them failed, and why.
    """
    release_dead(root)
    upstream = read_graph(root)
    # A stage always gets the same number of threads: the same floating-point sums, and outputs that DVC recognizes
    alone = find_alone(upstream) | set(verbs)
    # Side by side in one workspace is safe only if each DVC waits for the lock of the others
    dvc = (sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item")
    commands = {stage: (*dvc, stage) for stage in upstream} | dict(verbs)
    for verb in verbs:
        upstream[verb] = frozenset(upstream)
    children = Children()
    slots = threading.Semaphore(parallel)
    seconds: dict[str, float] = defaultdict(float)

    # The name is the only parameter, because Prefect sends all of them to its server
    @task(task_run_name="{name}", cache_policy=NO_CACHE)
    def stage(name: str) -> State[None]:
        env = child_environment(1 if name in alone else parallel)
        while True:
            with slots:
                started = time.monotonic()
                try:
                    finished = children.run(commands[name], root, env, get_run_logger().info)
                except Stopped as stopped:
                    return Cancelled(message=str(stopped))
                finally:
                    seconds[name] = time.monotonic() - started
            if not any(BUSY.match(line) for line in finished.lines):
                return judge(name, finished)
            get_run_logger().warning("waiting for another process: %s", last_error(finished))
            children.stopping.wait(PAUSE)

    futures: dict[str, PrefectFuture[State[None]]] = {}
    try:
        for name, needed in upstream.items():
            above = [futures[other] for other in needed]
            futures[name] = stage.submit(name, wait_for=above, return_state=False)
        wait(list(futures.values()))
    except BaseException:  # cancelled, by Prefect or by Ctrl-C
        children.stop()
        raise

    states = {name: future.state for name, future in futures.items()}
    show_stages(states, seconds)
    wait_until_recorded(UUID(flow_run.id), states)
    # What failed, not what therefore never became ready. Raised, because a process that only returns it exits with 0.
    failed = {name: state for name, state in states.items() if state.is_final() and not state.is_completed()}
    if failed:
        raise RuntimeError("; ".join(f"{name} failed: {state.message}" for name, state in failed.items()))
    show_results(root)


def judge(name: str, finished: Finished) -> State[None]:
    """The state of a stage whose process has ended. A failure is returned, not raised: no traceback."""
    if finished.code == 0:
        skipped = (f"Stage '{name}' didn't change, skipping", f"Stage '{name}' is cached - skipping run")
        return Completed(name="Cached" if any(line.startswith(skipped) for line in finished.lines) else None)
    return Failed(message=last_error(finished))


def command_code(finished: Finished) -> int:
    """The exit code of the stage's command, which DVC prints, or else of the child."""
    said = [match for line in finished.lines if (match := COMMAND_FAILED.match(line))]
    return int(said[-1][1]) if said else finished.code


def last_error(finished: Finished) -> str:
    """What says best what went wrong: our own error, DVC's, the end of a traceback."""
    code, lines = command_code(finished), finished.lines
    number = -code if code < 0 else code - 128  # a shell says 137 for a command that was killed by signal 9
    if number in set(signal.Signals):
        what = "out of memory?" if number == signal.SIGKILL else "from outside"
        return f"it was killed by {signal.Signals(number).name} ({what})"
    if busy := [i for i, line in enumerate(lines) if BUSY.match(line)]:
        return " ".join(line.strip() for line in lines[busy[-1] :]).removeprefix("ERROR: ")
    ours = [line for line in lines if line.startswith("error: ")]
    dvc = [line for line in lines if line.startswith("ERROR: ")]
    reasons = [line for line in dvc if not COMMAND_FAILED.match(line)]
    rest = [line for line in lines if not line.startswith(("ERROR: ", "> ", "Running stage "))]
    best = [f"exit code {finished.code}", *dvc[-1:], *rest[-1:], *reasons[-1:], *ours[-1:]][-1]
    return best.removeprefix("error: ").removeprefix("ERROR: ")


def main(
    parallel: Annotated[int, typer.Option(min=1, help="Stages at a time.")] = 2,
    promote: Annotated[bool, typer.Option(help="Promote the model, if it beats the champion.")] = True,
) -> None:
    """Bring all stages up to date, then register the model; without `PREFECT_API_URL` on a server just for this run."""
    # Prefect raises the signal again when it has stopped the flow; dying of it would leave its server behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    home = PREFECT_HOME.value()
    try:  # else Prefect's server for this run would time out much later
        if not PREFECT_API_URL.value():
            home.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=home).close()
    except OSError as error:
        sys.exit(f"error: {home} cannot be written ({error.strerror}): set PREFECT_HOME to another folder")
    try:
        training(parallel=parallel, promote=promote)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:  # the top of the program, and Prefect has logged the traceback
        sys.exit(f"error: {' '.join(str(error).split())}")
    finally:
        logging.disable(logging.INFO)  # Prefect's goodbye would come after the lines that matter
    print(f"Report: {ROOT / REPORT}")
    print("MLflow and Prefect: `make ui`, then http://127.0.0.1:5000 and http://127.0.0.1:4200")


if __name__ == "__main__":
    typer.run(main)
