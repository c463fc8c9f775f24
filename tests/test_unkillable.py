"""Training survives SIGKILL at any moment, SIGTERM, Ctrl-C, a full disk and a server that is down."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import mlflow
import pytest
import torch

from pipeline import layout
from pipeline.artifacts import read_table
from pipeline.config import Params
from pipeline.tracking.live import live_run
from pipeline.tracking.runs import EPOCH_METRICS
from pipeline.training.checkpointing import Checkpoints
from tests.flows.conftest import free_port, wait_until
from tests.workspace import environment, workspace

MODEL = "simple_cnn"
OUTPUTS, RESUME = layout.folder("train", MODEL), layout.resume("train", MODEL)
TRAIN = [sys.executable, "-m", "pipeline", "train", MODEL]
# Trains again and again in a child that is forked, so that the imports are paid once, and killed at a random moment
KILLER = """
import os, random, signal, sys, time
from pipeline.cli.stages import run_stage
import pipeline.stages.train, pipeline.tracking

pace, kills, chance = 1.0, 0, random.Random(7)
while True:
    child = os.fork()
    if not child:
        run_stage("train", "simple_cnn")
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


def call(root: Path, command: list[str], **variables: str) -> str:
    env = environment(root) | variables
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def store(root: Path) -> str:
    return environment(root)["MLFLOW_TRACKING_URI"]


def runs(uri: str) -> dict[str, list[int]]:
    """The epochs of each run, under its status and its id."""
    client, found = mlflow.MlflowClient(uri), {}
    for run in client.search_runs([experiment.experiment_id for experiment in client.search_experiments()]):
        history = client.get_metric_history(run.info.run_id, "val/accuracy")
        found[f"{run.info.status} {run.info.run_id}"] = sorted(metric.step for metric in history)
    return found


def started(root: Path, **variables: str) -> subprocess.Popen[str]:
    """A training that has come to its second epoch."""
    env = environment(root) | {"PYTHONUNBUFFERED": "1"} | variables
    process = subprocess.Popen(TRAIN, cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    while "epoch   2" not in process.stdout.readline():
        assert process.poll() is None
    return process


def outputs(root: Path) -> dict[str, bytes]:
    folder = root / OUTPUTS
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def trained(digit_folder: Path, fresh_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which a model was trained without an interruption."""
    root = workspace(tmp_path_factory.mktemp("unkillable"), digit_folder, RECIPE)
    shutil.copy(fresh_store, root / "mlflow.db")
    call(root, TRAIN)
    return root


@pytest.fixture
def root(trained: Path, tmp_path: Path) -> Path:
    """A copy of it without the outputs, times kept: a training resumes with the very same files only."""
    root = tmp_path / "copy"
    shutil.copytree(trained, root, copy_function=shutil.copy2)
    shutil.rmtree(root / OUTPUTS)
    return root


@pytest.mark.slow
def test_twenty_kills_change_nothing(root: Path, trained: Path) -> None:
    """SIGKILL at 20 and more random moments, half-written checkpoints included: the same bytes come out, and no run of
    MLflow has an epoch twice."""
    said = call(root, [sys.executable, "-c", KILLER])
    assert int(said.split("killed ")[-1].split()[0]) >= 20
    assert outputs(root) == outputs(trained)
    assert "going on in epoch" in said
    found = runs(store(root))
    assert sum(name.startswith("FINISHED") for name in found) == 1
    assert all(epochs == sorted(set(epochs)) for epochs in found.values())
    assert not list((root / RESUME).glob("*.pt"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_a_checkpoint(root: Path, trained: Path, number: signal.Signals) -> None:
    """One sentence, the exit code of the signal, the run KILLED; the next one goes on to the same weights, hence to the
    run that has them already."""
    process = started(root)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"stopped by {number.name} in epoch" in said and "Traceback" not in said
    assert sorted(name.split()[0] for name in runs(store(root))) == ["FINISHED", "KILLED"]
    assert "going on in epoch" in call(root, TRAIN)
    assert outputs(root) == outputs(trained)
    assert [name.split()[0] for name in runs(store(root))] == ["FINISHED"]


def test_another_recipe_does_not_resume(root: Path, trained: Path) -> None:
    """A checkpoint belongs to its inputs; what is left of other recipes goes when a training has ended."""
    (root / RESUME).mkdir(parents=True, exist_ok=True)
    torch.save({"nothing": 1}, root / RESUME / "0123456789abcdef-0.pt")
    assert "going on" not in call(root, TRAIN)
    assert list((root / RESUME).glob("*.pt")) == []
    assert outputs(root) == outputs(trained)


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint that does not fit is said; the one before is still whole, and nothing half written is left."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", small], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    try:
        checkpoints = Checkpoints(small, "key")
        for size in (1000, 1_000_000):
            checkpoints.save(0, {"weights": torch.ones(size)})
        assert "No space left" in capsys.readouterr().err
        assert [path.name for path in small.iterdir()] == ["key-0.pt"]
        assert (checkpoints.load(0) or {})["weights"].shape == (1000,)
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

    def answers() -> bool:
        try:
            return bool(urlopen(f"{uri}/health"))
        except OSError:
            return False

    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{root / 'server.db'}"]
    env = environment(root) | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with subprocess.Popen(
        command, cwd=root, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        try:
            wait_until(answers, 60)
            yield uri
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_server_that_goes_and_comes_back(root: Path) -> None:
    """MLflow dies in mid-training and is up again afterwards: training ends, and every epoch is there once."""
    port = free_port()
    with server(root, port) as uri:
        training = started(root, MLFLOW_TRACKING_URI=uri)
    said = training.communicate(timeout=120)[0]
    assert training.returncode == 0, said
    assert "not sent" in said
    with server(root, port):
        call(root, [sys.executable, "-m", "pipeline", "track"], MLFLOW_TRACKING_URI=uri)
        assert read_table(root / layout.history("train", MODEL))["epoch"].tolist() in runs(uri).values()


@pytest.mark.slow
def test_a_server_that_comes_late_gets_the_epochs_that_it_missed(
    tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Away at the start and again in the middle: each time it is back, the run has all epochs, each once."""
    monkeypatch.chdir(tmp_path)
    for module in ("live", "server"):
        monkeypatch.setattr(f"pipeline.tracking.{module}.AWAY_SECONDS", 0.0)
    monkeypatch.setattr("pipeline.tracking.live.LONGEST", 0.0)  # each epoch by itself
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")

    def epochs(*numbers: int) -> None:
        for number in numbers:
            live.epoch(dict.fromkeys(EPOCH_METRICS, 0.5) | {"epoch": float(number)}, {"images_per_second": 1.0})

    with live_run(params, MODEL, "key") as live:
        epochs(1, 2)
        for numbers in ([3, 4], [6, 7]):
            with server(tmp_path, port) as uri:
                epochs(*numbers)
                assert list(runs(uri).values()) == [list(range(1, numbers[-1] + 1))]
            epochs(5)
