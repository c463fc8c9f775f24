"""What a run is: its params, where it comes from, and which one a training or a checkpoint belongs to."""

import getpass
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Container, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag

from pipeline import layout
from pipeline.artifacts import read_json, sha256, write_json, write_whole
from pipeline.config import PARAMS, Params
from pipeline.tracking.lineage import code, machine

CHECKPOINT_TAG = "checkpoint.sha256"
LOCK_TAG = "lineage.dvc_lock.sha256"
# What is not known of a training that another machine did, or this one before it kept notes
UNKNOWN = {
    f"lineage.{key}": "unknown"
    for key in (
        "git.commit", "git.dirty", "environment.sha256", "torch", "numpy", "onnxruntime", "python", "processor",
        "instructions", "threads", "seeds", "device",
    )
}  # fmt: skip
# MLflow's page that compares runs opens on the metric that was sent first
EPOCH_METRICS = (
    "val_accuracy", "val_loss", "train_accuracy", "train_loss", "learning_rate", "gradient_norm", "gradient_norm_max",
)  # fmt: skip


def metric_name(name: str, seed: str = "") -> str:
    """With its section of MLflow's charts, `val/accuracy`, and if it is of one of several seeds, `val/accuracy.seed_3`.
    MLflow sorts sections and charts by name: `test` and `train`, which begin with accuracies, come first."""
    named = re.sub("^(best_)?(train|val)_", r"\2/\1", name)
    named = named if "/" in named else f"train/{named}"
    return f"{named}.{seed.rstrip('.')}" if seed else named


def find_run(client: MlflowClient, params: Params, where: str) -> Run | None:
    """The newest run that is not deleted and fits MLflow's filter `where`."""
    experiment = mlflow.set_experiment(params.experiment)
    runs = client.search_runs([experiment.experiment_id], where, max_results=1)
    return runs[0] if runs else None


def run_memo(model: str) -> Path:
    """Beside the states that a training resumes from: which run it is."""
    return layout.resume("train", model) / "run.json"


def read_memo(memo: Path) -> dict[str, Any]:
    """Of the last training: its "key" until the server knows its end, its "run_id" if the server knows it, "name",
    "params" and "tags" of its run, and of its "checkpoint" the SHA-256, if it came to one."""
    noted = dict(read_json(memo)) if memo.exists() else {}
    return noted if "tags" in noted else {}  # of an earlier version


def note_training(params: Params, model: str, memo: Path, key: str) -> dict[str, Any]:
    """Before the server is asked: where a training that starts now comes from is not to be known later. One of the
    same `key` goes on with what is noted."""
    noted = read_memo(memo)
    if noted.get("key") == key:
        return noted
    shutil.rmtree(kept(memo), ignore_errors=True)
    tags = training_lineage(kept(memo)) | {"mlflow.user": user_name()}
    if model in params.models:
        recipe = params.recipe(model)
        tags["lineage.seeds"] = ", ".join(str(seed) for seed in range(recipe.seed, recipe.seed + recipe.seeds))
    if PARAMS.exists():
        write_whole(kept(memo) / PARAMS.name, PARAMS.read_bytes())
    noted = {"key": key, "run_id": "", "name": f"{model}-{key[:7]}", "tags": tags, "params": run_params(params, model)}
    write_json(memo, noted)
    return noted


def note_end(memo: Path, checkpoint: Path, tags: Mapping[str, str]) -> dict[str, str]:
    """All tags of a run, with those that only its end knows."""
    noted = read_memo(memo)
    noted |= {"checkpoint": sha256(checkpoint), "tags": noted["tags"] | tags}
    write_json(memo, noted)
    return dict(noted["tags"])


def note_ensemble(params: Params, name: str) -> None:
    """One that was made just now, in no time: nothing was open meanwhile."""
    checkpoint = layout.checkpoint("ensemble", name)
    note_training(params, name, run_memo(name), sha256(checkpoint))
    note_end(run_memo(name), checkpoint, {})


def kept(memo: Path) -> Path:
    """The folder of the files that are noted with a training, for its run's artifacts `lineage/`."""
    return memo.parent / "lineage"


def noted_run(client: MlflowClient, params: Params, memo: Path, field: str, value: str) -> Run | None:
    """The run in the memo, if `field` of the memo has this value and the server knows the run."""
    noted = read_memo(memo)
    known = noted.get(field) == value and noted["run_id"]
    return find_run(client, params, f"attributes.run_id = '{noted['run_id']}'") if known else None


def create_run(client: MlflowClient, params: Params, model: str, noted: Mapping[str, Any]) -> Run:
    """With the name, the params and the tags that are `noted` of its training."""
    architecture = "ensemble" if model in params.ensembles else params.models[model].architecture
    tags = {
        "model": model, "architecture": architecture,
        "mlflow.source.name": "dvc repro", "mlflow.source.type": "PROJECT",
        "mlflow.source.git.commit": noted["tags"]["lineage.git.commit"],
        "mlflow.note.content": f"{model} ({architecture}) on {params.ingest.source}, by `dvc repro`",
    }  # fmt: skip
    experiment = mlflow.set_experiment(params.experiment).experiment_id
    run = client.create_run(experiment, run_name=noted["name"], tags=tags | noted["tags"])
    client.log_batch(run.info.run_id, params=[Param(key, value) for key, value in noted["params"].items()])
    return run


def run_params(params: Params, model: str, sections: Container[str] | None = None) -> dict[str, str]:
    """Those of the model under their plain names, everything else under its section's; or some `sections` alone."""
    if model in params.ensembles:
        values: dict[str, Any] = {"architecture": "ensemble", "members": ", ".join(params.ensembles[model].members)}
    else:
        entry = params.models[model]
        options = {f"options.{key}": value for key, value in entry.options.items()}
        values = {"architecture": entry.architecture, **options, **params.recipe(model).model_dump()}
    for section, content in params.model_dump(by_alias=True, exclude={"models", "ensembles", "train"}).items():
        if sections is None or section in sections:
            named = {f"{section}.{key}": value for key, value in content.items()} if isinstance(content, dict) else {}
            values |= named or {section: content}
    return {key: str(value) for key, value in values.items()}


def send_once(
    client: MlflowClient, run: Run, what: str, digest: str, values: Mapping[str, float], folder: Path | None = None
) -> None:
    """Metrics, and the files of a folder, unless the run's tag says that these are there."""
    tag = f"recorded.{what}"
    if run.data.tags.get(tag) != digest:
        now = int(time.time() * 1000)
        client.log_batch(run.info.run_id, metrics=[Metric(name, value, now, 0) for name, value in values.items()])
        if folder is not None:
            client.log_artifacts(run.info.run_id, str(folder), what)
        client.set_tag(run.info.run_id, tag, digest)


def digest_of(folder: Path) -> str:
    """SHA-256 of the files in a folder, without their names."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(bytes.fromhex(sha256(path)) for path in files)).hexdigest()


def send_data(client: MlflowClient, params: Params, run_id: str, hashes: Mapping[str, str]) -> None:
    """The splits, as they are needed to compare models later, and what MLflow shows as the run's dataset."""
    client.log_artifact(run_id, str(layout.SPLITS), "data")
    if digest := hashes.get("lineage.data.sha256"):
        source = json.dumps({"uri": f"{params.ingest.source}: {params.ingest.root}"})
        dataset = Dataset(params.experiment, digest[:32], "local", source)  # MLflow takes no more than 36 characters
        client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
    set_tags(client, run_id, hashes)


def set_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """In one request."""
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def send_kept(client: MlflowClient, run: Run, memo: Path) -> None:
    """params.yaml and what was not committed, as they were when the training began."""
    if kept(memo).exists():
        send_once(client, run, "lineage", digest_of(kept(memo)), {}, kept(memo))


def sent_epochs(client: MlflowClient, run_id: str, prefix: str) -> set[int]:
    return {metric.step for metric in client.get_metric_history(run_id, metric_name("val_accuracy", prefix))}


def send_epochs(
    client: MlflowClient, run_id: str, prefix: str, rows: Sequence[Mapping[Any, float]], sent: Set[int]
) -> None:
    """Those that are not `sent` yet: a killed training may do one again. `prefix`: `seed_3.`, of one of several."""
    missing = [row for row in rows if row["epoch"] not in sent]
    now = int(time.time() * 1000)
    for i in range(0, len(missing), 50):  # a request may hold 1,000 metrics
        metrics = [
            Metric(metric_name(name, prefix), float(value), now, int(row["epoch"]))
            for row in missing[i : i + 50]
            for name, value in row.items()
            if name != "epoch"
        ]
        client.log_batch(run_id, metrics=metrics)


def training_lineage(keep: Path | None = None) -> dict[str, str]:
    """Code, environment and machine of a training that starts now, as a run's tags. What is not committed goes to a
    file in the folder `keep`."""
    tags = code(keep) | machine()
    if (environment := Path("requirements.lock")).exists():
        tags["environment.sha256"] = sha256(environment)
    return {f"lineage.{key}": value for key, value in tags.items()}


def data_lineage() -> dict[str, str]:
    """The data: a hash of the manifest, which holds the hash of every image, and one of the splits."""
    files = {"data": layout.MANIFEST, "splits": layout.SPLITS}
    return {f"lineage.{name}.sha256": sha256(path) for name, path in files.items() if path.exists()}


def recorded_lineage(client: MlflowClient, run_id: str) -> dict[str, str]:
    """What a run says of where its model comes from, for the versions that are made of it."""
    return {key: value for key, value in client.get_run(run_id).data.tags.items() if key.startswith("lineage.")}


def user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())
