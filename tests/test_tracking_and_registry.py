"""MLflow, for real: a SQLite store, a server that is down, and the registry."""

from __future__ import annotations

import base64
import concurrent.futures
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch

from pipeline import registry
from pipeline.__main__ import main
from pipeline.artifacts import LINEAGE, Dataset, ModelCard, read_json, sha256, write_json, write_table
from pipeline.config import Export, Params, Registry
from pipeline.networks import weights
from pipeline.networks.weights import fresh
from pipeline.registry import choose, promote, register
from pipeline.stages.export import export
from pipeline.tracking import connect, experiment_id, explained, find_run, lineage, live_run, sync, sync_or_warn

MODEL = "simple_cnn"
HISTORY = pd.DataFrame(
    [
        {"seed": 0, "epoch": e, "learning_rate": 0.1, "train_loss": 1 / e, "train_accuracy": 0.5, "val_loss": 1 / e,
         "val_accuracy": e / 10, "gradient_norm": 1.0, "gradient_norm_max": 2.0}
        for e in (1, 2, 3)
    ]
)  # fmt: skip
EPOCHS = [{str(key): float(value) for key, value in row.items()} for row in HISTORY.to_dict("records")]


def trained_artifacts(folder: Path, card: ModelCard, dataset: Dataset, seed: int = 0) -> Path:
    """What the stages leave for one model, from a network that knows nothing, but is real."""
    torch.manual_seed(seed)
    network = fresh(card).eval()
    artifacts = folder / f"artifacts-{seed}"
    source = artifacts / "train" / MODEL / "checkpoint.safetensors"
    weights.save(source, network, card)
    digest = sha256(source)
    write_table(source.with_name("history.csv"), HISTORY)
    write_json(source.with_name("metrics.json"), {"best_val_accuracy": 0.3, "parameters": 7})
    write_table(artifacts / "split" / "splits.parquet", dataset.splits)
    splits_digest = sha256(artifacts / "split" / "splits.parquet")
    write_json(source.with_name(LINEAGE), {"checkpoint": digest, "splits": splits_digest})
    images, labels = dataset.of("val")
    exported = artifacts / "export" / MODEL
    metrics = export(network, card, images, labels, Export(), exported / "fp32.onnx")
    write_json(exported / "metrics.json", {"fp32": metrics})
    write_json(exported / LINEAGE, {"checkpoint": digest})
    write_table(artifacts / "ingest" / "manifest.parquet", dataset.splits)
    row = {
        "model": MODEL, "variant": "fp32", "checkpoint": digest, "accuracy": 0.4, "agreement": 1.0, "size_mb": 1.0,
        "val_accuracy": 0.9, "latency_ms": 0.5,
    }  # fmt: skip
    write_json(artifacts / "benchmark" / "benchmark.json", {"variants": [row]})
    return artifacts


@pytest.fixture
def artifacts(tracking_folder: Path, card: ModelCard, dataset: Dataset) -> Path:
    return trained_artifacts(tracking_folder, card, dataset)


def test_a_run_is_live_and_then_found_by_its_checkpoint(artifacts: Path, params: Params) -> None:
    """Epochs arrive with their steps; the stages' results join the same run; nothing is there twice."""
    source = artifacts / "train" / MODEL / "checkpoint.safetensors"
    with live_run(params, MODEL) as live:
        for row in HISTORY.to_dict("records"):
            live.epoch({str(key): value for key, value in row.items()}, {"images_per_second": 100.0})
        live.finished(source, {"device": "cpu"})
    client = connect()
    first, second = (sync(client, params, MODEL, artifacts) for _ in range(2))
    assert first == second == live.run_id
    run = client.get_run(first)
    assert [m.step for m in client.get_metric_history(first, "val_accuracy")] == [1, 2, 3]
    assert run.data.metrics["best_val_accuracy"] == 0.3
    assert run.data.metrics["benchmark.fp32.latency_ms"] == 0.5
    assert run.data.params["learning_rate"] == str(params.recipe(MODEL).learning_rate)
    assert run.data.params["split.seed"] == "0"
    assert {"lineage.git.commit", "lineage.data.sha256", "lineage.splits.sha256"} <= set(run.data.tags)
    assert run.info.status == "FINISHED"
    names = {item.path for item in client.list_artifacts(first, "export")}
    assert "export/fp32.onnx" in names


def test_a_checkpoint_that_mlflow_does_not_know_is_backfilled(artifacts: Path, params: Params) -> None:
    """Restored from DVC's cache on another machine: the run comes from history.csv."""
    client = connect()
    run = sync(client, params, MODEL, artifacts)
    assert [m.value for m in client.get_metric_history(run, "val_accuracy")] == [0.1, 0.2, 0.3]


def test_results_of_another_checkpoint_are_not_sent(artifacts: Path, params: Params) -> None:
    """After a new training, the old evaluation still lies there until its stage runs."""
    write_json(artifacts / "evaluate" / MODEL / "metrics.json", {"accuracy": 0.99})
    write_json(artifacts / "evaluate" / MODEL / LINEAGE, {"checkpoint": "of an older training"})
    client = connect()
    assert "test_accuracy" not in client.get_run(sync(client, params, MODEL, artifacts)).data.metrics


def test_a_run_keeps_the_data_that_it_was_trained_on(artifacts: Path, params: Params, dataset: Dataset) -> None:
    """New splits lie there before the training runs again: they are not those of the old run."""
    client = connect()
    run = sync(client, params, MODEL, artifacts)
    before = client.get_run(run).data.tags["lineage.splits.sha256"]
    write_table(artifacts / "split" / "splits.parquet", dataset.splits.assign(split="train"))
    assert sync(client, params, MODEL, artifacts) == run
    assert client.get_run(run).data.tags["lineage.splits.sha256"] == before


def test_a_server_that_is_down_costs_a_warning_and_nothing_else(
    artifacts: Path, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The block runs to its end; when the server is back, `sync` sends everything, once."""
    up = str(Path.cwd() / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with live_run(params, MODEL) as live:
        live.epoch(EPOCHS[0], {})
        live.finished(artifacts / "train" / MODEL / "checkpoint.safetensors", {})
    sync_or_warn(params, MODEL, artifacts)
    said = capsys.readouterr().err
    assert said.count("not sent: MLflow at http://127.0.0.1:9 failed") == 2
    assert "gave no answer" in said.splitlines()[-1]  # `sync` believed what the training had found out
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{up}")
    sync_or_warn(params, MODEL, artifacts)
    client = connect()
    assert find_run(client, params, MODEL, sha256(artifacts / "train" / MODEL / "checkpoint.safetensors")) is not None


def test_a_hiccup_leaves_one_complete_run(artifacts: Path, params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """One epoch that could not be sent: the run still ends and is found, and `sync` sends the missing epochs."""
    with live_run(params, MODEL) as live:
        assert live.client is not None
        for row in HISTORY.to_dict("records"):
            with monkeypatch.context() as context:
                if row["epoch"] == 2:
                    context.setattr(live.client, "log_batch", _fail)
                live.epoch({str(key): value for key, value in row.items()}, {})
        live.finished(artifacts / "train" / MODEL / "checkpoint.safetensors", {})
    client = connect()
    assert sync(client, params, MODEL, artifacts) == live.run_id
    history = client.get_metric_history(live.run_id, "val_accuracy")
    assert sorted((m.step, m.value) for m in history) == [(1, 0.1), (2, 0.2), (3, 0.3)]
    (run,) = client.search_runs([experiment_id(client, params.experiment)])
    assert run.info.status == "FINISHED"


def active_runs(params: Params) -> list[mlflow.entities.Run]:
    client = connect()
    return list(client.search_runs([experiment_id(client, params.experiment)]))


@pytest.mark.parametrize("away", [False, True])
def test_one_checkpoint_is_one_run(
    artifacts: Path, params: Params, monkeypatch: pytest.MonkeyPatch, away: bool
) -> None:
    """A training that is done again, say because DVC was killed under it, comes to the same weights: the first run
    stays the only one, whether the server hears of the second's end or not."""
    memo = artifacts.parent / "resume" / "train" / MODEL / "run.json"
    source = artifacts / "train" / MODEL / "checkpoint.safetensors"
    here = os.environ["MLFLOW_TRACKING_URI"]
    with live_run(params, MODEL, memo, "key") as first:
        first.finished(source, {})
    sync(connect(), params, MODEL, artifacts)
    with live_run(params, MODEL, memo, "key") as second:
        assert second.run_id != first.run_id
        if away:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        second.finished(source, {})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", here)
    assert sync(connect(), params, MODEL, artifacts) == first.run_id
    assert [(run.info.run_id, run.info.status) for run in active_runs(params)] == [(first.run_id, "FINISHED")]


@contextmanager
def silent_server() -> Iterator[str]:
    """It takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_server_that_never_answers_costs_seconds_once(
    artifacts: Path, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """MLflow's own patience is a minute a call. Each stage is a process; the first one's experience serves the next."""
    monkeypatch.setattr("pipeline.tracking.server.ANSWER_SECONDS", 0.5)
    with silent_server() as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        started = time.monotonic()
        with live_run(params, MODEL) as live:
            live.epoch(EPOCHS[0], {})
        for _ in range(20):
            sync_or_warn(params, MODEL, artifacts)
        assert time.monotonic() - started < 5
        assert capsys.readouterr().err.count("timed out") == 1
        with pytest.raises(OSError, match="timed out"):  # a person who asks gets a fresh answer
            connect()


class Recorder(BaseHTTPRequestHandler):
    """Answers that it is healthy and refuses everything else, as a server with passwords does."""

    seen: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.seen.append(self.headers.get("Authorization", ""))
        self.send_response(200 if self.path == "/health" else 403)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_password_in_the_address_is_used_and_not_printed_and_no_proxy_is_asked(
    artifacts: Path, params: Params, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is in no warning, no error and no log of MLflow's; a server on this machine is called directly."""
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")  # and restored afterwards
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:s%40cret@127.0.0.1:{server.server_port}")
        sync_or_warn(params, MODEL, artifacts)
        for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
            monkeypatch.setenv(name, "")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://token:@127.0.0.1:{server.server_port}")
        sync_or_warn(params, MODEL, artifacts)
        server.shutdown()
    said = capfd.readouterr().err
    assert "403" in said and "cret" not in said and "token" not in said
    for login in (b"user:s@cret", b"token:"):
        assert "Basic " + base64.b64encode(login).decode() in Recorder.seen
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://user:secret@127.0.0.1:9/db")
    with pytest.raises(ValueError, match="failed") as refused, explained():
        raise OSError("cannot reach postgresql://user:secret@127.0.0.1:9/db or s3://key:se@cret@host")
    assert "cret" not in str(refused.value)


# Makes a store in children that are forked, so that the imports are paid once, and kills each a little later
MAKER = """
import os, signal, sys, time
from pathlib import Path
from pipeline.tracking import connect
import mlflow.store.tracking.sqlalchemy_store, alembic.command

def child():
    pid = os.fork()
    if not pid:
        connect().search_experiments()
        os._exit(0)
    return pid

for tenths in range(1, 11):
    killed = child()
    time.sleep(tenths * float(sys.argv[1]) / 10)
    os.kill(killed, signal.SIGKILL)
    os.waitpid(killed, 0)
    print(Path("mlflow.db").exists())
    if Path("mlflow.db").exists():
        assert os.waitpid(child(), 0)[1] == 0
        Path("mlflow.db").unlink()
assert os.waitpid(child(), 0)[1] == 0
"""


def test_a_store_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    """SIGKILL at many moments: MLflow itself would leave tables half migrated, with which it never starts again."""
    env = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    env["PYTHONPATH"] = str(Path(registry.__file__).parent.parent)
    command = [sys.executable, "-c", MAKER, "2"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "False" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db", "mlflow.db.lock"]


def test_the_address_of_a_store_may_have_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are no part of the file's name."""
    for _ in range(2):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}?timeout=30")
        connect().search_experiments()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db", "mlflow.db.lock"]


def test_a_store_that_was_left_half_made_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an earlier version, or by `mlflow server`: which file, and what to do."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    with sqlite3.connect(tmp_path / "mlflow.db") as half:
        half.execute("create table experiments (experiment_id integer)")
        half.execute("create table _alembic_tmp_experiments (experiment_id integer)")
    with pytest.raises(ValueError, match=r"mlflow\.db cannot be opened .* move it away"):
        connect()


@pytest.mark.parametrize("own", [False, True])
def test_the_commit_is_one_of_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool) -> None:
    """git would name the repository in a folder above, say of the home folder; with its own it counts."""
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    repository = project if own else tmp_path
    git = ["git", "-C", str(repository), "-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "x"], check=True)
    assert (lineage()["lineage.git.commit"] != "none") is own


def test_a_training_waits_for_one_that_goes_on_alone(
    artifacts: Path, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    """`dvc repro` killed by itself leaves its training: two at a time would send each epoch twice."""
    memo = artifacts.parent / "resume" / "train" / MODEL / "run.json"
    running = threading.Event()

    def orphan() -> None:
        with live_run(params, MODEL, memo, "key"):
            running.set()
            time.sleep(1)

    thread = threading.Thread(target=orphan)
    thread.start()
    running.wait()
    with live_run(params, MODEL, memo, "key"):
        thread.join(1)
        assert not thread.is_alive()
    assert "waiting for it" in capsys.readouterr().err


def _fail(*_: object, **__: object) -> None:
    raise OSError("the cable fell out")


def test_equal_weights_of_two_models_are_two_runs(artifacts: Path, params: Params) -> None:
    """Two entries may share architecture and recipe; each has its run."""
    for stage in ("train", "export"):
        shutil.copytree(artifacts / stage / MODEL, artifacts / stage / "modern_cnn")
    client = connect()
    first = sync(client, params, MODEL, artifacts)
    second = sync(client, params, "modern_cnn", artifacts)
    assert first != second


def test_an_interrupted_training_is_marked(tracking_folder: Path, params: Params) -> None:
    """Ctrl-C is KILLED, an error is FAILED; both go on to the caller."""
    for error, status in ((KeyboardInterrupt(), "KILLED"), (ValueError("x"), "FAILED")):
        with pytest.raises(type(error)), live_run(params, MODEL) as live:
            raise error
        assert connect().get_run(live.run_id).info.status == status


def test_many_processes_may_open_a_fresh_store(tracking_folder: Path) -> None:
    """The flow trains side by side from the first second; SQLite's migrations must not collide."""
    (tracking_folder / "mlflow.db").unlink()
    code = "from pipeline.tracking import connect, experiment_id; print(experiment_id(connect(), 'one'))"
    environment = {"PYTHONPATH": str(Path(registry.__file__).parent.parent)}

    def start(_: int) -> subprocess.CompletedProcess[str]:
        import os

        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment, check=False
        )

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        done = list(pool.map(start, range(3)))
    assert [d.returncode for d in done] == [0, 0, 0], done[0].stderr + done[1].stderr + done[2].stderr
    assert len({d.stdout.strip() for d in done}) == 1


def test_a_deleted_experiment_is_named(tracking_folder: Path) -> None:
    """MLflow would say something about a conflict."""
    client = connect()
    client.delete_experiment(experiment_id(client, "gone"))
    with pytest.raises(ValueError, match="experiment 'gone' is deleted: restore it"):
        experiment_id(client, "gone")


ROWS = [
    {"model": "a", "variant": "fp32", "val_accuracy": 0.90, "accuracy": 0.99, "size_mb": 5.0, "latency_ms": 2.0},
    {"model": "b", "variant": "fp32", "val_accuracy": 0.92, "accuracy": 0.80, "size_mb": 9.0, "latency_ms": 4.0},
    {"model": "b", "variant": "int8", "val_accuracy": 0.95, "accuracy": 0.80, "size_mb": 2.0, "latency_ms": 1.0},
]


def test_the_candidate_is_chosen_by_validation_accuracy_within_the_budgets() -> None:
    """The test accuracy has no say; a budget takes a candidate out; a variant must be asked for."""
    assert choose(ROWS, Registry())["model"] == "b"
    assert choose(ROWS, Registry(max_size_mb=6.0))["model"] == "a"
    assert choose(ROWS, Registry(variants=["fp32", "int8"]))["variant"] == "int8"
    with pytest.raises(ValueError, match=r"a fp32: 2\.00 ms is over 1\.5; b fp32: 4\.00 ms is over 1\.5"):
        choose(ROWS, Registry(max_latency_ms=1.5))


def champion(name: str, alias: str = "champion") -> str:
    return str(connect().get_model_version_by_alias(name, alias).version)


def test_register_and_promote(
    artifacts: Path, tracking_folder: Path, params: Params, card: ModelCard, dataset: Dataset
) -> None:
    """The first challenger is promoted, the same one again is not, a worse one is refused, a better one takes over."""
    name = params.registry.name
    with pytest.raises(ValueError, match="no model 'digits' is registered: run `python -m pipeline register` first"):
        promote(params, dataset, card.preprocessing)
    ended = connect().get_run(sync(connect(), params, MODEL, artifacts)).info.end_time
    version, row = register(params, artifacts)
    assert (version, row["model"]) == ("1", MODEL)
    assert connect().get_run(sync(connect(), params, MODEL, artifacts)).info.end_time == ended
    assert register(params, artifacts)[0] == "1"
    assert promote(params, dataset, card.preprocessing).promoted
    assert not promote(params, dataset, card.preprocessing).promoted
    images, labels = dataset.of("test")
    scores = {"1": (registry.load(name, "1").probabilities(images).argmax(axis=1) == labels).mean()}
    for seed in (1, 2, 3):
        before = champion(name)
        version, _ = register(params, trained_artifacts(tracking_folder, card, dataset, seed))
        scores[version] = (registry.load(name, version).probabilities(images).argmax(axis=1) == labels).mean()
        decision = promote(params, dataset, card.preprocessing)
        assert decision.promoted == (scores[version] > scores[before])
        assert champion(name) == (version if decision.promoted else before)
        if decision.promoted:
            assert champion(name, "previous") == before
        tags = connect().get_model_version(name, version).tags
        assert any(key.startswith("promotion.") for key in tags)


def test_a_model_of_other_classes_is_not_compared(
    artifacts: Path, tracking_folder: Path, params: Params, card: ModelCard, dataset: Dataset
) -> None:
    """Two datasets under one name: a sentence, not a wrong number."""
    register(params, artifacts)
    promote(params, dataset, card.preprocessing)
    register(params, trained_artifacts(tracking_folder, card, dataset, seed=1))
    other = Dataset(dataset.images_NHWC, dataset.labels, dataset.splits, ("x", "y", "z"))
    with pytest.raises(ValueError, match="version 1 knows other classes than this dataset"):
        promote(params, other, card.preprocessing)


def test_images_that_taught_the_champion_do_not_test_it(
    artifacts: Path, tracking_folder: Path, params: Params, card: ModelCard, dataset: Dataset
) -> None:
    """After another split, only images that are new to both are compared; none at all is an error."""
    register(params, artifacts)
    promote(params, dataset, card.preprocessing)
    moved = dataset.splits.copy()
    taught, test = dataset.rows("train")[:5], dataset.rows("test")
    moved.loc[taught, "split"] = "test"
    other = Dataset(dataset.images_NHWC, dataset.labels, moved, dataset.class_names)
    register(params, trained_artifacts(tracking_folder, card, other, seed=1))
    assert f"on {len(test)} test images" in promote(params, other, card.preprocessing).reason
    swapped = moved.copy()
    swapped.loc[test, "split"] = "train"
    last = Dataset(dataset.images_NHWC, dataset.labels, swapped, dataset.class_names)
    register(params, trained_artifacts(tracking_folder, card, last, seed=2))
    connect().set_registered_model_alias(params.registry.name, "champion", "1")  # whoever won before
    with pytest.raises(ValueError, match="every test image, or one that is like it, has taught version"):
        promote(params, last, card.preprocessing)


def compared_images(params: Params, card: ModelCard, dataset: Dataset, splits: pd.DataFrame, folder: Path) -> int:
    """How many test images a challenger of these splits is compared on with the champion of `dataset`'s."""
    now = Dataset(dataset.images_NHWC, dataset.labels, splits, dataset.class_names)
    register(params, trained_artifacts(folder, card, now, seed=1))
    found = re.search(r"on (\d+) test images", promote(params, now, card.preprocessing).reason)
    assert found
    return int(found[1])


@pytest.mark.parametrize("change", ["renamed", "replaced", "twin", "left_out"])
def test_images_are_known_by_their_content(
    artifacts: Path, tracking_folder: Path, params: Params, card: ModelCard, dataset: Dataset, change: str
) -> None:
    """Renamed files that taught the champion are no new ones, new files under old names are, and what is like an image
    that taught it is not."""
    register(params, artifacts)
    promote(params, dataset, card.preprocessing)
    splits, taught, test = dataset.splits.copy(), dataset.rows("train")[:6], dataset.rows("test")
    if change in ("twin", "left_out"):
        tie = "group" if change == "twin" else "alike"
        splits.loc[test[:6], tie] = splits.loc[taught, tie].to_numpy()
        splits.loc[taught, "split"] = "train" if change == "twin" else "left_out"
        wanted = len(test) - 6
    else:
        splits.loc[taught, "split"], splits.loc[test[:6], "split"] = "test", "train"
        column = "path" if change == "renamed" else "sha256"
        splits[column] = "new-" + splits[column]
        wanted = len(test) - 6 if change == "renamed" else len(test)
    assert compared_images(params, card, dataset, splits, tracking_folder) == wanted


def test_a_version_without_checksums_is_named(
    artifacts: Path, tracking_folder: Path, params: Params, card: ModelCard, dataset: Dataset
) -> None:
    """An old run's table of splits has paths alone, which identify nothing."""
    write_table(artifacts / "split" / "splits.parquet", dataset.splits.drop(columns="sha256"))
    source = artifacts / "train" / MODEL / LINEAGE
    write_json(source, read_json(source) | {"splits": sha256(artifacts / "split" / "splits.parquet")})
    register(params, artifacts)
    promote(params, dataset, card.preprocessing)
    with pytest.raises(ValueError, match=r"splits\.parquet .*no column sha256.* version 1"):
        compared_images(params, card, dataset, dataset.splits, tracking_folder)


def test_a_registry_that_does_not_answer_is_not_taken_for_an_empty_one(
    tracking_folder: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a model: register one. Without a server: look at the server."""
    with pytest.raises(
        ValueError, match=r"digits@champion is not in the registry .* run `python -m pipeline register`"
    ):
        registry.load(params.registry.name, "champion")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ValueError, match=r"MLflow at http://127\.0\.0\.1:9 failed"), explained():
        registry.load(params.registry.name, "champion")


def test_the_registered_model_needs_no_code_of_ours(
    artifacts: Path, params: Params, card: ModelCard, dataset: Dataset
) -> None:
    """mlflow alone, and onnxruntime alone, give what our predictor gives."""
    import mlflow
    import onnxruntime

    register(params, artifacts)
    promote(params, dataset, card.preprocessing)
    images, _ = dataset.of("test")
    ours = registry.load(params.registry.name, "champion").probabilities(images)
    by_mlflow = mlflow.pyfunc.load_model(f"models:/{params.registry.name}@champion").predict(images[:])
    assert np.allclose(by_mlflow["probabilities"], ours, atol=1e-6)
    folder = mlflow.artifacts.download_artifacts(f"models:/{params.registry.name}@champion")
    session = onnxruntime.InferenceSession(next(Path(folder).glob("*.onnx")))
    assert np.allclose(session.run(["probabilities"], {"image": images[:]})[0], ours, atol=1e-6)


def test_a_run_whose_end_was_not_heard_is_not_made_again(
    artifacts: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server went away in mid-training: the run that was begun gets the rest, and there is no other one."""
    memo = artifacts.parent / "resume" / "train" / MODEL / "run.json"
    source = artifacts / "train" / MODEL / "checkpoint.safetensors"
    here = os.environ["MLFLOW_TRACKING_URI"]
    with live_run(params, MODEL, memo, "key") as live:
        live.epoch({str(key): value for key, value in HISTORY.to_dict("records")[0].items()}, {})
        run_id = live.run_id
        live.client = mlflow.MlflowClient("http://127.0.0.1:9")  # nobody listens there
        live.finished(source, {"device": "cpu"})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", here)
    client = connect()
    assert client.get_run(run_id).info.status == "RUNNING"
    assert sync(client, params, MODEL, artifacts) == run_id
    assert client.get_run(run_id).info.status == "FINISHED"
    assert sorted(metric.step for metric in client.get_metric_history(run_id, "val_loss")) == [1, 2, 3]
    assert not memo.exists()


def test_a_memo_of_another_training_opens_a_new_run(artifacts: Path, params: Params) -> None:
    """Only the same key goes on; and a run that was deleted meanwhile is not opened again."""
    memo = artifacts.parent / "resume" / "train" / MODEL / "run.json"
    with pytest.raises(KeyboardInterrupt), live_run(params, MODEL, memo, "one") as first:
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), live_run(params, MODEL, memo, "one") as again:
        raise KeyboardInterrupt
    assert again.run_id == first.run_id
    assert connect().get_run(first.run_id).info.status == "KILLED"
    with live_run(params, MODEL, memo, "two") as other:
        pass
    assert other.run_id != first.run_id
    connect().delete_run(other.run_id)
    with live_run(params, MODEL, memo, "two") as new:
        pass
    assert new.run_id not in (other.run_id, first.run_id)


@pytest.mark.parametrize("verb", [["promote"], ["register"], ["lr-find", "simple_cnn"]])
def test_a_verb_before_the_stages_says_what_to_run_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: list[str]
) -> None:
    """Nothing is wrong with the disk: the stages have not run."""
    shutil.copy(Path(registry.__file__).parent.parent / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pipeline", *verb])
    with pytest.raises(SystemExit, match=r"artifacts/.* does not exist: run `dvc repro` first"):
        main()


def test_a_file_that_track_misses_is_named_and_not_put_down_to_mlflow(
    artifacts: Path, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For a person an error; a stage goes on."""
    shutil.copy(Path(registry.__file__).parent.parent / "params.yaml", Path.cwd())
    (artifacts / "train" / MODEL / "history.csv").unlink()
    monkeypatch.setattr(sys, "argv", ["pipeline", "track", "--artifacts", str(artifacts)])
    with pytest.raises(SystemExit, match=r"history\.csv does not exist: run `dvc repro` first"):
        main()
    sync_or_warn(params, MODEL, artifacts)
    assert "history.csv" in capsys.readouterr().err
