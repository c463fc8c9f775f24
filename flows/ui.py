"""What a flow run leaves in Prefect's UI: its tables, and where its report is."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

from prefect import get_client, get_run_logger
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State

from pipeline.layout import BENCHMARK, REPORT


def show_stages(states: Mapping[str, State[None]], seconds: Mapping[str, float]) -> None:
    """One row a stage: how it ended, and how long its process ran."""
    rows = [{"stage": name, "state": state.name, "seconds": round(seconds[name], 1)} for name, state in states.items()]
    create_table_artifact(key="stages", table=rows, description="The stages of this run")


def show_results(root: Path) -> None:
    """The benchmark with one row a variant and the first row's keys as columns, and a link to the report."""
    benchmark, report = root / BENCHMARK, root / REPORT
    if benchmark.is_file():
        rows = json.loads(benchmark.read_text(encoding="utf-8"))["variants"]
        table = [{key: row.get(key) for key in rows[0]} for row in rows]
        create_table_artifact(key="model-comparison", table=table, description="The variants of each model")
    if report.is_file():
        # Browsers follow no `file:` link from a web page, so the path stands there to be copied.
        text = f"Open `{report}` in a browser."
        create_link_artifact(key="report", link=report.as_uri(), link_text=report.name, description=text)


def wait_until_recorded(flow_run: UUID, states: Mapping[str, State[None]], patience: float = 10.0) -> None:
    """Let the server write the states down: it lags behind, and one that ends with this process would lose them."""
    expected = {name: state.name for name, state in states.items()}
    of_this_run = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run]))
    deadline = time.monotonic() + patience
    with get_client(sync_client=True) as client:
        while {run.name: run.state_name for run in client.read_task_runs(flow_run_filter=of_this_run)} != expected:
            if time.monotonic() > deadline:
                get_run_logger().warning("Prefect's server has not recorded all stages within %.0f s", patience)
                return
            time.sleep(0.1)
