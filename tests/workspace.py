"""A folder in which a model can be trained by the real commands: small digits, ingested, split and augmented."""

import os
from collections.abc import Mapping
from contextlib import chdir
from pathlib import Path

from ruamel.yaml import YAML

from pipeline import layout
from pipeline.artifacts import write_table
from pipeline.cli.stages import run_stage
from tests.conftest import NO_PAIRS, PROJECT


def workspace(
    root: Path, images: Path, train: Mapping[str, object], architecture: str = "simple_cnn", policy: str = "digits"
) -> Path:
    """`train`: keys of that section that should differ from the shipped params.yaml, for the one model `simple_cnn`."""
    root.mkdir(parents=True, exist_ok=True)
    yaml = YAML(typ="safe", pure=True)
    params = yaml.load(PROJECT / "params.yaml")
    params["ingest"] |= {"source": "image_folder", "root": str(images), "workers": 1}
    params["split"] |= {"validation": 0.2, "test": 0.2}
    params["models"] = {"simple_cnn": {"architecture": architecture}}
    params["augment"]["policy"] = policy
    params["train"] |= {"precision": "float32", "threads": 1, "device": "cpu", "batch_size": 16, **train}
    yaml.dump(params, root / "params.yaml")
    with chdir(root):
        write_table(layout.DUPLICATES, NO_PAIRS)
        for stage in ("ingest", "split", "augment"):
            run_stage(stage)
    return root


def environment(root: Path) -> dict[str, str]:
    """For a process of its own that works in the folder."""
    uri = f"sqlite:///{root / 'mlflow.db'}"
    ours = {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": uri}
    return {**os.environ, **ours, "MLFLOW_DISABLE_TELEMETRY": "true"}
