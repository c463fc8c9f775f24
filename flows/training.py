"""The training flow: a Prefect task for each DVC stage, then registration and promotion of the model.

    python -m flows.training [--parallel N] [--no-promote]

Two runs in one workspace at the same time do no harm, since DVC serializes its bookkeeping and a stage that the
other run is busy with is waited for, but they may do work twice. The deployment in `prefect.yaml` therefore runs
one at a time.
"""

import os
import warnings

if __name__ == "__main__":  # Prefect looks at these as soon as it is imported
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    warnings.filterwarnings("ignore", "Failed to create the Prefect home")  # `check_home` says it better
    # Prefect's server for this run is on this machine: no proxy can reach it
    if (direct := os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "") != "*":
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = f"{direct},127.0.0.1,localhost,::1".lstrip(",")

import argparse
import logging
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from itertools import chain, repeat
from pathlib import Path
from uuid import UUID

from prefect import Task, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture, wait
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, PREFECT_HOME
from prefect.states import Cancelled, Completed, Failed

from flows.graph import find_alone, find_fresh, keep_to, read_changed, read_graph, release_dead
from flows.processes import Children, Finished, Stopped, child_environment
from flows.ui import show_comparison, show_report, show_stages, wait_until_recorded

ROOT = Path(__file__).resolve().parents[1]
BENCHMARK = Path("artifacts/benchmark/benchmark.json")
REPORT = Path("artifacts/report/report.html")

# Another DVC works on the same files. `--wait-for-lock` waits for DVC's bookkeeping only.
BUSY = re.compile(r"ERROR: .*(Unable to acquire lock|is busy, it is being blocked)")
PAUSES = (2.0, 5.0, 10.0, 30.0)  # seconds between two looks; the last one again and again, as a training takes hours
COMMAND_FAILED = re.compile(r"ERROR: .*exited with (-?\d+)$")


class TrainingFailed(RuntimeError):
    """The message says which stages failed, and why."""


@flow(name="training")
def training(parallel: int = 2, promote: bool = True) -> None:
    """Bring all stages up to date, `parallel` at a time, then register the model and perhaps promote it."""
    verbs = ["register", "promote"] if promote else ["register"]
    run_training(ROOT, parallel, {verb: (sys.executable, "-m", "pipeline", verb) for verb in verbs})


def run_training(root: Path, parallel: int, verbs: Mapping[str, Sequence[str]]) -> None:
    """Inside a flow: run the stages of the DVC project in `root`, then the commands of `verbs`, in order."""
    check_parallel(parallel)
    keep_to(root)
    release_dead(root)
    upstream = read_graph(root)
    fresh = find_fresh(upstream, _changed_stages(root, upstream))
    # By the whole graph, not by what is left to do: a stage always gets the same number of threads, hence the
    # same floating-point sums, hence outputs that DVC recognizes.
    alone = find_alone(upstream) | set(verbs)
    commands = {stage: _repro(stage) for stage in upstream} | dict(verbs)
    for verb in verbs:
        upstream[verb] = frozenset(upstream)
    children = Children()
    slots = threading.Semaphore(parallel)
    seconds: dict[str, float] = {}

    # The name is the only parameter, because Prefect takes the parameters apart and sends them to its server.
    @task(
        task_run_name="{name}",
        retries=3,
        retry_delay_seconds=[2, 5, 10],
        retry_condition_fn=_is_transient,
        cache_policy=NO_CACHE,
    )
    def stage(name: str) -> State[None]:
        if name in fresh:
            return Completed(name="Cached", message="nothing changed")
        env = child_environment({} if name in alone else _thread_share(parallel))
        for pause in chain(PAUSES, repeat(PAUSES[-1])):
            with slots:
                started = time.monotonic()
                try:
                    finished = children.run(commands[name], root, env, get_run_logger().info)
                except Stopped as stopped:
                    return Cancelled(message=str(stopped))
                finally:
                    seconds[name] = time.monotonic() - started
            if not any(BUSY.match(line) for line in finished.lines):
                break
            get_run_logger().warning("waiting for another process: %s", last_error(finished))
            children.pause(pause)
        return judge(name, finished)

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
        raise TrainingFailed("; ".join(f"{name} failed: {state.message}" for name, state in failed.items()))
    show_comparison(root / BENCHMARK)
    show_report(root / REPORT)


def check_parallel(parallel: int) -> None:
    """Refuse a number of stages at a time with which none would ever start."""
    if parallel < 1:
        raise ValueError(f"parallel, the number of stages that run at a time, must be 1 or more: {parallel}")


def check_home() -> None:
    """Refuse a home of Prefect's that cannot be written: its server for this run would time out much later."""
    home = PREFECT_HOME.value()
    try:
        home.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=home).close()
    except OSError as error:
        raise ValueError(f"{home} cannot be written ({error.strerror}): set PREFECT_HOME to another folder") from None


def judge(name: str, finished: Finished) -> State[None]:
    """The state of a stage whose process has ended. A failure is returned, not raised: no traceback."""
    if finished.code == 0:
        skipped = (f"Stage '{name}' didn't change, skipping", f"Stage '{name}' is cached - skipping run")
        return Completed(name="Cached" if any(line.startswith(skipped) for line in finished.lines) else None)
    # Another try may help, says the command itself
    return Failed(name="Transient" if command_code(finished) == os.EX_TEMPFAIL else None, message=last_error(finished))


def command_code(finished: Finished) -> int:
    """The exit code of the stage's command, which DVC prints, or else of the child."""
    said = [match for line in finished.lines if (match := COMMAND_FAILED.match(line))]
    return int(said[-1][1]) if said else finished.code


def last_error(finished: Finished) -> str:
    """What says best what went wrong: mostly one line."""
    code = command_code(finished)
    number = -code if code < 0 else code - 128  # a shell says 137 for a command that was killed by signal 9
    if number in set(signal.Signals):
        what = "out of memory?" if number == signal.SIGKILL else "from outside"
        return f"it was killed by {signal.Signals(number).name} ({what})"
    if busy := [i for i, line in enumerate(finished.lines) if BUSY.match(line)]:
        return " ".join(line.strip() for line in finished.lines[busy[-1] :]).removeprefix("ERROR: ")
    dvc = [line for line in finished.lines if line.startswith("ERROR: ")]
    ours = [line for line in finished.lines if line.startswith("error: ")]
    if not ours and dvc and COMMAND_FAILED.match(dvc[-1]):  # the end of a traceback, say
        ours = [line for line in finished.lines if not line.startswith(("ERROR: ", "> ", "Running stage "))]
    lines = [f"exit code {finished.code}", *finished.lines[-1:], *dvc[-1:], *ours[-1:]]
    return lines[-1].removeprefix("error: ").removeprefix("ERROR: ")


def _is_transient(_: Task[..., object], __: TaskRun, state: State[object]) -> bool:
    return state.name == "Transient"


def _repro(stage: str) -> Sequence[str]:
    # Side by side in one workspace is safe only if each DVC waits for the lock of the others.
    return sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", stage


def _changed_stages(root: Path, upstream: Mapping[str, object]) -> frozenset[str]:
    from dvc.lock import LockError

    try:
        return read_changed(root)
    except LockError as error:
        get_run_logger().warning("Cannot tell what changed, so DVC is asked stage by stage: %s", error)
        return frozenset(upstream)


def _thread_share(parallel: int) -> dict[str, str]:
    # Together, more threads than cores make every stage slower.
    if parallel == 1 or "OMP_NUM_THREADS" in os.environ:
        return {}
    # Linux may give a process, as in a container, fewer cores than there are; macOS cannot tell.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": str(max(1, cores // parallel))}


def main() -> int:
    """Run the flow from a terminal; without `PREFECT_API_URL` Prefect starts a server just for this run."""
    parser = argparse.ArgumentParser(prog="python -m flows.training", description=training.description)
    parser.add_argument("--parallel", type=int, default=2, metavar="N", help="stages at a time (2)")
    parser.add_argument("--no-promote", action="store_true", help="register the model, but do not promote it")
    options = parser.parse_args()
    # Prefect raises the signal again when it has stopped the flow; dying of it would leave its server behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        check_parallel(options.parallel)
        if not PREFECT_API_URL.value():
            check_home()
        training(parallel=options.parallel, promote=not options.no_promote)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:  # the top of the program, and Prefect has logged the traceback
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 1
    finally:
        logging.disable(logging.INFO)  # Prefect's goodbye would come after the lines that matter
    print(f"Report: {ROOT / REPORT}")
    print("MLflow and Prefect: `make ui`, then http://127.0.0.1:5000 and http://127.0.0.1:4200")
    return 0


if __name__ == "__main__":
    sys.exit(main())
