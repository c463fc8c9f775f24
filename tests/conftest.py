"""Small real images for everyone: scikit-learn's digits, written as a folder per class."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.artifacts import Dataset, ModelCard
from pipeline.config import Params, load
from pipeline.preprocessing import Preprocessing

PROJECT = Path(__file__).parent.parent
NO_PAIRS = pd.DataFrame({"first": [], "second": [], "exact": []}).astype({"first": int, "second": int, "exact": bool})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first, so that parallel workers end together; the rest stays in order."""
    items.sort(key=lambda item: "test_end_to_end" not in item.nodeid)


def write_digits(root: Path, classes: int, per_class: int) -> Path:
    """`root/DIGIT/NUMBER.png`: real scans, 8x8 grey."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    for digit in range(classes):
        folder = root / f"digit-{digit}"
        folder.mkdir(parents=True)
        for number, scan in enumerate(bunch.images[bunch.target == digit][:per_class]):
            Image.fromarray((scan * (255 / 16)).round().astype(np.uint8)).save(folder / f"{number:03d}.png")
    return root


def touch(root: Path, *files: str) -> Path:
    """Makes files, and the folders that they lie in."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"x")
    return root


@pytest.fixture(scope="session")
def digit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 40 real scans; not to be changed."""
    return write_digits(tmp_path_factory.mktemp("digits") / "images", classes=3, per_class=40)


@pytest.fixture(scope="session")
def params() -> Params:
    """The shipped params.yaml."""
    return load(PROJECT / "params.yaml")


@pytest.fixture(scope="session")
def dataset(digit_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The digit folder, ingested at 16 pixels and split."""
    from pipeline import layout
    from pipeline.artifacts import read_dataset, write_table
    from pipeline.config import Ingest, Split
    from pipeline.stages.ingest import ingest
    from pipeline.stages.split import split

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("dataset"))
        found = ingest(Ingest(source="image_folder", root=str(digit_folder), image_size=16), layout.IMAGES)
        write_table(layout.SPLITS, split(found.manifest, NO_PAIRS, None, Split(validation=0.2, test=0.2)))
        return read_dataset()


@pytest.fixture(scope="session")
def card(dataset: Dataset) -> ModelCard:
    """A card for the dataset; its statistics are plausible, not measured."""
    return ModelCard(
        "simple_cnn", dataset.class_names, Preprocessing(16, "crop", (255, 255, 255)), (0.3, 0.3, 0.3), (0.3, 0.3, 0.3)
    )


@pytest.fixture(scope="session")
def fresh_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty MLflow store to copy: making one takes seconds."""
    import mlflow

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def new_project(folder: Path, fresh_store: Path, patch: pytest.MonkeyPatch) -> Path:
    """Go to a folder, with an MLflow store of its own, and with code and packages that have a hash."""
    patch.chdir(folder)
    shutil.copy(fresh_store, folder / "mlflow.db")
    (folder / "requirements.lock").write_text("# nothing\n")
    commit = "git init -q && git add . && git -c user.name=t -c user.email=t@t commit -qm first"
    subprocess.run(commit, shell=True, check=True)
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    return folder


@pytest.fixture
def tracking_folder(tmp_path: Path, fresh_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return new_project(tmp_path, fresh_store, monkeypatch)
