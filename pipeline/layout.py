"""Every path below artifacts/, once; tests/test_dag.py holds dvc.yaml to it. All are relative to the project's folder,
where every command runs. `name` is a key of `models` or `ensembles`."""

from pathlib import Path

ARTIFACTS = Path("artifacts")

IMAGES = ARTIFACTS / "ingest" / "images.npy"
MANIFEST = ARTIFACTS / "ingest" / "manifest.parquet"
QUARANTINE = ARTIFACTS / "ingest" / "quarantine.csv"
PREPROCESSING = ARTIFACTS / "ingest" / "preprocessing.json"

REFERENCE = Path("data") / "reference"  # of the accepted data set, in git: no output
VALIDATION = ARTIFACTS / "validate" / "validation.json"
DUPLICATES = ARTIFACTS / "validate" / "duplicates.parquet"
FINDINGS = ARTIFACTS / "validate" / "findings.html"
DATA_DOCS = ARTIFACTS / "validate" / "docs"

SPLITS = ARTIFACTS / "split" / "splits.parquet"

POLICY = ARTIFACTS / "augment" / "policy.json"
NORM_STATS = ARTIFACTS / "augment" / "norm_stats.json"
SAMPLE_INDEX = ARTIFACTS / "augment" / "sample_index.parquet"
PREVIEW = ARTIFACTS / "augment" / "preview.png"

SUSPECTS = ARTIFACTS / "audit" / "suspects.csv"
SUSPECTS_PICTURE = ARTIFACTS / "audit" / "suspects.png"
BENCHMARK = ARTIFACTS / "benchmark" / "benchmark.json"
PARETO = ARTIFACTS / "benchmark" / "pareto.png"
REPORT = ARTIFACTS / "report" / "report.html"


def folder(stage: str, name: str) -> Path:
    return ARTIFACTS / stage / name


def metrics(stage: str, name: str) -> Path:
    return folder(stage, name) / "metrics.json"


def lineage(stage: str, name: str) -> Path:
    """Which trained checkpoint the metrics come from."""
    return folder(stage, name) / "lineage.json"


def checkpoint(stage: str, name: str) -> Path:
    """Of the stages train, prune and ensemble."""
    return folder(stage, name) / "checkpoint.safetensors"


def pruned_ensemble(name: str) -> Path:
    return folder("ensemble", name) / "pruned.safetensors"


def history(stage: str, name: str) -> Path:
    """A row an epoch, of train and prune."""
    return folder(stage, name) / "history.csv"


def examined(name: str) -> Path:
    return folder("train", name) / "examined.json"


def seeds(name: str) -> Path:
    """A folder: the table of all seeds, and the checkpoints of those that are not shipped."""
    return folder("train", name) / "seeds"


def seeds_table(name: str) -> Path:
    return seeds(name) / "seeds.csv"


def seed_checkpoint(name: str, seed: int) -> Path:
    return seeds(name) / f"seed-{seed}.safetensors"


def onnx(variant: str, name: str) -> Path:
    """`variant` as in artifacts.VARIANTS."""
    return folder("quantize" if "int8" in variant else "export", name) / f"{variant}.onnx"


def predictions(name: str) -> Path:
    return folder("evaluate", name) / "predictions.parquet"


def per_class(name: str) -> Path:
    return folder("evaluate", name) / "per_class.csv"


def tested_seeds(name: str) -> Path:
    return folder("evaluate", name) / "seeds.csv"


def picture(name: str, kind: str) -> Path:
    """`kind`: confusion, reliability, mistakes, curves."""
    return folder("evaluate", name) / f"{kind}.png"


def resume(stage: str, name: str) -> Path:
    """States of a training that is not over; no output of DVC, which would delete it before the stage runs again."""
    return Path("resume") / stage / name
