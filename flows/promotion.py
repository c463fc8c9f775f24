"""The promotion flow: one verb of the registry, as a person would type it, with its lines in the run's log."""

import sys
from pathlib import Path
from typing import Literal

from prefect import flow, get_run_logger

from flows.processes import Children, child_environment
from flows.training import last_error

ROOT = Path(__file__).resolve().parents[1]


@flow(name="promotion", flow_run_name="{verb} {version}")
def promotion(
    verb: Literal["promote", "reject", "rollback", "verify"] = "promote",
    version: str = "",
    reason: str = "",
    force: bool = False,
) -> None:
    """`python -m pipeline registry VERB`: promote the challenger or `version`, reject it, roll back, or verify.

    A challenger that the gate refuses is no failure of the flow. Raises RuntimeError with the verb's own sentence.
    """
    command = [sys.executable, "-m", "pipeline", "registry", verb, *filter(None, [version])]
    command += [*(["--reason", reason] if reason else []), *(["--force"] if force else [])]
    children = Children()
    try:
        finished = children.run(command, ROOT, child_environment(1), get_run_logger().info)
    except BaseException:  # cancelled
        children.stop()
        raise
    if finished.code:
        raise RuntimeError(f"{verb} failed: {last_error(finished)}")
