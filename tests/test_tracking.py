"""MLflow, for real: a SQLite store, and a server that is down."""

import shutil
import socket
import sys
import threading
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import mlflow
import pytest

from pipeline import layout
from pipeline.__main__ import main
from pipeline.artifacts import Dataset, ModelCard, sha256, write_json, write_table
from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.tracking.live import LiveRun, live_run
from pipeline.tracking.runs import read_memo
from pipeline.tracking.server import connect
from pipeline.tracking.sync import sync, sync_or_warn
from tests.conftest import PROJECT
from tests.results import CHECKPOINT, EPOCHS, MODEL, leave_results

pytestmark = pytest.mark.usefixtures("results")
NOWHERE = "http://127.0.0.1:9"  # nobody listens there
MEMO = layout.resume("train", MODEL) / "run.json"


def live(params: Params, key: str = "key") -> AbstractContextManager[LiveRun]:
    return live_run(params, MODEL, key)


@pytest.fixture
def results(tracking_folder: Path, card: ModelCard, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """An MLflow store, and the outputs of some stages."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    leave_results(card, dataset)


def runs(params: Params) -> list[mlflow.entities.Run]:
    return list(connect().search_runs([mlflow.set_experiment(params.experiment).experiment_id]))


def steps(run_id: str, metric: str = "val/accuracy") -> list[int]:
    return sorted(m.step for m in connect().get_metric_history(run_id, metric))


def test_a_run_is_live_and_then_found_by_its_checkpoint(params: Params) -> None:
    """Epochs arrive with their steps; the stages' results join the same run; nothing is there twice."""
    with live(params) as training:
        for row in EPOCHS:
            training.epoch(row, {"images_per_second": 100.0})
        training.finished(CHECKPOINT, {"device": "cpu"})
    client = connect()
    first, second = (sync(client, params, MODEL) for _ in range(2))
    assert first == second == training.run_id
    run = client.get_run(first)
    assert steps(first) == steps(first, "train/images_per_second") == [1, 2, 3]
    assert run.data.metrics["val/best_accuracy"] == 0.3
    assert run.data.metrics["variants/benchmark.fp32.latency_ms"] == 0.5
    assert run.data.params["learning_rate"] == str(params.recipe(MODEL).learning_rate)
    assert run.data.params["split.seed"] == "0"
    assert {"lineage.git.commit", "lineage.data.sha256", "lineage.splits.sha256"} <= set(run.data.tags)
    assert run.data.tags["device"] == "cpu"
    assert run.info.status == "FINISHED" and not read_memo(MEMO)["key"]
    assert "export/fp32.onnx" in {item.path for item in client.list_artifacts(first, "export")}


def test_a_checkpoint_that_mlflow_does_not_know_is_backfilled(params: Params, dataset: Dataset) -> None:
    """Restored from DVC's cache: the epochs come from history.csv. Results of an older checkpoint and
    splits that it was not trained on, which lie there until their stages run, are not sent."""
    write_json(layout.metrics("evaluate", MODEL), {"accuracy": 0.99})
    write_json(layout.lineage("evaluate", MODEL), {"checkpoint": "of an older training"})
    client = connect()
    run = sync(client, params, MODEL)
    before = client.get_run(run)
    assert [m.value for m in client.get_metric_history(run, "val/accuracy")] == [0.1, 0.2, 0.3]
    assert before.info.status == "FINISHED" and "test/accuracy" not in before.data.metrics
    write_table(layout.SPLITS, dataset.splits.assign(split="train"))
    assert sync(client, params, MODEL) == run
    assert client.get_run(run).data.tags == before.data.tags


def test_a_server_that_never_answers_costs_seconds_once(
    params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each stage is a process: the first one's experience serves the next. When the server is back, `sync` sends
    everything, once."""
    with monkeypatch.context() as away, socket.create_server(("127.0.0.1", 0)) as silent:
        away.setattr("pipeline.tracking.server.ANSWER_SECONDS", 0.5)
        away.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with live(params) as training:
            for row in EPOCHS:
                training.epoch(row, {})
            training.finished(CHECKPOINT, {})
        for _ in range(20):
            sync_or_warn(params, MODEL)
        assert time.monotonic() - started < 5
        said = capsys.readouterr().err
        assert (said.count("timed out"), said.count("not sent")) == (1, 21)
        with pytest.raises(UserError, match="timed out"):  # a person who asks gets a fresh answer
            connect()
        away.setattr("pipeline.tracking.server.AWAY_SECONDS", 0.0)  # some minutes later
        sync_or_warn(params, MODEL)
        assert "timed out" in capsys.readouterr().err
    for _ in range(2):
        sync_or_warn(params, MODEL)
    (run,) = runs(params)
    assert run.data.tags["checkpoint.sha256"] == sha256(CHECKPOINT)
    assert steps(run.info.run_id) == [1, 2, 3]


def test_a_run_whose_end_was_not_heard_is_not_made_again(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """One epoch could not be sent, and then the server went away: the run that was begun gets the rest."""

    def fail(*_: object, **__: object) -> None:
        raise OSError("the cable fell out")

    with monkeypatch.context() as away, live(params) as training:
        training.epoch(EPOCHS[0], {})
        away.setattr(training.client, "log_batch", fail)
        training.epoch(EPOCHS[1], {})
        away.setenv("MLFLOW_TRACKING_URI", NOWHERE)
        training.finished(CHECKPOINT, {"device": "cpu"})
    client = connect()
    assert (client.get_run(training.run_id).info.status, steps(training.run_id)) == ("RUNNING", [1])
    assert sync(client, params, MODEL) == training.run_id
    assert steps(training.run_id) == [1, 2, 3]
    assert [run.info.status for run in runs(params)] == ["FINISHED"]


@pytest.mark.parametrize("away", [False, True])
def test_one_checkpoint_is_one_run(params: Params, monkeypatch: pytest.MonkeyPatch, away: bool) -> None:
    """A training that is done again, say because DVC was killed under it, comes to the same weights: the first run
    stays the only one, whether the server hears of the second's end or not."""
    with live(params) as first:
        first.finished(CHECKPOINT, {})
    sync(connect(), params, MODEL)
    with monkeypatch.context() as context, live(params) as second:
        assert second.run_id != first.run_id
        if away:
            context.setenv("MLFLOW_TRACKING_URI", NOWHERE)
        second.finished(CHECKPOINT, {})
    assert sync(connect(), params, MODEL) == first.run_id
    assert [(run.info.run_id, run.info.status) for run in runs(params)] == [(first.run_id, "FINISHED")]


def test_a_training_of_the_same_key_goes_on_in_its_run(params: Params) -> None:
    """Another one does not; and a run that was deleted meanwhile is not opened again."""

    def ended_by(error: BaseException, key: str, status: str) -> str:
        with suppress(type(error)), live(params, key) as training:
            raise error
        assert connect().get_run(training.run_id).info.status == status
        return training.run_id

    first = ended_by(KeyboardInterrupt(), "one", "KILLED")
    assert ended_by(ZeroDivisionError(), "one", "FAILED") == first
    other = ended_by(KeyboardInterrupt(), "two", "KILLED")
    assert other != first
    connect().delete_run(other)
    assert ended_by(KeyboardInterrupt(), "two", "KILLED") not in (first, other)


def test_a_training_waits_for_one_that_goes_on_alone(params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    """`dvc repro` killed by itself leaves its training: two at a time would send each epoch twice."""
    running = threading.Event()

    def orphan() -> None:
        with live(params):
            running.set()
            time.sleep(1)

    thread = threading.Thread(target=orphan)
    thread.start()
    assert running.wait(30)
    with live(params):
        thread.join(1)
        assert not thread.is_alive()
    assert f"another training of {MODEL}" in capsys.readouterr().err


def test_equal_weights_of_two_models_are_two_runs(params: Params) -> None:
    """Two entries may share architecture and recipe; each has its run."""
    for stage in ("train", "export"):
        shutil.copytree(layout.folder(stage, MODEL), layout.folder(stage, "modern_cnn"))
    assert sync(connect(), params, MODEL) != sync(connect(), params, "modern_cnn")


def test_a_file_that_track_misses_is_named_and_not_put_down_to_mlflow(
    params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For a person an error; a stage goes on."""
    shutil.copy(PROJECT / "params.yaml", ".")
    layout.history("train", MODEL).unlink()
    monkeypatch.setattr(sys, "argv", ["pipeline", "track"])
    with pytest.raises(SystemExit, match=r"history\.csv does not exist: run `dvc repro` first"):
        main()
    sync_or_warn(params, MODEL)
    assert "history.csv" in capsys.readouterr().err
