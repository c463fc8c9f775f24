"""The way back: the training of a version once more, in a clone of its commit, and whether it comes to the same."""

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
HERE = "cache-of-the-workspace"


class Origin(NamedTuple):
    """What is known of a version's training. Files are None that are gone with its run, as runs get deleted."""

    version: str
    model: str
    maker: str  # the stage that made the weights
    tags: dict[str, str]
    params: Path | None
    diff: Path | None
    splits: Path | None
    checkpoint: Path | None


class Reproduced(NamedTuple):
    """`largest`: difference of a weight; None where it is not known. `facts`: a row each, `what`, `then`, `now`."""

    version: str
    model: str
    commit: str
    identical: bool
    checkpoint: dict[str, str]
    largest: float | None
    facts: list[dict[str, str]]


def reproduce(name: str, wanted: str, clone: Path, environment: bool = False) -> Reproduced:
    """`clone`: a folder that is made. `environment`: install requirements.lock there, with `make setup`. Writes nothing
    elsewhere. Raises UserError if what made the version is not known, not to be had or not the same any more."""
    if clone.exists() and any(clone.iterdir()):
        raise UserError(f"{clone} is not empty: name a new folder")
    clone = clone.resolve()
    with TemporaryDirectory() as folder:
        origin = _origin(name, wanted, Path(folder))
        tags, stage = origin.tags, f"{origin.maker}@{origin.model}"
        _check_out(origin, clone)
        _bring_data(stage, clone)
        if environment:
            _run(["make", "setup"], clone)
        programs = clone / ".venv" / "bin" if environment else Path(sys.executable).parent
        # The clone's own MLflow; the parent may be a run or a stage
        env = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "DVC_", "GIT_"))}
        env |= {"PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
        env |= {"OMP_NUM_THREADS": tags["lineage.threads"], "MLFLOW_DISABLE_TELEMETRY": "true"}
        repro = ["python", "-m", "dvc", "repro", "--no-run-cache"]
        _run([*repro, "ingest"], clone, env)
        _expect_data(origin, clone)
        if origin.splits:  # images keep the sides that they got when there were fewer of them
            (splits := clone / layout.SPLITS).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(origin.splits, splits)
        _run([*repro, stage], clone, env)
        return _compared(origin, clone)


@explained()
def _origin(name: str, wanted: str, folder: Path) -> Origin:
    client = connect()
    known = version_of(client, name, wanted)
    tags = {"lineage.threads": "unknown", **known.tags}
    missing = [
        *lineage_problems(tags),
        *(["lineage.threads is unknown"] if tags["lineage.threads"] == "unknown" else []),
    ]

    def kept(path: str) -> Path | None:
        try:
            there = [file.path for file in client.list_artifacts(str(known.run_id), path.rpartition("/")[0])]
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            there = []
        return Path(client.download_artifacts(str(known.run_id), path, str(folder))) if path in there else None

    diff = kept(f"lineage/{DIFF}")
    if tags.get("lineage.git.dirty") != "false" and not diff:
        missing.append(f"its run {known.run_id} has no lineage/{DIFF}, and not all was committed")
    if missing:
        raise UserError(f"version {known.version} of {name} cannot be made again: {', '.join(missing)}")
    splits = kept("data/splits.parquet")
    if not splits:
        model = mlflow.artifacts.download_artifacts(f"models:/{name}/{known.version}", dst_path=str(folder / "model"))
        splits = next(Path(model).rglob("splits.parquet"), None)
    if splits and sha256(splits) != tags["lineage.splits.sha256"]:  # made anew between training and registering
        splits = None
    maker = "ensemble" if card_of(name, known).architecture == "ensemble" else "train"
    files = (kept(f"lineage/{PARAMS.name}"), diff, splits, kept(f"{maker}/checkpoint.safetensors"))
    return Origin(str(known.version), tags["model"], maker, tags, *files)


def _check_out(origin: Origin, clone: Path) -> None:
    commit = origin.tags["lineage.git.commit"]
    _run(["git", "clone", "--quiet", "--no-checkout", str(Path.cwd()), str(clone)])
    _run(["git", "checkout", "--quiet", "--detach", commit], clone, fix="`git fetch` the commit of the training")
    if origin.diff and origin.diff.stat().st_size:
        _run(["git", "apply", "--whitespace=nowarn", str(origin.diff)], clone)
    if origin.params:
        shutil.copy(origin.params, clone / PARAMS)
    (clone / LOCK).unlink(missing_ok=True)  # by which DVC would take what it has, instead of training


def _bring_data(stage: str, clone: Path) -> None:
    """What DVC tracks, from this workspace's cache or the remotes; else what git does not have of the source."""
    cache = str(clone / ".dvc" / "cache")
    _run([sys.executable, "-m", "dvc", "config", "--local", "cache.dir", cache], clone)
    with Repo() as ours:
        remotes = {**ours.config["remote"], HERE: {"url": ours.cache.local_cache_dir}}  # no password is written
        settings = {"remote": remotes, "core": dict(ours.config["core"])}
    with chdir(clone), Repo(config=settings) as repo:
        try:
            if tracked := [each.addressing for each in repo.stage.collect(stage, with_deps=True) if not each.cmd]:
                try:
                    repo.pull(tracked, remote=HERE)
                except DvcException:
                    repo.pull(tracked)
        except DvcException as error:
            raise UserError(f"the data of {stage} are not to be had: {error}: `dvc pull` them here") from error
    yaml = YAML()
    params = yaml.load(clone / PARAMS)
    root = Path(os.path.normpath(Path.cwd() / params["ingest"]["root"]))
    if not root.is_relative_to(Path.cwd()):
        params["ingest"]["root"] = str(root)
        yaml.dump(params, clone / PARAMS)
    elif not tracked and root.exists():
        listed = subprocess.run(["git", "ls-files", "--others", "-z", "--", str(root)], capture_output=True, check=True)
        for path in (Path(os.fsdecode(name)) for name in listed.stdout.split(b"\0") if name):
            if not os.path.lexists(clone / path):
                (clone / path).parent.mkdir(parents=True, exist_ok=True)
                (clone / path).symlink_to(path.absolute())


def _expect_data(origin: Origin, clone: Path) -> None:
    """By the hash of the manifest; other versions of pyarrow write other bytes, so then by the images themselves."""
    manifest = clone / layout.MANIFEST
    if sha256(manifest) == origin.tags["lineage.data.sha256"]:
        return
    how = "how is not known, as their list is gone"
    if origin.splits:
        files = (origin.splits, manifest)
        then, now = ({*read_table(file)[["path", "class", "sha256"]].itertuples(index=False)} for file in files)
        if then == now:
            return
        how = f"{len(then - now):,} images of then are not there, {len(now - then):,} were not there then"
    root = YAML(typ="safe").load(clone / PARAMS)["ingest"]["root"]
    fix = "put back what was there, from a backup; `dvc add` keeps each version from now on (docs/data-versioning.md)"
    raise UserError(f"the data in {root} have changed since version {origin.version}: {how}: {fix}")


def _compared(origin: Origin, clone: Path) -> Reproduced:
    checkpoint, largest = clone / layout.checkpoint(origin.maker, origin.model), None
    if origin.checkpoint:
        then, now = load_file(origin.checkpoint), load_file(checkpoint)
        if {key: each.shape for key, each in then.items()} == {key: each.shape for key, each in now.items()}:
            largest = max(float((then[key].double() - now[key].double()).abs().max()) for key in then)
    noted: dict[str, Any] = read_memo(clone / run_memo(origin.model))["tags"]
    noted |= {
        "lineage.data.sha256": sha256(clone / layout.MANIFEST),
        "lineage.splits.sha256": sha256(clone / layout.SPLITS),
    }
    keys = [f"lineage.{fact}" for fact in (*FACTS, "data.sha256", "splits.sha256")]
    facts = [
        {
            "what": key.removeprefix("lineage."),
            "then": origin.tags.get(key, "unknown"),
            "now": noted.get(key, "unknown"),
        }
        for key in keys
    ]
    if left := origin.tags.get("lineage.git.left_out"):
        facts.append({"what": "files that were not committed", "then": left, "now": "not there"})
    hashes = {"then": origin.tags[CHECKPOINT_TAG], "now": sha256(checkpoint)}
    identical = hashes["then"] == hashes["now"]
    return Reproduced(
        origin.version, origin.model, origin.tags["lineage.git.commit"], identical, hashes, largest, facts
    )


def _run(command: list[str], folder: Path = Path(), env: dict[str, str] | None = None, fix: str = "see above") -> None:
    """What it prints goes to stderr, beside which --json can stand."""
    if subprocess.run(command, cwd=folder, env=env, stdout=sys.stderr, check=False).returncode:
        raise UserError(f"`{shlex.join(command)}` failed in {folder.resolve()}: {fix}")
