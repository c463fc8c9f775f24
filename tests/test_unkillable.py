"""Training survives SIGKILL at any moment, SIGTERM, Ctrl-C, a full disk and a server that is down."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest
import torch

from pipeline.artifacts import read_table
from pipeline.config import Params
from pipeline.tracking import EPOCH_METRICS, live_run
from pipeline.training.checkpointing import Checkpoints
from tests.flows.test_deployment import free_port
from tests.workspace import INPUTS, environment, workspace

KILLS = 20
# Trains again and again in a child that is forked, so that the imports are paid once, and killed at a random moment;
# prints how many children were killed before one came to its end
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from pipeline.commands.training import train
import pipeline.stages.train, pipeline.tracking, mlflow, mlflow.system_metrics.system_metrics_monitor

pace, kills, chance = float(sys.argv[1]), 0, random.Random(int(sys.argv[2]))
paths = [Path(path) for path in sys.argv[3:]]
while True:
    child = os.fork()
    if not child:
        train("simple_cnn", *paths, resume=Path("resume"))
        os._exit(0)
    time.sleep(chance.uniform(0, pace))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        print(f"killed {kills} times", os.WEXITSTATUS(status))
        sys.exit(os.WEXITSTATUS(status))
    kills += 1
    pace *= 1.04  # so that it ends
"""
RECIPE = {"epochs": 24, "checkpoint_seconds": 0.0, "ema": 0.9, "optimizer": "adamw", "learning_rate": 0.002}


def trains(root: Path, name: str, *extra: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "train", "simple_cnn", *INPUTS, name, *extra],
        cwd=root, env=environment(root), capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def runs(root: Path) -> list[mlflow.entities.Run]:
    client = mlflow.MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    return list(client.search_runs([e.experiment_id for e in client.search_experiments()]))


def outputs(root: Path, name: str) -> dict[str, bytes]:
    folder = root / name
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def trained(digit_folder: Path, fresh_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which `whole` was trained without an interruption."""
    root = workspace(tmp_path_factory.mktemp("unkillable"), digit_folder, RECIPE)
    shutil.copy(fresh_store, root / "mlflow.db")
    trains(root, "whole")
    return root


@pytest.fixture
def root(trained: Path, tmp_path: Path) -> Path:
    """A copy of it with times kept: a training resumes with the very same files only."""
    shutil.copytree(trained, tmp_path / "copy", copy_function=shutil.copy2)
    return tmp_path / "copy"


@pytest.mark.slow
def test_twenty_kills_change_nothing(root: Path) -> None:
    """SIGKILL at 20 and more random moments, half-written checkpoints included: the same bytes come out, and MLflow has
    one more run, with each epoch once."""
    killed = subprocess.run(
        [sys.executable, "-c", KILLER, "1.0", "7", *INPUTS, "killed"],
        cwd=root, env=environment(root), capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert killed.returncode == 0, killed.stdout + killed.stderr
    assert int(killed.stdout.split("killed ")[-1].split()[0]) >= KILLS
    assert outputs(root, "killed") == outputs(root, "whole")
    assert "going on in epoch" in killed.stdout
    digest = {run.data.tags.get("checkpoint.sha256") for run in runs(root)} - {None}
    assert len(digest) == 1
    client = mlflow.MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    for run in runs(root):
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "val_accuracy")]
        assert sorted(steps) == sorted(set(steps))
    assert not list((root / "resume").glob("*.pt"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_a_checkpoint(root: Path, number: signal.Signals) -> None:
    """One sentence, the exit code of the signal, the run KILLED; the next one goes on to the same weights, hence to the
    run that has them already."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "train", "simple_cnn", *INPUTS, "stopped", "--resume", "resume"],
        cwd=root, env=environment(root) | {"PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    while "epoch   2" not in process.stdout.readline():
        assert process.poll() is None, process.stderr.read()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"stopped by {number.name} in epoch" in said and "Traceback" not in said
    assert sorted(run.info.status for run in runs(root)) == ["FINISHED", "KILLED"]
    assert "going on in epoch" in trains(root, "stopped", "--resume", "resume")
    assert outputs(root, "stopped") == outputs(root, "whole")
    assert [run.info.status for run in runs(root)] == ["FINISHED"]


def test_another_recipe_does_not_resume(root: Path) -> None:
    """A checkpoint belongs to its inputs; what is left of other recipes goes when a training has ended."""
    (root / "resume").mkdir()
    torch.save({"nothing": 1}, root / "resume" / "0123456789abcdef-0.pt")
    assert "going on" not in trains(root, "other", "--resume", "resume")
    assert list((root / "resume").glob("*.pt")) == []
    assert outputs(root, "other") == outputs(root, "whole")


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint that does not fit is said; the one before is still whole, and nothing half written is left."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", small], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    try:
        checkpoints = Checkpoints(small, "key")
        checkpoints.save(0, {"weights": torch.ones(1000)})
        checkpoints.save(0, {"weights": torch.ones(1_000_000)})
        assert "No space left" in capsys.readouterr().err
        assert [path.name for path in small.iterdir()] == ["key-0.pt"]
        state = checkpoints.load(0)
        assert state is not None and len(state["weights"]) == 1000
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_damaged_checkpoint_is_a_sentence(tmp_path: Path) -> None:
    """Not written by us, or spoiled by a disk: which file, and what to do."""
    (tmp_path / "key-0.pt").write_bytes(b"PK nonsense")
    with pytest.raises(ValueError, match=r"key-0\.pt"):
        Checkpoints(tmp_path, "key").load(0)


@contextmanager
def server(root: Path, port: int) -> Iterator[str]:
    """MLflow's own, with a store in the folder; killed at the end of the block."""
    uri = f"http://127.0.0.1:{port}"
    with subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", "--backend-store-uri",
         f"sqlite:///{root / 'server.db'}"],
        cwd=root, env=environment(root) | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            for _ in range(600):
                if subprocess.run(["curl", "-sf", f"{uri}/health"], capture_output=True, check=False).returncode == 0:
                    break
                time.sleep(0.1)
            yield uri
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_server_that_goes_and_comes_back(root: Path, tmp_path: Path) -> None:
    """MLflow dies in mid-training and is up again afterwards: training ends, and every epoch is there once."""
    port = free_port()
    with server(root, port) as uri:
        env = environment(root) | {"MLFLOW_TRACKING_URI": uri, "PYTHONUNBUFFERED": "1"}
        training = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "train", "simple_cnn", *INPUTS, "artifacts/train/simple_cnn"],
            cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert training.stdout is not None
        while "epoch   2" not in training.stdout.readline():
            assert training.poll() is None
    said = training.communicate(timeout=120)[0]
    assert training.returncode == 0, said
    assert "not sent" in said
    with server(root, port):
        subprocess.run([sys.executable, "-m", "pipeline", "track"], cwd=root, env=env, check=True, capture_output=True)
        history = read_table(root / "artifacts" / "train" / "simple_cnn" / "history.csv")
        assert history["epoch"].tolist() in sent(uri)


def sent(uri: str) -> list[list[int]]:
    """The epochs of each run."""
    client = mlflow.MlflowClient(uri)
    found = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return [sorted(m.step for m in client.get_metric_history(run.info.run_id, "val_accuracy")) for run in found]


@pytest.mark.slow
def test_a_server_that_comes_late_gets_the_epochs_that_it_missed(
    tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Away at the start and again in the middle: each time it is back, the run has all epochs, each once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.tracking.live.AWAY_SECONDS", 0.0)
    monkeypatch.setattr("pipeline.tracking.server.AWAY_SECONDS", 0.0)
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")

    def epochs(*numbers: int) -> None:
        for number in numbers:
            live.epoch(dict.fromkeys(EPOCH_METRICS, 0.5) | {"epoch": float(number)}, {"images_per_second": 1.0})

    with live_run(params, "simple_cnn") as live:
        epochs(1, 2)
        for numbers in ([3, 4], [6, 7]):
            with server(tmp_path, port) as uri:
                epochs(*numbers)
                assert sent(uri) == [list(range(1, numbers[-1] + 1))]
            epochs(5)
