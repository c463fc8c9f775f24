"""Where runs go: the embedded SQLite store, made whole or not at all by one process at a time; a server's address."""

import base64
import os
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from pipeline.artifacts import Dataset, ModelCard
from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.tracking.runs import training_lineage
from pipeline.tracking.server import connect, explained
from pipeline.tracking.sync import sync_or_warn
from tests.conftest import PROJECT
from tests.results import MODEL, leave_results

# Makes a store in children that are forked, so that the imports are paid once, and kills each a little later
MAKER = """
import os, signal, time
from pathlib import Path
from pipeline.tracking.server import connect
import alembic.command

def child():
    pid = os.fork()
    if not pid:
        connect().search_experiments()
        os._exit(0)
    return pid

for tenths in range(1, 11):
    killed = child()
    time.sleep(tenths * 0.2)
    os.kill(killed, signal.SIGKILL)
    os.waitpid(killed, 0)
    print(Path("mlflow.db").exists())
    if Path("mlflow.db").exists():
        assert os.waitpid(child(), 0)[1] == 0
        Path("mlflow.db").unlink()
assert os.waitpid(child(), 0)[1] == 0
"""


def start(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Python in the folder, without the address of a server."""
    env, command = os.environ | {"PYTHONPATH": str(PROJECT), "MLFLOW_TRACKING_URI": ""}, [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_a_store_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    """SIGKILL at many moments: MLflow itself would leave tables half migrated, with which it never starts again."""
    done = start(MAKER, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "False" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db", "mlflow.db.lock"]


def test_many_processes_may_open_a_fresh_store(tmp_path: Path) -> None:
    """The flow trains side by side from the first second; SQLite's migrations must not collide."""
    code = "from pipeline.tracking.server import connect; import mlflow; connect(); print(mlflow.set_experiment('one'))"
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(start, [code] * 3, [tmp_path] * 3))
    assert not any(d.returncode for d in done), "".join(d.stderr for d in done)


def test_a_store_that_was_left_half_made_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an earlier version, or by `mlflow server`: which file, and what to do. An address may have options."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}?timeout=30")
    with sqlite3.connect(tmp_path / "mlflow.db") as half:
        half.execute("create table experiments (experiment_id integer)")
        half.execute("create table _alembic_tmp_experiments (experiment_id integer)")
    with pytest.raises(UserError, match=r"mlflow\.db cannot be opened .* move it away"):
        connect()


@pytest.mark.parametrize("own", [False, True])
def test_the_commit_is_one_of_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool) -> None:
    """git would name the repository in a folder above, say of the home folder; with its own it counts."""
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    git = ["git", "-C", str(project if own else tmp_path), "-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "x"], check=True)
    assert (training_lineage()["lineage.git.commit"] != "none") is own


class Recorder(BaseHTTPRequestHandler):
    """Answers that it is healthy and refuses everything else, as a server with passwords does."""

    seen: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.seen.append(self.headers.get("Authorization", ""))
        self.send_response(200 if self.path == "/health" else 403)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.usefixtures("tracking_folder")
def test_a_password_in_the_address_is_used_and_not_printed_and_no_proxy_is_asked(
    params: Params, card: ModelCard, dataset: Dataset, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """It is in no warning, no error and no log of MLflow's; a server on this machine is called directly."""
    leave_results(card, dataset)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for login in ("user:s%40cret", "token:"):
            for name in ("no_proxy", "NO_PROXY", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
                monkeypatch.setenv(name, "")  # and restored afterwards
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{login}@127.0.0.1:{server.server_port}")
            sync_or_warn(params, MODEL)
        server.shutdown()
    said = capfd.readouterr().err
    assert "403" in said and "cret" not in said and "token" not in said
    assert {"Basic " + base64.b64encode(login).decode() for login in (b"user:s@cret", b"token:")} <= {*Recorder.seen}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database := "postgresql://user:secret@127.0.0.1:9/db")
    with pytest.raises(UserError, match="failed") as refused, explained():
        raise OSError(f"cannot reach {database} or s3://key:se@cret@host")
    assert "cret" not in str(refused.value)
