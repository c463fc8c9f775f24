"""The whole of it, as a user runs it: a fresh clone, a folder of real images, DVC, Prefect, MLflow, ONNX Runtime.

The tests share one project and stand in the order in which a person would do these things.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.conftest import write_digits
from tests.project import Project, clone

pytestmark = pytest.mark.slow
MODEL_STAGES = ("train", "prune", "export", "quantize", "evaluate")
CLIENT = """
import mlflow, numpy, sys
images = numpy.load("artifacts/ingest/images.npy")[numpy.load("rows.npy")]
model = mlflow.pyfunc.load_model(f"models:/{sys.argv[1]}@champion")
print("\\n".join(record["class"] for record in model.predict(images)))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, digit_folder: Path) -> Project:
    """A clone with two models and few epochs, initialized for the digit folder, committed to git."""
    made = clone(tmp_path_factory.mktemp("user") / "clone")
    made.run(f"python -m pipeline init --images {digit_folder}")
    made.change("  simple_resnet:\n    architecture: simple_resnet\n    learning_rate: 0.1\n", "")
    for old, new in (("image_size: 32", "image_size: 16"), ("epochs: 60", "epochs: 12"), ("epochs: 15", "epochs: 2")):
        made.change(old, new)
    made.change("rounds: 30", "rounds: 3")
    for command in ("git init -q", "git add -A", "git commit -qm start"):
        made.run(command)
    return made


def mlflow_client(project: Project) -> Any:
    import mlflow

    return mlflow.MlflowClient(f"sqlite:///{project.root / 'mlflow.db'}")


def with_images_of_its_own(project: Project, source: Path, folder: Path) -> tuple[Project, Path]:
    """A copy of the project, and the copy of its images that it reads."""
    copy = Project(Path(shutil.copytree(project.root, folder / "clone", symlinks=True)))
    images = shutil.copytree(source, folder / "other images")
    copy.change(str(source), str(images))
    return copy, images


def test_dvc_repro_alone_does_the_whole_job(project: Project) -> None:
    ran = project.ran(project.run("dvc repro"))
    assert {f"{stage}@{model}" for stage in MODEL_STAGES for model in ("simple_cnn", "modern_cnn")} < ran
    page = (project.root / "artifacts" / "report" / "report.html").read_text()
    assert "modern_cnn" in page
    assert not re.search(r"""(?:src|href)=["']https?:""", page), "the report must be readable without a network"
    assert (project.root / "artifacts" / "validate" / "docs" / "index.html").exists()
    for again in ("dvc repro", "mlflow run . -e main --env-manager local"):
        output = project.run(again)
        assert project.ran(output) == set() and "up to date" in output


def test_the_flow_finds_nothing_to_do_after_repro_and_makes_a_champion(project: Project) -> None:
    """Both run the same stages: after one, the other is done. Then the flow registers and promotes."""
    output = project.run("python -m flows.training")
    assert project.ran(output) == set()
    assert "registered images version 1: challenger" in output
    assert "promoted: champion is version 1 of images" in output
    assert "report.html" in output


def test_one_models_learning_rate_reruns_that_model_only(project: Project) -> None:
    """Its own five stages and what gathers all models; by the flow this time, after which DVC has nothing to do."""
    project.change("    learning_rate: 0.05", "    learning_rate: 0.04")
    wanted = {f"{stage}@simple_cnn" for stage in MODEL_STAGES} | {"audit", "benchmark", "report"}
    assert project.ran(project.run("python -m flows.training --no-promote")) == wanted
    assert project.ran(project.run("dvc repro")) == set()


def test_runs_are_in_mlflow_once(project: Project) -> None:
    client = mlflow_client(project)
    runs = client.search_runs([client.get_experiment_by_name("images").experiment_id])
    assert sorted((run.info.run_name or "")[:-8] for run in runs) == ["modern_cnn", "simple_cnn", "simple_cnn"]
    for run in runs:
        assert {"test/accuracy", "val/best_accuracy", "variants/benchmark.int8.latency_ms"} <= set(run.data.metrics)
        assert len(client.get_metric_history(run.info.run_id, "val/loss")) == 12
        assert run.data.tags["lineage.data.sha256"]


def test_the_champion_gives_the_trained_networks_classes_without_our_code(project: Project, tmp_path: Path) -> None:
    """A script that imports mlflow and numpy alone, in a folder without the project on its path."""
    client = mlflow_client(project)
    champion = client.get_model_version_by_alias("images", "champion")
    splits = pd.read_parquet(project.root / "artifacts" / "split" / "splits.parquet")
    np.save(project.root / "rows.npy", np.flatnonzero(splits["split"] == "test"))
    (tmp_path / "client.py").write_text(CLIENT)
    env = project.env | {"MLFLOW_TRACKING_URI": f"sqlite:///{project.root / 'mlflow.db'}"}
    done = subprocess.run(
        [sys.executable, tmp_path / "client.py", "images"], cwd=project.root, env=env, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    # The champion of the first flow run: its predictions are an artifact of its own run
    folder = client.download_artifacts(champion.run_id, "evaluate", str(tmp_path))
    predictions = pd.read_parquet(Path(folder) / "predictions.parquet")
    assert done.stdout.split() == predictions["predicted"].tolist()


def test_predict_prints_a_table_or_json(project: Project, digit_folder: Path) -> None:
    image = digit_folder / "digit-0" / "000.png"
    assert "digit-" in project.run(f"python -m pipeline predict {image}")
    (row,) = json.loads(project.run(f"python -m pipeline predict --json {image}"))
    assert row["top5"][0] == {"class": row["class"], "confidence": row["confidence"]}
    assert sum(entry["confidence"] for entry in row["top5"]) == pytest.approx(1, abs=1e-4)
    output = project.run(f"python -m pipeline predict {image} nowhere.png /dev/zero", code=1)
    assert "digit-" in output and "error: /dev/zero: " in output and "error: nowhere.png: " in output


def test_dvcs_own_tools_work(project: Project) -> None:
    assert "val_accuracy" in project.run("dvc metrics show")
    assert "index.html" in project.run("dvc plots show")
    assert project.ran(project.run("dvc exp run -S benchmark.rounds=2")) == {"benchmark", "report"}
    assert "benchmark.rounds" in project.run("dvc exp show --csv")


def test_an_ensemble_goes_the_way_of_every_model(project: Project) -> None:
    """One line in params.yaml: nothing is trained again, and report, MLflow and registry know it."""
    project.change("ensembles: {}", "ensembles: {both: {members: [simple_cnn, modern_cnn]}}")
    assert project.ran(project.run("dvc repro")) == {"ensemble@both", "benchmark", "report"}
    page = (project.root / "artifacts" / "report" / "report.html").read_text()
    assert "The mean of the probabilities of simple_cnn, modern_cnn." in page
    client = mlflow_client(project)
    (run,) = client.search_runs([client.get_experiment_by_name("images").experiment_id], "tags.model = 'both'")
    assert run.data.params["members"] == "simple_cnn, modern_cnn"
    assert {"test/accuracy", "val/best_accuracy", "variants/benchmark.int8.latency_ms"} <= set(run.data.metrics)
    assert f"both: run {run.info.run_id} is up to date" in project.run("python -m pipeline track")
    assert ": challenger" in project.run("python -m pipeline register")


def test_an_unreadable_image_stops_the_run_and_loses_nothing(
    project: Project, digit_folder: Path, tmp_path: Path
) -> None:
    broken, images = with_images_of_its_own(project, digit_folder, tmp_path)
    (images / "digit-1" / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    broken.change("strict: false", "strict: true")
    output = broken.run("dvc repro ingest", code=255)
    (sentence,) = re.findall("^error: .*", output, flags=re.M)
    assert "broken.jpg" in sentence and "ingest.strict" in sentence
    assert (broken.root / "artifacts" / "report" / "report.html").exists()
    broken.change("strict: true", "strict: false")
    assert broken.ran(broken.run("dvc repro ingest")) == {"ingest"}
    assert "broken.jpg" in (broken.root / "artifacts" / "ingest" / "quarantine.csv").read_text()


def test_images_that_are_added_move_no_old_one(project: Project, digit_folder: Path, tmp_path: Path) -> None:
    """DVC keeps the table of splits when its stage runs again; another seed makes another split."""
    grown, images = with_images_of_its_own(project, digit_folder, tmp_path)
    shutil.rmtree(images)
    write_digits(images, classes=3, per_class=70)  # the same first 40
    table = grown.root / "artifacts" / "split" / "splits.parquet"
    before = pd.read_parquet(table).set_index("path")["split"]
    assert grown.ran(grown.run("dvc repro split")) == {"ingest", "validate", "split"}
    after = pd.read_parquet(table).set_index("path")["split"]
    assert len(after) == 210
    assert after[before.index].equals(before)
    grown.change("fold: 0\n  seed: 0", "fold: 0\n  seed: 1")
    assert grown.ran(grown.run("dvc repro split")) == {"split"}
    assert not pd.read_parquet(table).set_index("path")["split"][before.index].equals(before)


def test_the_data_can_be_looked_at(digit_folder: Path, project: Project, tmp_path: Path) -> None:
    images = shutil.copytree(digit_folder, tmp_path / "images")
    shutil.copy(images / "digit-0" / "000.png", images / "digit-1" / "same.png")
    output = project.run(f"python -m pipeline data {images}", code=1)
    assert "121 images of 3 classes" in output and re.search(r"digit-1 +41  █{40}", output)
    assert "critical: one_label: 2 of 121 (digit-0/000.png, digit-1/same.png)" in output


def test_dvc_repro_goes_on_after_a_kill(project: Project) -> None:
    """SIGKILL for DVC and the training together, as when the machine goes down; then the same command again: it trains
    the epochs that are missing, in the run that was begun, and leaves nothing to do."""
    project.change("checkpoint_seconds: 30.0", "checkpoint_seconds: 0.0")
    started = subprocess.Popen(
        ["dvc", "repro", "train@simple_cnn"], cwd=project.root, env=project.env | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    assert started.stdout is not None
    while "epoch   3" not in started.stdout.readline():
        assert started.poll() is None
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    output = project.run("dvc repro train@simple_cnn")
    assert "going on in epoch" in output
    assert "epoch   1 " not in output and "epoch  12 " in output
    assert project.ran(project.run("dvc repro train@simple_cnn")) == set()
