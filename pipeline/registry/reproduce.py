"""The way back: a version's training once more, in a clone of its commit, and whether it comes to the same weights."""

import os
import shlex
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import mlflow
from dvc.exceptions import DvcException
from dvc.repo import Repo
from mlflow.exceptions import MlflowException
from ruamel.yaml import YAML
from safetensors.torch import load_file

from pipeline import layout
from pipeline.artifacts import read_table, sha256
from pipeline.config import PARAMS
from pipeline.errors import UserError
from pipeline.registry.versions import card_of, lineage_problems, version_of
from pipeline.tracking.lineage import DIFF, LOCK
from pipeline.tracking.runs import CHECKPOINT_TAG, read_memo, run_memo
from pipeline.tracking.server import connect, explained

# Tags of a training that decide its weights, beside code and params
FACTS = ("processor", "instructions", "threads", "device", "torch", "numpy", "python", "environment.sha256")
CACHE = "cache-of-the-workspace"


class Origin(NamedTuple):
    """Of a version. What is gone with its run is None; `maker` is the stage that made the checkpoint."""

    version: str
    tags: dict[str, str]
    maker: str
    params: Path | None
    diff: Path | None
    splits: Path | None
    checkpoint: Path | None


def reproduce(name: str, wanted: str, clone: Path, environment: bool = False) -> dict[str, Any]:
    """Train a version again in the new folder `clone`, and nowhere else; with `environment`, by packages installed
    there. The answer: `version`, `model`, `commit`, `identical`, `largest` (difference of a weight; None: not known),
    and `facts`, rows of `what`, `then` and `now`. Raises UserError if what made it is not known or not to be had."""
    if (clone := clone.resolve()).exists() and any(clone.iterdir()):
        raise UserError(f"{clone} is not empty: name a new folder")
    with TemporaryDirectory() as folder:
        origin = _origin(name, wanted, Path(folder))
        stage = f"{origin.maker}@{origin.tags['model']}"
        _check_out(origin, clone)
        _bring_data(stage, clone)
        if environment:
            _run(["make", "setup"], clone)
        programs = clone / ".venv" / "bin" if environment else Path(sys.executable).parent
        # Not this workspace's MLflow, nor the run or stage that this process may be part of
        env = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "DVC_", "GIT_"))}
        env["PATH"] = f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        env["OMP_NUM_THREADS"] = origin.tags["lineage.threads"]
        repro = ["python", "-m", "dvc", "repro", "--no-run-cache"]
        _run([*repro, "ingest"], clone, env)
        _expect_data(origin, clone)
        if origin.splits:  # images stay on the side that they got when there were fewer of them
            (splits := clone / layout.SPLITS).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(origin.splits, splits)
        _run([*repro, stage], clone, env)
        return _compared(origin, clone)


@explained()
def _origin(name: str, wanted: str, folder: Path) -> Origin:
    client = connect()
    known = version_of(client, name, wanted)
    tags, number, run_id = known.tags, str(known.version), str(known.run_id)

    def kept(path: str) -> Path | None:
        try:
            there = [file.path for file in client.list_artifacts(run_id, path.rpartition("/")[0])]
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            there = []
        return Path(client.download_artifacts(run_id, path, str(folder))) if path in there else None

    missing, diff = list(lineage_problems(tags)), kept(f"lineage/{DIFF}")
    if tags.get("lineage.git.commit") == "none":
        missing.append("lineage.git.commit is none, as the project had no git")
    if tags.get("lineage.threads", "unknown") == "unknown":
        missing.append("lineage.threads is unknown")
    if tags.get("lineage.git.dirty") != "false" and not diff:
        missing.append(f"lineage/{DIFF} is gone with run {run_id}, and not all was committed")
    if missing:
        raise UserError(f"version {number} of {name} cannot be made again: {', '.join(missing)}")
    splits = kept("data/splits.parquet")
    if not splits:
        model = mlflow.artifacts.download_artifacts(f"models:/{name}/{number}", dst_path=str(folder))
        splits = next(Path(model).rglob("splits.parquet"), None)
    if splits and sha256(splits) != tags["lineage.splits.sha256"]:  # made again between training and registering
        splits = None
    maker = "ensemble" if card_of(name, known).architecture == "ensemble" else "train"
    params, checkpoint = kept(f"lineage/{PARAMS.name}"), kept(f"{maker}/checkpoint.safetensors")
    return Origin(number, tags, maker, params, diff, splits, checkpoint)


def _check_out(origin: Origin, clone: Path) -> None:
    _run(["git", "clone", "--quiet", "--no-checkout", str(Path.cwd()), str(clone)])
    commit = origin.tags["lineage.git.commit"]
    _run(["git", "checkout", "--quiet", "--detach", commit], clone, fix="`git fetch` the branch that has this commit")
    if origin.diff and origin.diff.stat().st_size:
        _run(["git", "apply", "--whitespace=nowarn", str(origin.diff)], clone)
    if origin.params:
        shutil.copy(origin.params, clone / PARAMS)
    (clone / LOCK).unlink(missing_ok=True)  # by which DVC would take what it has, instead of training


def _bring_data(stage: str, clone: Path) -> None:
    """What DVC tracks, from this workspace's cache or a remote; else links to what git does not have of the source."""
    _run([sys.executable, "-m", "dvc", "config", "--local", "cache.dir", str(clone / ".dvc" / "cache")], clone)
    with Repo() as ours:  # its remotes are given, not written, as they may hold passwords
        settings = {
            "remote": ours.config["remote"] | {CACHE: {"url": ours.cache.local_cache_dir}}, "core": ours.config["core"]
        }  # fmt: skip
    with chdir(clone), Repo(config=settings) as repo:
        try:
            tracked = [needed.addressing for needed in repo.stage.collect(stage, with_deps=True) if not needed.cmd]
            for remote in (CACHE, None) if tracked else ():
                try:
                    repo.pull(tracked, remote=remote)
                    break
                except DvcException:
                    if remote is None:
                        raise
        except DvcException as error:
            raise UserError(f"{stage} needs data that are neither in DVC's cache nor in a remote: {error}") from error
    params = YAML().load(clone / PARAMS)
    root = Path(os.path.normpath(Path.cwd() / params["ingest"]["root"]))
    if not root.is_relative_to(Path.cwd()):
        params["ingest"]["root"] = str(root)
        YAML().dump(params, clone / PARAMS)
    elif not tracked and root.exists():
        listed = subprocess.run(["git", "ls-files", "--others", "-z", "--", str(root)], capture_output=True, check=True)
        for path in (Path(os.fsdecode(name)) for name in listed.stdout.split(b"\0") if name):
            if not os.path.lexists(clone / path):
                (clone / path).parent.mkdir(parents=True, exist_ok=True)
                (clone / path).symlink_to(path.absolute())


def _expect_data(origin: Origin, clone: Path) -> None:
    """By the hash of the manifest; another pyarrow writes other bytes, so then by the hashes of the images."""
    if sha256(clone / layout.MANIFEST) == origin.tags["lineage.data.sha256"]:
        return
    how = "how is not known, as their list is gone"
    if origin.splits:
        files = (origin.splits, clone / layout.MANIFEST)
        then, now = ({*read_table(file)[["path", "class", "sha256"]].itertuples(index=False)} for file in files)
        if then == now:
            return
        how = f"{len(then - now):,} of the images are gone or others, {len(now - then):,} are new"
    fix = "put the old ones back from a backup; `dvc add` keeps each version (docs/data-versioning.md)"
    raise UserError(f"ingest.root does not hold the data of version {origin.version} any more: {how}: {fix}")


def _compared(origin: Origin, clone: Path) -> dict[str, Any]:
    tags, model, largest = origin.tags, origin.tags["model"], None
    checkpoint = clone / layout.checkpoint(origin.maker, model)
    if origin.checkpoint:
        old, new = load_file(origin.checkpoint), load_file(checkpoint)
        if {key: tensor.shape for key, tensor in old.items()} == {key: tensor.shape for key, tensor in new.items()}:
            largest = max(float((old[key].double() - new[key].double()).abs().max()) for key in old)
    noted = {CHECKPOINT_TAG: sha256(checkpoint), **read_memo(clone / run_memo(model))["tags"]}
    noted |= {"lineage.data.sha256": sha256(clone / layout.MANIFEST)}
    noted |= {"lineage.splits.sha256": sha256(clone / layout.SPLITS), "lineage.git.left_out": ""}
    keys = [CHECKPOINT_TAG, *(f"lineage.{fact}" for fact in (*FACTS, "data.sha256", "splits.sha256"))]
    keys += ["lineage.git.left_out"] if "lineage.git.left_out" in tags else []  # files that nothing has kept
    facts = [{"what": key, "then": tags.get(key, "unknown"), "now": noted.get(key, "unknown")} for key in keys]
    identical = noted[CHECKPOINT_TAG] == tags[CHECKPOINT_TAG]
    made = {"version": origin.version, "model": model, "commit": tags["lineage.git.commit"]}
    return {**made, "identical": identical, "largest": largest, "facts": facts}


def _run(command: list[str], folder: Path = Path(), env: dict[str, str] | None = None, fix: str = "see above") -> None:
    """What it prints goes to stderr, as stdout is for the answer."""
    if subprocess.run(command, cwd=folder, env=env, stdout=sys.stderr, check=False).returncode:
        raise UserError(f"`{shlex.join(command)}` failed in {folder.resolve()}: {fix}")
