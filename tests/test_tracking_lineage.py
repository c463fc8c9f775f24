"""Where a training comes from: what its run says of it, then and later."""

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from ruamel.yaml import YAML

from pipeline import layout
from pipeline.artifacts import Dataset, ModelCard, sha256
from pipeline.config import Params, load
from pipeline.tracking.lineage import NEW_BYTES
from pipeline.tracking.live import live_run
from pipeline.tracking.runs import UNKNOWN, read_memo, run_memo, training_lineage
from pipeline.tracking.server import connect
from pipeline.tracking.sync import sync
from tests.conftest import PROJECT
from tests.results import CHECKPOINT, EPOCHS, MODEL, leave_results


def git(*arguments: str, folder: Path | None = None) -> str:
    identity = {f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=os.environ | identity, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tracking_folder: Path, card: ModelCard, dataset: Dataset) -> Path:
    """A project under git, with the results of some stages, everything committed."""
    (tracking_folder / "params.yaml").write_bytes((PROJECT / "params.yaml").read_bytes())
    (tracking_folder / "requirements.lock").write_text("torch==1")
    (tracking_folder / ".gitignore").write_text("/mlflow.db*\n/mlruns/\n/artifacts/\n/resume/\n")
    leave_results(card, dataset)
    git("rm", "--cached", "--quiet", "mlflow.db")
    git("add", ".")
    git("commit", "--quiet", "-m", "start")
    return tracking_folder


def tags_of(run_id: str) -> dict[str, str]:
    return dict(connect().get_run(run_id).data.tags)


def artifact(run_id: str, path: str) -> bytes:
    return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path)).read_bytes()


def train(params: Params) -> str:
    with live_run(params, MODEL, "0123456789abcdef") as training:
        for row in EPOCHS:
            training.epoch(row, {})
        training.finished(CHECKPOINT, {"device": "cpu", "precision": "float32"})
    return training.run_id


def lock(**changed: str) -> dict[str, Any]:
    """A dvc.lock as DVC writes it, of the checkpoint that lies here."""
    raw = YAML(typ="safe").load(PROJECT / "params.yaml")
    md5 = hashlib.md5(CHECKPOINT.read_bytes()).hexdigest()
    hashes = {"made": "1" * 32, "needed": "1" * 32, "checkpoint": md5} | changed
    images, weights = layout.IMAGES.as_posix(), CHECKPOINT.as_posix()
    content = {"stages": {
        "ingest": {
            "params": {"params.yaml": {"ingest": raw["ingest"]}},
            "outs": [{"path": images, "md5": hashes["made"]}],
        },
        f"train@{MODEL}": {
            "deps": [{"path": images, "md5": hashes["needed"]}],
            "params": {"params.yaml": {"train": raw["train"], f"models.{MODEL}": raw["models"][MODEL]}},
            "outs": [{"path": weights, "md5": hashes["checkpoint"]}],
        },
    }}  # fmt: skip
    with Path("dvc.lock").open("w") as file:
        YAML(typ="safe").dump(content, file)
    return content


def test_what_dvc_writes_is_no_dirt_and_what_is_gives_the_tree_back(repository: Path, tmp_path_factory: Any) -> None:
    """Names in the tag; the difference, with new files and bytes that are no text, makes the same tree of a clean
    clone. A folder of images that nobody ignored is named and not copied; git's own index is as before."""
    Path("dvc.lock").write_text("stages:\n")
    with Path(".gitignore").open("a") as file:
        file.write("/raw\n")
    assert training_lineage()["lineage.git.dirty"] == "false"
    changes = {"params.yaml": b"a: 1\n", "new [1].py": b"x = 1\n", "sub/\xe4 b.bin": b"\xff\0\n\n"}
    for name, content in changes.items():
        path = Path(os.fsdecode(name.encode("latin-1")) if "\xe4" in name else name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    Path("images").mkdir()
    Path("images/large.npy").write_bytes(bytes(NEW_BYTES))
    git("add", "new [1].py")
    Path("requirements.lock").unlink()
    before = git("status", "--porcelain")
    kept = tmp_path_factory.mktemp("kept")
    tags = training_lineage(kept)
    assert (tags["lineage.git.dirty"], tags["lineage.git.left_out"]) == ("true", "images/large.npy")
    for name in ("params.yaml", "new [1].py", "requirements.lock", "images/large.npy"):
        assert name in tags["lineage.git.files"]
    assert "dvc.lock" not in tags["lineage.git.files"] and git("status", "--porcelain") == before
    clone = tmp_path_factory.mktemp("clone") / "clone"
    git("clone", "--quiet", str(repository), str(clone))
    git("checkout", "--quiet", tags["lineage.git.commit"], folder=clone)
    git("apply", str(kept / "uncommitted.diff"), folder=clone)
    made = {path.relative_to(clone): path.read_bytes() for path in clone.rglob("*") if path.is_file()}
    made = {path: content for path, content in made.items() if ".git" not in path.parts}
    assert made.pop(Path(".gitignore")) and sorted(made.values()) == sorted(changes.values())


@pytest.mark.parametrize("away", [False, True])
def test_a_run_tells_of_its_training_and_not_of_the_present(
    repository: Path, params: Params, monkeypatch: pytest.MonkeyPatch, away: bool
) -> None:
    """Commit, params, threads and what was not committed, also where MLflow was away until other work was committed,
    and for another server after that."""
    (repository / "new.py").write_text("x = 1\n")
    commit, text = git("rev-parse", "HEAD"), (repository / "params.yaml").read_bytes()
    with monkeypatch.context() as context:
        if away:
            context.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        train(params)
    (repository / "params.yaml").write_bytes(text.replace(b"image_size: 16", b"image_size: 32"))
    git("add", ".")
    git("commit", "--quiet", "-m", "later")
    monkeypatch.setattr("pipeline.tracking.server.AWAY_SECONDS", 0.0)
    for store in ("", "other.db"):
        if store:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{repository / store}")
        run_id = sync(connect(), load(), MODEL)
        tags, run = tags_of(run_id), connect().get_run(run_id)
        assert tags["lineage.git.commit"] == tags["mlflow.source.git.commit"] == commit
        assert (tags["lineage.git.dirty"], tags["lineage.git.files"]) == ("true", "new.py")
        assert tags["lineage.threads"] == str(torch.get_num_threads()) and tags["lineage.seeds"] == "0"
        assert (tags["lineage.device"], tags["device"]) == ("cpu", "cpu")
        assert tags["lineage.environment.sha256"] == sha256(repository / "requirements.lock")
        assert set(UNKNOWN) <= set(tags) and "unknown" not in tags.values() and tags["mlflow.user"]
        assert run.data.params["ingest.image_size"] == "16" and run.info.run_name == f"{MODEL}-0123456"
        assert artifact(run_id, "lineage/params.yaml") == text
        assert b"+x = 1" in artifact(run_id, "lineage/uncommitted.diff")


def test_a_training_that_goes_on_keeps_its_start_and_a_new_one_does_not(repository: Path, params: Params) -> None:
    """Killed, and resumed after a commit: the code of the start made it. Of equal key but done anew, it is another."""
    first = git("rev-parse", "HEAD")
    with pytest.raises(KeyboardInterrupt), live_run(params, MODEL, "0123456789abcdef"):
        raise KeyboardInterrupt
    git("commit", "--quiet", "--allow-empty", "-m", "later")
    run_id = train(params)
    assert tags_of(run_id)["lineage.git.commit"] == first
    assert sync(connect(), params, MODEL) == run_id
    other = train(params)
    assert other != run_id and tags_of(other)["lineage.git.commit"] == git("rev-parse", "HEAD")


@pytest.mark.usefixtures("repository")
def test_of_a_restored_checkpoint_the_commit_is_unknown_and_the_params_are_dvcs(params: Params) -> None:
    """Those of the stages before it, where they are still the present ones; the lock is kept with the run."""
    content = lock()
    run_id = sync(connect(), params, MODEL)
    run, tags = connect().get_run(run_id), tags_of(run_id)
    assert {key: tags[key] for key in UNKNOWN} == UNKNOWN
    assert run.data.params["ingest.image_size"] == "16" and run.data.params["learning_rate"] == "0.05"
    assert not any(key.startswith("registry.") for key in run.data.params)
    assert YAML(typ="safe").load(artifact(run_id, "lineage/dvc.lock").decode()) == content
    assert tags["lineage.dvc_lock.sha256"] == sha256(Path("dvc.lock"))


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize("changed", [{"checkpoint": "0" * 32}, {"made": "0" * 32}, {}])
def test_a_lock_or_params_of_another_state_are_not_said_to_be_the_trainings(
    params: Params, changed: dict[str, str]
) -> None:
    """The lock is of another checkpoint, or of newer images than these weights; or params.yaml was edited since."""
    lock(**changed)
    if not changed:
        path = Path("params.yaml")
        path.write_text(path.read_text().replace("image_size: 16", "image_size: 32"))
    run_id = sync(connect(), params, MODEL)
    assert connect().get_run(run_id).data.params == {}
    assert ("lineage.dvc_lock.sha256" in tags_of(run_id)) == (not changed)
    if changed:  # DVC has finished the stage
        lock()
        assert sync(connect(), params, MODEL) == run_id
        assert tags_of(run_id)["lineage.dvc_lock.sha256"] == sha256(Path("dvc.lock"))


def test_a_folder_without_git_is_no_obstacle(working_folder: Path, params: Params, monkeypatch: Any) -> None:
    """Nor a machine without git."""
    assert training_lineage()["lineage.git.commit"] == "none"
    monkeypatch.setenv("PATH", str(working_folder))
    assert training_lineage(working_folder)["lineage.git.commit"] == "none"
    assert read_memo(run_memo(MODEL)) == {}
