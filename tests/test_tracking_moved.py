"""A project in another place than before: its runs, its champion, and nobody else's folder."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest

from pipeline.artifacts import Dataset, ModelCard
from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.registry.versions import load, register
from pipeline.tracking.live import live_run
from pipeline.tracking.server import PLACES, connect
from pipeline.tracking.sync import sync, sync_or_warn
from tests.results import CHECKPOINT, EPOCHS, MODEL, leave_results

Start = Callable[[Path], None]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    """Works in a project's folder, with the store in it."""

    def enter(folder: Path) -> None:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # and taken back afterwards: `connect` sets it

    return enter


def content(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*")}


@pytest.mark.parametrize("moved", [True, False])
def test_a_moved_or_copied_project_keeps_its_champion_and_leaves_the_old_place_alone(
    tmp_path: Path, fresh_store: Path, start: Start, params: Params, card: ModelCard, dataset: Dataset, moved: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """`mv` and `cp -r`; the old place may have a quote in its name, and a trailing mlruns."""
    old, new = tmp_path / "it's" / "mlruns" / "old", tmp_path / "new"
    old.mkdir(parents=True)
    shutil.copy(fresh_store, old / "mlflow.db")
    start(old)
    leave_results(card, dataset)
    name = params.registry.name
    connect().set_registered_model_alias(name, "champion", register(params).version)
    first = load(name, "champion").card
    if moved:
        shutil.move(old, new)
    else:
        shutil.copytree(old, new)
    before = content(tmp_path / "it's")
    start(new)
    capsys.readouterr()
    assert load(name, "champion").card == first
    assert capsys.readouterr().err.count(f"{old}/mlruns/") == 1
    with live_run(params, MODEL, "key") as training:
        training.epoch(EPOCHS[0], {})
        (new / "note.txt").write_text("x")
        connect().log_artifact(training.run_id, "note.txt")
    leave_results(card, dataset, seed=1)
    run_id = sync(connect(), params, MODEL)
    assert (register(params).version, run_id != training.run_id) == ("2", True)
    for place in (run_id, training.run_id):
        assert Path(connect().get_run(place).info.artifact_uri).is_relative_to(new)
    assert list(new.glob(f"mlruns/*/{training.run_id}/artifacts/note.txt"))
    with sqlite3.connect("mlflow.db") as database:
        for table, column in PLACES:
            places = [str(row[0]) for row in database.execute(f"select {column} from {table}")]
            assert places and not any(str(old) in place for place in places)
    assert content(tmp_path / "it's") == before
    assert "moved" not in capsys.readouterr().err


def test_a_store_elsewhere_and_folders_of_the_users_own_stay_as_they_are(
    tmp_path: Path, fresh_store: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file may serve several projects; and an experiment may be told to keep its files on another disk."""
    project = tmp_path / "project"
    project.mkdir()
    shutil.copy(fresh_store, tmp_path / "mlflow.db")
    start(project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    client = connect()
    known = {place: client.create_experiment(place, place) for place in ("/a/mlruns/7", "s3://b/mlruns/7", "/big/disk")}
    connect()
    assert all(client.get_experiment(known[place]).artifact_location == place for place in known)
    shutil.move(tmp_path / "mlflow.db", project / "mlflow.db")
    start(project)
    client = connect()
    known["/a/mlruns/7"], known[f"{project}/mlruns/7"] = "0", known["/a/mlruns/7"]
    for place in ("s3://b/mlruns/7", "/big/disk", f"{project}/mlruns/7"):
        assert client.get_experiment(known[place]).artifact_location == place


@pytest.mark.parametrize("name", [b"what?", b"a%20b", b"\xff"])
def test_a_path_that_mlflow_cannot_take_is_a_sentence_before_anything_is_written(
    tmp_path: Path, start: Start, params: Params, card: ModelCard, dataset: Dataset, name: bytes,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """SQLite's address would end at the question mark, and the store would lie beside the project. Training goes on."""
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()
    start(folder)
    leave_results(card, dataset)
    with pytest.raises(UserError, match="rename the folder"):
        connect()
    sync_or_warn(params, MODEL)
    with live_run(params, MODEL, "key") as training:
        training.finished(CHECKPOINT, {})
    assert "rename the folder" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {folder.name} and not list(folder.glob("ml*"))


@pytest.mark.parametrize("name", ["it's", "C#", "50%", "a b", "größe"])
def test_other_paths_are_no_trouble(tmp_path: Path, fresh_store: Path, start: Start, params: Params, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    shutil.copy(fresh_store, folder / "mlflow.db")
    start(folder)
    with live_run(params, MODEL, "key") as training:
        connect().log_text(training.run_id, "x", "a/note.txt")
    found = mlflow.artifacts.download_artifacts(run_id=training.run_id, artifact_path="a/note.txt")
    (written,) = folder.glob("mlruns/*/*/artifacts/a/note.txt")
    assert Path(found).read_text() == written.read_text() and {path.name for path in tmp_path.iterdir()} == {name}
