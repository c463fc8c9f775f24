"""What a run is: its params, where it comes from, and which one a training or a checkpoint belongs to."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts import read_json, sha256
from pipeline.config import Params
from pipeline.tracking.server import experiment_id

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

CHECKPOINT_TAG = "checkpoint.sha256"
MEMO = "run.json"  # of a training that is not over, or that the server does not know the end of
EPOCH_METRICS = (
    "learning_rate", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "gradient_norm", "gradient_norm_max",
)  # fmt: skip
SENT_MARK = "val_accuracy"  # an epoch that has it has all


def find_run(client: MlflowClient, params: Params, model: str, checkpoint: str) -> Run | None:
    """The newest run of this model that made this checkpoint."""
    where = f"tags.`{CHECKPOINT_TAG}` = '{checkpoint}' and tags.model = '{model}'"
    runs = client.search_runs([experiment_id(client, params.experiment)], where, max_results=1)
    return runs[0] if runs else None


def run_of(client: MlflowClient, params: Params, model: str, checkpoint: str, run_id: str) -> str:
    """One run a checkpoint: the id of the run that has it already, and `run_id` is deleted, or else `run_id`."""
    known = find_run(client, params, model, checkpoint)
    if known is not None and known.info.run_id != run_id:
        client.delete_run(run_id)
        return str(known.info.run_id)
    client.set_tag(run_id, CHECKPOINT_TAG, checkpoint)
    return run_id


def lineage() -> dict[str, str]:
    """Where a result comes from: code, environment and DVC's lock."""
    # git looks in the folders above as well, where a repository is not the project's
    ours = _git("rev-parse", "--show-toplevel") == str(Path.cwd())
    commit = _git("rev-parse", "HEAD") if ours else ""
    dirty = ours and bool(_git("status", "--porcelain"))
    tags = {"git.commit": commit or "none", "git.dirty": str(dirty).lower()}
    for tag, name in (("dvc_lock.sha256", "dvc.lock"), ("environment.sha256", "requirements.lock")):
        if Path(name).exists():
            tags[tag] = sha256(Path(name))
    return {f"lineage.{key}": value for key, value in tags.items()}


def data_lineage(artifacts: Path) -> dict[str, str]:
    """The data: a hash of the manifest, which holds the hash of every image, and one of the splits."""
    files = {"data": artifacts / "ingest" / "manifest.parquet", "splits": artifacts / "split" / "splits.parquet"}
    return {f"lineage.{name}.sha256": sha256(path) for name, path in files.items() if path.exists()}


def _git(*arguments: str) -> str:
    result = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else ""


def create_run(client: MlflowClient, params: Params, model: str) -> Run:
    architecture = _own_params(params, model)["architecture"]
    return client.create_run(
        experiment_id(client, params.experiment),
        run_name=model,
        tags={"model": model, "architecture": architecture, "mlflow.source.name": "dvc repro", **lineage()},
    )


def log_params(client: MlflowClient, params: Params, model: str, run_id: str) -> None:
    """The recipe under its plain names, everything else under its section's; what is there already changes nothing."""
    from mlflow.entities import Param

    values = _own_params(params, model)
    for section, content in params.model_dump(by_alias=True, exclude={"models", "ensembles", "train"}).items():
        values |= {f"{section}.{k}": v for k, v in content.items()} if isinstance(content, dict) else {section: content}
    client.log_batch(run_id, params=[Param(key, str(value)) for key, value in values.items()])


def _own_params(params: Params, model: str) -> dict[str, Any]:
    """What made a model: its architecture with its options and its recipe, or, of an ensemble, its members."""
    if model in params.ensembles:
        return {"architecture": "ensemble", "members": ", ".join(params.ensembles[model].members)}
    entry = params.models[model]
    options = {f"options.{key}": value for key, value in entry.options.items()}
    return {"architecture": entry.architecture, **options, **params.recipe(model).model_dump()}


def remembered(client: MlflowClient, memo: Path | None, field: str, value: str) -> Run | None:
    """The run in the memo, if `field` of the memo has this value and the server knows the run."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

    known = recalled(memo) if memo is not None else {}
    if known.get(field) != value:
        return None
    try:
        run = client.get_run(known["run_id"])
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        return None
    return None if run.info.lifecycle_stage == "deleted" else run


def recalled(memo: Path) -> dict[str, str]:
    return dict(read_json(memo)) if memo.exists() else {}


def sent_steps(client: MlflowClient, run_id: str, prefix: str) -> set[int]:
    return {metric.step for metric in client.get_metric_history(run_id, prefix + SENT_MARK)}
