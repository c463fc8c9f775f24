"""A folder in which a model can be trained by the real commands: small digits, ingested, split and augmented."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import chdir
from pathlib import Path

from ruamel.yaml import YAML

from pipeline.artifacts import write_table
from pipeline.commands import data
from tests.conftest import NO_PAIRS, PROJECT

IMAGES, PREPROCESSING = Path("images.npy"), Path("preprocessing.json")
SPLITS, AUGMENTED = Path("splits.parquet"), Path("augment")
# What `train` is called with, after the model's name
INPUTS = [str(path) for path in (IMAGES, PREPROCESSING, SPLITS, AUGMENTED)]


def workspace(
    root: Path, images: Path, train: Mapping[str, object], architecture: str = "simple_cnn", policy: str = "digits"
) -> Path:
    """`train`: keys of that section that shall differ from the shipped params.yaml, for the one model `simple_cnn`."""
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
        data.ingest(IMAGES, Path("manifest.parquet"), Path("quarantine.csv"), PREPROCESSING)
        write_table(Path("pairs.parquet"), NO_PAIRS)
        data.split(Path("manifest.parquet"), Path("pairs.parquet"), SPLITS)
        data.augment(IMAGES, SPLITS, AUGMENTED)
    return root


def environment(root: Path) -> dict[str, str]:
    """For a process of its own that works in the folder."""
    return {
        **os.environ,
        "PYTHONPATH": str(PROJECT),
        "OMP_NUM_THREADS": "1",
        "MLFLOW_TRACKING_URI": f"sqlite:///{root / 'mlflow.db'}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
