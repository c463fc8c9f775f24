"""The flow runs the stages as DVC would, side by side, and says what it did."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.artifacts import Artifact
from prefect.settings import PREFECT_API_URL

from flows.processes import Finished
from flows.training import last_error, run_training
from tests.flows.conftest import add_flows, is_gone, wait_until

pytestmark = pytest.mark.usefixtures("prefect_server")
Edit = Callable[[str, str, str], None]
VERBS = {"register": ["echo", "registered"], "promote": ["sh", "-c", "ls comparison.txt > promoted"]}


@flow
def toy_flow(root: Path, parallel: int, verbs: Mapping[str, Sequence[str]]) -> None:
    """The training flow, on another project."""
    run_training(root, parallel, verbs)


def run(root: Path, parallel: int = 2, verbs: Mapping[str, Sequence[str]] = VERBS) -> dict[str, str]:
    toy_flow(root, parallel, verbs)
    return shown()


def shown() -> dict[str, str]:
    """The states of the stages, as the newest table in the UI has them."""
    return {row["stage"]: row["state"] for row in json.loads(newest("stages"))}


def newest(key: str) -> str:
    artifact: Any = Artifact.get(key)
    assert artifact is not None
    return str(artifact.data)


def dvc_repro(root: Path) -> str:
    command = [sys.executable, "-m", "dvc", "repro"]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


def states(split: str, a: str, b: str, compare: str, verbs: str = "Completed") -> dict[str, str]:
    return {"split": split, "train@a": a, "train@b": b, "compare": compare} | dict.fromkeys(VERBS, verbs)


def test_flow_runs_what_is_stale_and_agrees_with_dvc(toy: Path, edit: Edit) -> None:
    """All runs, then nothing; a parameter reruns what needs it; DVC and the flow accept each other."""
    ran, cached = "Completed", "Cached"
    assert run(toy) == states(ran, ran, ran, ran)
    assert (toy / "promoted").read_text() == "comparison.txt\n"  # the verbs come last, in the project's folder
    assert dvc_repro(toy).count("didn't change, skipping") == 5  # with the data
    edit("params.yaml", "rate: 1", "rate: 3")
    assert run(toy) == states(cached, ran, cached, ran)
    assert dvc_repro(toy).count("didn't change, skipping") == 5
    edit("params.yaml", "rate: 3", "rate: 4")
    dvc_repro(toy)
    edit("params.yaml", "rate: 4", "rate: 3")
    (toy / "comparison.txt").unlink()
    assert run(toy) == states(cached, cached, cached, cached)  # restored, since DVC knows these results


def test_independent_stages_run_side_by_side_on_their_share_of_the_cores(
    toy: Path, edit: Edit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each training waits to meet the other, which works only if both run at the same time."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    meeting = 'touch "here_$1"; for i in $(seq 200); do [ -e here_a -a -e here_b ] && break; sleep 0.05; done\n'
    edit("train.sh", "cat split", f"{meeting}[ -e here_a -a -e here_b ] || exit 1\ncat split")
    edit("dvc.yaml", "cat source.txt", "echo \\${OMP_NUM_THREADS:-all} > threads_split; cat source.txt")
    run(toy, parallel=2)
    assert {(toy / f"threads_{stage}").read_text().strip() for stage in "ab"} == {"4"}
    assert (toy / "threads_split").read_text().strip() == "all"  # nothing can run beside it


def test_a_failure_stops_what_needs_it_and_nothing_else(toy: Path, edit: Edit) -> None:
    """The other branch goes on to its end, and the flow fails with the command's own sentence."""
    refuse = '[ "$1" = b ] || { echo "error: the rate is too high" >&2; exit 1; }; sleep 1'
    edit("train.sh", "cat split", f"{refuse}\ncat split")
    with pytest.raises(RuntimeError, match=r"^train@a failed: the rate is too high$"):
        run(toy)
    assert shown() == states("Completed", "Failed", "Completed", "NotReady", "NotReady")
    assert not (toy / "promoted").exists()


def test_one_stage_at_a_time(toy: Path, edit: Edit) -> None:
    """With parallel=1 trainings never overlap and have all cores; what fails is not tried again."""
    edit("train.sh", "cat split", 'mkdir alone || exit 1; sleep 0.3; rmdir alone\necho "$1" >> tries\ncat split')
    verbs = {"register": ["sh", "-c", "echo register >> tries; exit 1"]}
    with pytest.raises(RuntimeError, match=r"^register failed: exit code 1$"):
        run(toy, parallel=1, verbs=verbs)
    assert sorted((toy / "tries").read_text().split()) == ["a", "b", "register"]
    assert (toy / "threads_a").read_text().strip() == "all"


def test_a_stopped_flow_ends_its_stages_and_starts_none(toy: Path, edit: Edit) -> None:
    """Ctrl-C ends the running trainings with all their processes, cleanly enough for DVC to go on."""
    edit("train.sh", "cat split", "echo $$ >> pids; sleep 1000\ncat split")
    pids = toy / "pids"

    def interrupt() -> None:
        wait_until(pids.exists)
        os.kill(os.getpid(), signal.SIGINT)

    previous = signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in a background job
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            toy_flow(toy, 1, VERBS)
    finally:
        signal.signal(signal.SIGINT, previous)
    (pid,) = pids.read_text().split()  # the other training did not start
    assert not Path("/proc", pid).exists()
    edit("train.sh", "sleep 1000", "")
    assert "Running stage 'compare'" in dvc_repro(toy)


def test_results_are_shown_in_the_ui(toy: Path) -> None:
    """The benchmark's rows become a table, and the report a link."""
    (toy / "artifacts/benchmark").mkdir(parents=True)
    (toy / "artifacts/report").mkdir()
    (toy / "artifacts/benchmark/benchmark.json").write_text('{"variants": [{"name": "a", "size": 1}, {"name": "b"}]}')
    (toy / "artifacts/report/report.html").touch()
    (toy / "dvc.yaml").write_text("stages: {greet: {cmd: echo hello}}")
    assert run(toy, verbs={}) == {"greet": "Completed"}
    assert json.loads(newest("model-comparison")) == [{"name": "a", "size": 1}, {"name": "b", "size": None}]
    assert f"{toy}/artifacts/report/report.html" in newest("report")


@pytest.mark.slow
def test_from_a_terminal_errors_are_one_line_and_success_says_where_to_look(toy: Path, tmp_path: Path) -> None:
    """`python -m flows.training` needs no server, and its exit code tells how it went."""
    add_flows(toy, "import os\nraise SystemExit('error: no model, ' + os.environ['NO_PROXY'])\n")

    def terminal(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows.training", *arguments]
        return subprocess.run(command, check=False, cwd=toy, env=os.environ | env, capture_output=True, text=True)

    refused = terminal("--parallel", "0")
    assert refused.returncode == 2 and "--parallel" in refused.stderr
    (tmp_path / "file").touch()
    homeless = terminal("--no-promote", PREFECT_HOME=str(tmp_path / "file" / "prefect"))
    assert homeless.returncode == 1 and "set PREFECT_HOME" in homeless.stderr
    assert homeless.stderr.count("\n") == 1
    dead = "http://127.0.0.1:9"  # a proxy would not find this machine's own server
    proxies = {"http_proxy": dead, "HTTP_PROXY": dead, "ALL_PROXY": dead, "no_proxy": "", "NO_PROXY": "example.org"}
    bad = terminal("--no-promote", PREFECT_HOME=str(tmp_path / "prefect"), **proxies)
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr.splitlines()[-1] == "error: register failed: no model, example.org,127.0.0.1,localhost,::1"
    (toy / "pipeline" / "__main__.py").write_text("import sys\nprint(sys.argv[1], 'done')\n")
    good = terminal("--no-promote", PREFECT_API_URL=str(PREFECT_API_URL.value()))
    assert good.returncode == 0, good.stderr
    assert "register done" in good.stderr and "promote done" not in good.stderr
    assert str(toy / "artifacts/report/report.html") in good.stdout


EXITED = "ERROR: failed to reproduce 'x': failed to run: python x, exited with"
BUSY = ("ERROR: '/p/model_a.txt' is busy, it is being blocked by:", "  (PID 7): dvc repro train@a", "If there are no")


@pytest.mark.parametrize(
    ("code", "lines", "error"),
    [
        (255, ["Running stage 'x':", "> python x", "error: bad rate", "bye", f"{EXITED} 1"], "bad rate"),
        (255, ["> python x", "Traceback", "KeyError: 'y'", f"{EXITED} 1"], "KeyError: 'y'"),
        (255, ["WARNING: slow", "ERROR: failed to reproduce 'x': missing data"], "missing data"),
        (255, ["> false", "ERROR: failed to run: false, exited with 1"], "failed to run: false, exited with 1"),
        (255, [], "exit code 255"),
        (255, ["val accuracy 0.9", f"{EXITED} -9"], "SIGKILL"),
        (255, ["val accuracy 0.9", f"{EXITED} 137"], "SIGKILL"),  # told by a shell
        (255, ["Running", *BUSY], "(PID 7): dvc repro train@a"),  # DVC's sentence goes over several lines
    ],
)
def test_the_line_that_says_most_is_reported(code: int, lines: list[str], error: str) -> None:
    """A signal, or who holds a lock; then our own error, DVC's reason, the last line of the command."""
    assert error in last_error(Finished(code, tuple(lines)))


@pytest.mark.parametrize("victim", ["$(cut -d' ' -f6 /proc/$$/stat)", "$PPID"], ids=["dvc", "its-shell"])
def test_a_killed_dvc_is_the_reason_and_its_training_stops(
    toy: Path, edit: Edit, victim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's OOM killer may choose DVC: the flow names the signal, and no training goes on unseen."""
    monkeypatch.setenv("SHELL", "/bin/sh")  # which stays between DVC and its command; bash gives its place to it
    kill = f"kill -KILL {victim}; sleep 1000"
    edit("train.sh", "cat split", f"echo $$ > pid; {kill}\ncat split")
    with pytest.raises(RuntimeError, match="SIGKILL"):
        run(toy, parallel=1)
    wait_until(lambda: is_gone(int((toy / "pid").read_text())))
    edit("train.sh", kill, "")
    assert "Running stage 'compare'" in dvc_repro(toy)


def test_a_stage_that_another_dvc_runs_is_waited_for(
    toy: Path, edit: Edit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As long as it takes: more tries than Prefect makes; and it is said whom the flow waits for."""
    monkeypatch.setattr("flows.training.PAUSE", 0.1)
    hold = "touch started; for i in $(seq 300); do [ -e go ] && break; sleep 0.1; done"
    edit("train.sh", "cat split", f"{hold}\ncat split")
    (toy / "split.txt").write_text("")
    with subprocess.Popen([sys.executable, "-m", "dvc", "repro", "train@a"], cwd=toy) as other:
        wait_until((toy / "started").exists)
        threading.Timer(6, (toy / "go").touch).start()
        shown_states = run(toy)
    assert other.returncode == 0
    assert shown_states["train@a"] in ("Completed", "Cached")
    (said, *_) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("waiting")]
    assert f"(PID {other.pid})" in said
