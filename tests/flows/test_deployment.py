"""The deployment in `prefect.yaml` works in any folder, with a real server and a real worker."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.request import urlopen
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelling

from tests.conftest import PROJECT
from tests.flows.conftest import add_flows, free_port, wait_until


@contextmanager
def running(command: list[str], cwd: Path, env: dict[str, str]) -> Iterator[None]:
    """A process that runs during the block; asked to end, and killed with its children if it does not."""
    with subprocess.Popen(
        command, cwd=cwd, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:  # Prefect's worker was once seen to ignore SIGTERM
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_the_deployment_runs_and_is_cancelled_as_a_whole(
    toy: Path, edit: Callable[[str, str, str], None], tmp_path: Path
) -> None:
    """Deploy from a fresh copy, run with --watch, look at the tasks; cancel another run, look for orphans."""
    add_flows(toy, "import sys\nprint(sys.argv[1], 'done')\n")
    shutil.copy(PROJECT / "prefect.yaml", toy)
    port = str(free_port())
    api, home = f"http://127.0.0.1:{port}/api", str(tmp_path / "prefect")
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "true", "PREFECT_WORKER_QUERY_SECONDS": "1"}
    env = os.environ | quiet | {"PREFECT_HOME": home, "PREFECT_API_URL": api}
    client = SyncPrefectClient(api=api)
    prefect = [sys.executable, "-m", "prefect"]

    def command(*arguments: str) -> str:
        done = subprocess.run([*prefect, *arguments], check=False, cwd=toy, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def states_of(run: UUID) -> dict[str, str]:
        runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run])))
        return {task_run.name: str(task_run.state_name) for task_run in runs}

    with ExitStack() as stack:
        stack.enter_context(running([*prefect, "server", "start", "--port", port], tmp_path, env))
        wait_until(lambda: client.api_healthcheck() is None)
        command("work-pool", "create", "local", "--type", "process", "--overwrite")
        command("--no-prompt", "deploy", "--all")
        stack.enter_context(
            running([*prefect, "worker", "start", "--pool", "local", "--type", "process"], tmp_path, env)
        )
        output = command("deployment", "run", "training/local", "--watch")
        (run,) = client.read_flow_runs()
        assert str(run.id) in output
        names = ["split", "train@a", "train@b", "compare", "register", "promote"]
        wait_until(lambda: states_of(run.id) == dict.fromkeys(names, "Completed"))

        assert "Completed" in command("deployment", "run", "promotion/local", "--watch", "--param", "verb=verify")

        edit("train.sh", "cat split", "echo $$ >> pids; sleep 1000\ncat split")
        (deployment,) = (each for each in client.read_deployments() if each.concurrency_limit or each.schedules)
        assert [schedule.active for schedule in deployment.schedules] == [False]
        assert deployment.global_concurrency_limit is not None and deployment.global_concurrency_limit.limit == 1
        second = client.create_flow_run_from_deployment(deployment.id)
        pids = toy / "pids"
        wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        client.set_flow_run_state(second.id, Cancelling())
        wait_until(lambda: client.read_flow_run(second.id).state_type == StateType.CANCELLED)
        assert not any(Path("/proc", pid).exists() for pid in pids.read_text().split())
        wait_until(lambda: states_of(second.id)["compare"] in ("NotReady", "Cancelled"))


@pytest.mark.slow
def test_the_page_of_another_port_calls_that_port(tmp_path: Path) -> None:
    """`make ui PREFECT_PORT=...`: what the page is told of its API, by a server that really runs."""
    ports = {"PREFECT_PORT": free_port(), "MLFLOW_PORT": free_port()}
    # The environment counts as built: it is the one that runs this test
    command = ["make", "-f", str(PROJECT / "Makefile"), "-o", ".venv/.ready", "ui"]
    env = os.environ | {"PYTHONPATH": str(PROJECT), "PREFECT_HOME": str(tmp_path / "home"), "MLFLOW_TRACKING_URI": ""}
    said: list[str] = []

    def answered() -> bool:
        try:
            said.append(urlopen(f"http://127.0.0.1:{ports['PREFECT_PORT']}/ui-settings").read().decode())
        except OSError:
            return False
        return True

    with running([*command, *(f"{name}={port}" for name, port in ports.items())], tmp_path, env):
        wait_until(answered, 150)
    assert json.loads(said[0])["api_url"] == f"http://127.0.0.1:{ports['PREFECT_PORT']}/api"
