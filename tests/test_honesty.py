"""The proof that the test split is read by `evaluate` alone, by the commands of dvc.yaml on real images.

Each stage runs in a folder with nothing but its `deps`, and writes its `outs` and nothing else. A copy of a project
gets noise for the pixels of its test images, and their labels change places. Whatever the stages from `augment` to
`quantize` write, and what `benchmark` says of the validation, must not change by a byte; what `evaluate` writes must.
Left out on purpose: the stages before there is a split; `audit`, which looks for wrong labels and feeds nothing but the
report; and `promote`, which judges a challenger against the champion.
"""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from pipeline import layout
from pipeline.__main__ import app
from pipeline.artifacts import Dataset, read_json, read_table, write_json, write_table
from pipeline.preprocessing import Preprocessing
from tests.conftest import PROJECT
from tests.project import definition, outputs

BLIND = ("augment", "train", "prune", "export", "quantize")
MODEL = "simple_cnn"


def run(stage: str, root: Path) -> None:
    """The stage as dvc.yaml calls it, in this process, in a folder that holds its `deps` and no more."""
    told = (outputs(stage), definition(stage)["deps"])
    outs, deps = ([Path(path.replace("${key}", MODEL)) for path in paths] for paths in told)
    alone = Path(mkdtemp(dir=root))
    shutil.copy(root / "params.yaml", alone)
    for dep in (dep for dep in deps if dep.parts[0] == "artifacts"):
        (alone / dep).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (root / dep).is_dir() else shutil.copy)(root / dep, alone / dep)
    before = files_in(alone)
    with chdir(alone):
        app([stage, *([MODEL] if "${key}" in str(definition(stage)["cmd"]) else [])], standalone_mode=False)
    made = files_in(alone) - before
    assert all(any(file.is_relative_to(out) for file in made) for out in outs), "an output that is not written"
    assert all(any(file.is_relative_to(out) for out in outs) for file in made), "a file that is no output"
    for file in made:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(alone / file, root / file)


def files_in(root: Path) -> set[Path]:
    return {path.relative_to(root) for path in (root / "artifacts").rglob("*") if path.is_file()}


def prepare(root: Path, dataset: Dataset, images_NHWC: np.ndarray, splits: pd.DataFrame) -> None:
    """What the stages before `augment` leave, and parameters for a short training of two seeds."""
    params = YAML(typ="safe", pure=True).load(PROJECT / "params.yaml")
    params["models"] = {MODEL: {"architecture": MODEL}}
    params["train"] |= {"epochs": 8, "batch_size": 16, "learning_rate": 0.05, "seeds": 2}
    params["train"] |= {"device": "cpu", "threads": 1, "precision": "float32"}
    params["prune"]["epochs"] = 1
    params["benchmark"]["rounds"] = 1
    root.mkdir()
    YAML().dump(params, root / "params.yaml")
    record = Preprocessing(dataset.images_NHWC.shape[1], "crop", (255, 255, 255)).record()
    write_json(root / layout.PREPROCESSING, record)
    np.save(root / layout.IMAGES, images_NHWC)
    write_table(root / layout.SPLITS, splits)


def hashes(root: Path, stages: tuple[str, ...]) -> dict[str, str]:
    """Of every file that the stages wrote. A lineage holds the hash of the table of splits, by its nature."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for stage in stages
        for path in sorted((root / "artifacts" / stage).rglob("*"))
        if path.is_file() and not (stage == "train" and path.name == "lineage.json")
    }


@pytest.fixture(scope="module")
def twins(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory, fresh_store: Path) -> Iterator[tuple[Path, Path]]:
    """Two projects, run to their end, that differ in nothing but the test split."""
    folder = tmp_path_factory.mktemp("honesty")
    shutil.copy(fresh_store, folder / "mlflow.db")
    test = dataset.rows("test")
    draw = np.random.default_rng(0)
    noisy = np.array(dataset.images_NHWC)
    noisy[test] = draw.integers(0, 256, noisy[test].shape)
    mislabelled = dataset.splits.copy()
    mislabelled.loc[test, "class"] = np.roll(mislabelled.loc[test, "class"].to_numpy(), len(test) // 3)
    assert (mislabelled["class"] != dataset.splits["class"]).sum() > len(test) / 2
    honest, spoiled = folder / "honest", folder / "spoiled"
    prepare(honest, dataset, np.array(dataset.images_NHWC), dataset.splits)
    prepare(spoiled, dataset, noisy, mislabelled)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        for root in (honest, spoiled):
            for stage in (*BLIND, "evaluate", "benchmark"):
                run(stage, root)
        yield honest, spoiled


def test_only_evaluate_reads_the_test_split(twins: tuple[Path, Path]) -> None:
    honest, spoiled = twins
    files = hashes(honest, BLIND)
    assert {Path(name).parts[1] for name in files} == set(BLIND)
    assert hashes(spoiled, BLIND) == files
    metrics = [read_json(root / layout.metrics("evaluate", MODEL)) for root in twins]
    assert metrics[0]["accuracy"] != metrics[1]["accuracy"]
    assert metrics[0]["seeds"]["n"] == 2
    rows = [read_json(root / layout.BENCHMARK)["variants"] for root in twins]
    for first, second in zip(*rows, strict=True):
        for key in ("variant", "val_accuracy", "size_mb", "checkpoint"):
            assert first[key] == second[key]
    assert [row["accuracy"] for row in rows[0]] != [row["accuracy"] for row in rows[1]]
    tables = [read_table(root / layout.tested_seeds(MODEL)) for root in twins]
    assert tables[0].drop(columns="test_accuracy").equals(tables[1].drop(columns="test_accuracy"))


def test_the_proof_can_fail(twins: tuple[Path, Path], tmp_path: Path) -> None:
    """One pixel of a training image is enough for other weights, and without a change they are the same again."""
    honest, _ = twins
    changed = tmp_path / "changed"
    shutil.copytree(honest, changed, ignore=shutil.ignore_patterns("train"))
    run("train", changed)
    assert hashes(changed, ("train",)) == hashes(honest, ("train",))
    pixels = np.load(changed / layout.IMAGES)
    row = np.flatnonzero(read_table(changed / layout.SPLITS)["split"] == "train")[0]
    pixels[row, 8, 8] = 255 - pixels[row, 8, 8]
    np.save(changed / layout.IMAGES, pixels)
    run("train", changed)
    assert hashes(changed, ("train",)) != hashes(honest, ("train",))
