"""From a version back to its data and code, as a person does it: real clones, DVC, MLflow and trainings."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from tests.conftest import write_digits
from tests.project import Project, clone
from tests.test_data_versioning import RAW, commit_images, files

pytestmark = pytest.mark.long
MINE = "data/mine"  # which git ignores
REPRODUCE = "python -m pipeline reproduce"
EXPORT = """
import numpy as np
from pipeline import layout
from pipeline.artifacts import read_dataset, sha256, write_json, write_metrics, write_table
from pipeline.config import Export
from pipeline.evaluation import metrics
from pipeline.inference.predictor import Predictor
from pipeline.networks import weights
from pipeline.stages.export import export

checkpoint, onnx = layout.checkpoint("train", "simple_cnn"), layout.onnx("fp32", "simple_cnn")
network, card = weights.load(checkpoint)
export(network, card, *read_dataset().of("val"), Export(), onnx)
images, labels = read_dataset().of("test")
scores = Predictor(onnx).probabilities(images)
write_metrics("evaluate", "simple_cnn", metrics.summary(scores, labels, np.arange(len(labels)), 15), checkpoint)
write_table(layout.per_class("simple_cnn"), metrics.per_class(scores, labels, card.class_names))
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


def answer(output: str) -> Any:
    """The JSON in what a verb and its children print, the latter to stderr."""
    start = re.search(r"^[\[{]$", output, re.MULTILINE)
    assert start
    return json.JSONDecoder().raw_decode(output[start.start() :])[0]


def reproduced(project: Project, arguments: str, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = answer(project.run(f"{REPRODUCE} {arguments} --json", code))
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
    # For --environment, this one instead of 6 GB
    (made.root / "Makefile").write_text(f"setup:\n\tln -s {sys.prefix} .venv\n")
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
    before = files(project.root)
    output = project.run(f"{REPRODUCE} 1 --into {tmp_path / 'again'}")
    assert project.ran(output) == {"ingest", "validate", "split", "augment", "train@simple_cnn"}
    assert "identical: simple_cnn, version 1" in output and "differs" not in output
    after = files(project.root)
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert {path for path in changed if not path.startswith(".dvc/tmp/")} == set()
    assert "weight_decay: 0.0001" in (tmp_path / "again" / "params.yaml").read_text()
    assert "is not empty" in project.run(f"{REPRODUCE} 1 --into {tmp_path / 'again'}", code=1)


def test_images_that_came_later_have_the_sides_that_they_had(project: Project) -> None:
    """Version 2: the split of a clean clone, which knows no earlier one, would be another."""
    found = reproduced(project, "2 --environment")
    assert found["identical"] and found["largest"] == 0.0


def test_other_data_are_refused_and_another_processor_explains_other_weights(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 3: of data that DVC does not track, so the clone has links to them."""
    write_digits(project.root / MINE, classes=2, per_class=40)
    project.change(f'root: "{RAW}"', f'root: "{MINE}"')
    train_and_register(project)
    one = project.root / MINE / "digit-0" / "001.png"
    moved = one.rename(one.with_name("new.png"))
    output = project.run(f"{REPRODUCE} 3", code=1)
    assert "1 of the images are gone or others, 1 are new" in output and project.ran(output) == {"ingest"}
    moved.rename(one)
    plain = torch.backends.cpu.get_cpu_capability() == "DEFAULT"  # else torch is told to take it for such a processor
    monkeypatch.setitem(project.env, "ATEN_CPU_CAPABILITY", "default")
    found = reproduced(project, "3", code=0 if plain else 1)
    assert found["identical"] == plain and found["largest"] < 0.01
    differ = {fact["what"]: fact["now"] for fact in found["facts"] if fact["then"] != fact["now"]}
    assert differ.keys() == (set() if plain else {"checkpoint.sha256", "lineage.instructions"})


def test_what_is_not_known_is_named(project: Project) -> None:
    client = MlflowClient(f"sqlite:///{project.root / 'mlflow.db'}")
    for key in ("lineage.git.commit", "lineage.threads"):
        client.set_model_version_tag("digits", "2", key, "unknown")
    output = project.run(f"{REPRODUCE} 2", code=1)
    assert "lineage.git.commit" in output and "lineage.threads" in output


def test_from_data_to_the_versions_that_were_trained_on_them(project: Project) -> None:
    """A version, or the beginning of the hash; the same images elsewhere are the same data."""
    rows = answer(project.run("python -m pipeline lineage 1 --json"))
    assert {row["version"] for row in rows} in ({"1"}, {"1", "3"}) and len({row["data"] for row in rows}) == 1
    assert {row["model"] for row in rows} == {"simple_cnn"} and rows[-1]["commit"] and rows[-1]["splits"]
    assert answer(project.run(f"python -m pipeline lineage {rows[0]['data'][:8]} --json")) == rows
    assert "2" in {row["version"] for row in answer(project.run("python -m pipeline lineage --json"))}
    assert "none-such" in project.run("python -m pipeline lineage none-such", code=1)
