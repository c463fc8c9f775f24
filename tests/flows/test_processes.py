"""Children print into the log, and never outlive the flow."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flows import processes
from flows.processes import Children, Finished, Stopped, child_environment, read_lines
from tests.conftest import PROJECT
from tests.flows.conftest import is_gone, wait_until

# A child with a child of its own: both must go.
FAMILY = "sh -c 'echo $$; exec sleep 1000'; true"
DEAF_FAMILY = f"trap '' INT TERM; {FAMILY}"


def shell(script: str, on_line: Callable[[str], None] = print) -> Finished:
    return Children().run(["sh", "-c", script], Path("/"), child_environment(1), on_line)


def test_lines_come_while_the_child_runs_and_its_code_at_the_end() -> None:
    """Both streams arrive line by line, each when it is printed."""
    arrivals: list[tuple[str, float]] = []
    finished = shell(
        "echo one; sleep 0.5; echo two >&2; exit 3", lambda line: arrivals.append((line, time.monotonic()))
    )
    assert finished == Finished(3, ("one", "two"))
    assert arrivals[1][1] - arrivals[0][1] > 0.4


def test_a_progress_bar_is_one_line_and_no_password_reaches_the_log() -> None:
    """Of what was rewritten only the last state is kept; empty lines are dropped."""
    said = b"see s3://key:se@cret@host/data\n\n" + b"".join(b"\r %d%%" % n for n in range(101)) + b"\n\xff last\r\n"
    assert list(read_lines(io.BytesIO(said))) == ["see s3://***@host/data", " 100%", "\ufffd last"]


def test_children_run_the_python_that_runs_the_flow() -> None:
    """`python` in a stage's command is found without an activated environment."""
    assert shell("command -v python").lines == (str(Path(sys.executable).parent / "python"),)


def test_a_callback_that_fails_leaves_no_child() -> None:
    """An error of ours ends the child, instead of waiting for it."""
    pids: list[int] = []

    def fail(line: str) -> None:
        pids.append(int(line))
        raise RuntimeError("log is full")

    with pytest.raises(RuntimeError, match="log is full"):
        shell(FAMILY, fail)
    wait_until(lambda: is_gone(pids[0]))


@pytest.mark.parametrize("script", [FAMILY, DEAF_FAMILY])
def test_stop_ends_the_whole_family_and_lets_none_start(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A family that hears SIGINT goes at once, a deaf one by SIGKILL; after that nothing starts."""
    impatient = ((signal.SIGINT, 0.5), (signal.SIGTERM, 0.5), (signal.SIGKILL, 5.0))
    monkeypatch.setattr(processes, "STOP_STEPS", impatient)
    children, pids, errors = Children(), list[int](), list[BaseException]()

    def run() -> None:
        try:
            children.run(["sh", "-c", script], Path("/"), os.environ, lambda line: pids.append(int(line)))
        except Stopped as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: bool(pids))
    children.stop()
    thread.join(timeout=10)
    assert len(errors) == 1
    assert is_gone(pids[0])
    with pytest.raises(Stopped):
        children.run(["true"], Path("/"), os.environ, print)


def test_a_killed_flow_takes_its_children_along(tmp_path: Path) -> None:
    """After SIGKILL, which nobody can handle, the guard ends the family."""
    program = (
        "import os; from pathlib import Path; from flows.processes import Children\n"
        f"Children().run(['sh', '-c', {FAMILY!r}], Path('/'), os.environ, lambda pid: print(pid, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=PROJECT, stdout=subprocess.PIPE, text=True) as flow:
        assert flow.stdout is not None
        pid = int(flow.stdout.readline())
        assert not is_gone(pid)
        flow.kill()
    wait_until(lambda: is_gone(pid))
