"""From a version back to its data and code, as a person does it: real clones, DVC, MLflow and trainings."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_digits
from tests.project import Project, clone
from tests.test_data_versioning import RAW, commit_images, files

pytestmark = pytest.mark.slow
REPRODUCE = "python -m pipeline reproduce"
EXPORT = """
from pipeline import layout
from pipeline.artifacts import read_dataset, sha256, write_json
from pipeline.config import Export
from pipeline.networks import weights
from pipeline.stages.export import export

checkpoint = layout.checkpoint("train", "simple_cnn")
export(*weights.load(checkpoint), *read_dataset().of("val"), Export(), layout.onnx("fp32", "simple_cnn"))
row = {"model": "simple_cnn", "variant": "fp32", "checkpoint": sha256(checkpoint), "accuracy": 0.5}
row |= {"val_accuracy": 0.5, "size_mb": 1.0, "latency_ms": 1.0}
write_json(layout.BENCHMARK, {"variants": [row]})
"""


def commit(project: Project, message: str) -> None:
    project.run("git add -A")
    project.run(["git", "commit", "-qm", message])


def train_and_register(project: Project) -> None:
    """By DVC as far as the training; what the later stages would add, `register` reads of one file."""
    project.run("dvc repro train@simple_cnn")
    project.run(["python", "-c", EXPORT])
    project.run("python -m pipeline register")


def reproduced(project: Project, arguments: str, code: int = 0) -> dict[str, Any]:
    output = project.run(f"{REPRODUCE} {arguments} --json", code)
    found: dict[str, Any] = json.loads(output[output.index("{\n") : output.rindex("\n}") + 2])
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Version 1: with params that were not committed. Since then three commits, one of which changed the images, which
    DVC tracks, and one the params; version 2 is of these, with images added to what was split before."""
    made = clone(tmp_path_factory.mktemp("reproduce") / "project")
    made.env["OMP_NUM_THREADS"] = "1"
    raw = write_digits(made.root / RAW, classes=2, per_class=40)
    changes = {
        "source: digits": "source: image_folder", 'root: "data/downloads"': f'root: "{RAW}"',
        "workers: 0": "workers: 1",
        "  modern_cnn:\n    architecture: modern_cnn\n    learning_rate: 0.05\n": "", "epochs: 10": "epochs: 2",
        "  simple_resnet:\n    architecture: simple_resnet\n    learning_rate: 0.05\n": "",
        "precision: auto": "precision: float32", "min_accuracy: 0.9": "min_accuracy: 0.0",
    }  # fmt: skip
    for old, new in changes.items():
        made.change(old, new)
    made.run("git init -q -b main")
    commit(made, "start")
    commit_images(made)
    made.change("weight_decay: 0.0005", "weight_decay: 0.0001")
    train_and_register(made)
    commit(made, "first model")
    shutil.copy(raw / "digit-0" / "001.png", raw / "digit-0" / "new.png")
    write_digits(made.root / "more", classes=2, per_class=60)
    for file in (made.root / "more").rglob("04*.png"):
        shutil.move(file, raw / file.parent.name / file.name)
    shutil.rmtree(made.root / "more")
    commit_images(made)
    made.change("epochs: 2", "epochs: 1")
    commit(made, "fewer epochs")
    train_and_register(made)
    commit(made, "second model")
    return made


def test_a_version_of_three_commits_and_one_data_change_ago_is_identical(project: Project, tmp_path: Path) -> None:
    """And leaves this workspace as it is. It is really trained: nothing comes from DVC's cache but the images."""
    before = {path: content for path, content in files(project.root).items() if not path.startswith(".dvc/tmp")}
    output = project.run(f"{REPRODUCE} 1 --into {tmp_path / 'again'}")
    assert project.ran(output) == {"ingest", "validate", "split", "augment", "train@simple_cnn"}
    assert "identical: simple_cnn, version 1" in output
    after = {path: content for path, content in files(project.root).items() if not path.startswith(".dvc/tmp")}
    assert {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)} == set()
    assert "weight_decay: 0.0001" in (tmp_path / "again" / "params.yaml").read_text()
