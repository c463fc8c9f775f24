"""What a run is: its params, where it comes from, and which one a training or a checkpoint belongs to."""

import subprocess
import time
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run

from pipeline import layout
from pipeline.artifacts import read_json, sha256
from pipeline.config import Params

CHECKPOINT_TAG = "checkpoint.sha256"
EPOCH_METRICS = (
    "learning_rate", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "gradient_norm", "gradient_norm_max",
)  # fmt: skip


def find_run(client: MlflowClient, params: Params, where: str) -> Run | None:
    """The newest run that is not deleted and fits MLflow's filter `where`."""
    experiment = mlflow.set_experiment(params.experiment)
    runs = client.search_runs([experiment.experiment_id], where, max_results=1)
    return runs[0] if runs else None


def run_memo(model: str) -> Path:
    """Beside the states that a training resumes from: which run it is."""
    return layout.resume("train", model) / "run.json"


def read_memo(memo: Path) -> dict[str, str]:
    """{"key", "run_id", "checkpoint"} of a training that is not over, or that the server does not know the end of."""
    return dict(read_json(memo)) if memo.exists() else {}


def noted_run(client: MlflowClient, params: Params, memo: Path, field: str, value: str) -> Run | None:
    """The run in the memo, if `field` of the memo has this value and the server knows the run."""
    noted = read_memo(memo)
    return find_run(client, params, f"attributes.run_id = '{noted['run_id']}'") if noted.get(field) == value else None


def create_run(client: MlflowClient, params: Params, model: str) -> Run:
    """With its params: those of the model under their plain names, everything else under its section's."""
    if model in params.ensembles:
        values: dict[str, Any] = {"architecture": "ensemble", "members": ", ".join(params.ensembles[model].members)}
    else:
        entry = params.models[model]
        options = {f"options.{key}": value for key, value in entry.options.items()}
        values = {"architecture": entry.architecture, **options, **params.recipe(model).model_dump()}
    tags = {"model": model, "architecture": values["architecture"], "mlflow.source.name": "dvc repro", **lineage()}
    for section, content in params.model_dump(by_alias=True, exclude={"models", "ensembles", "train"}).items():
        values |= {f"{section}.{k}": v for k, v in content.items()} if isinstance(content, dict) else {section: content}
    run = client.create_run(mlflow.set_experiment(params.experiment).experiment_id, run_name=model, tags=tags)
    client.log_batch(run.info.run_id, params=[Param(key, str(value)) for key, value in values.items()])
    return run


def sent_epochs(client: MlflowClient, run_id: str, prefix: str) -> set[int]:
    return {metric.step for metric in client.get_metric_history(run_id, f"{prefix}val_accuracy")}


def send_epochs(
    client: MlflowClient, run_id: str, prefix: str, rows: Sequence[Mapping[Any, float]], sent: Set[int]
) -> None:
    """Those that are not `sent` yet: a killed training may do one again. `prefix`: of the metrics' names."""
    missing = [row for row in rows if row["epoch"] not in sent]
    now = int(time.time() * 1000)
    for i in range(0, len(missing), 50):  # a request may hold 1,000 metrics
        metrics = [
            Metric(prefix + name, float(value), now, int(row["epoch"]))
            for row in missing[i : i + 50]
            for name, value in row.items()
            if name != "epoch"
        ]
        client.log_batch(run_id, metrics=metrics)


def lineage() -> dict[str, str]:
    """Code, environment and DVC's lock. A repository in a folder above, where git looks too, is not the project's."""
    ours = _git("rev-parse", "--show-toplevel") == str(Path.cwd())
    dirty = ours and bool(_git("status", "--porcelain"))
    tags = {"git.commit": (ours and _git("rev-parse", "HEAD")) or "none", "git.dirty": str(dirty).lower()}
    files = {"dvc_lock.sha256": Path("dvc.lock"), "environment.sha256": Path("requirements.lock")}
    tags |= {tag: sha256(path) for tag, path in files.items() if path.exists()}
    return {f"lineage.{key}": value for key, value in tags.items()}


def data_lineage() -> dict[str, str]:
    """The data: a hash of the manifest, which holds the hash of every image, and one of the splits."""
    files = {"data": layout.MANIFEST, "splits": layout.SPLITS}
    return {f"lineage.{name}.sha256": sha256(path) for name, path in files.items() if path.exists()}


def _git(*arguments: str) -> str:
    result = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else ""
