"""Names of classes as people have them: each stage, table, picture and page keeps them as they are."""

import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import matplotlib.font_manager as fonts
import mlflow
import numpy as np
import onnx
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.cbook import is_math_text
from PIL import Image
from ruamel.yaml import YAML

from pipeline import layout
from pipeline.__main__ import app
from pipeline.artifacts import read_json, read_table, write_table
from pipeline.evaluation import plots
from pipeline.networks import weights
from tests.conftest import PROJECT, write_digits

NAMES = [
    "$x_1^2$", "_hidden", "back\\slash", "two\nlines", "a\rb\tc", "\"quoted\" 'it'", "<b>bold<b>", " spaced ",
    "100%s {}", "猫", "قطة", "🐈", "a,b;c", "NA", "001",
]  # fmt: skip
MODEL = "simple_cnn"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, fresh_store: Path) -> Iterator[Path]:
    """A folder of such classes, and every stage run on it as dvc.yaml calls it, for an epoch."""
    root = tmp_path_factory.mktemp("names")
    source = write_digits(tmp_path_factory.mktemp("digits"), classes=10, per_class=40)
    for number, name in enumerate(NAMES):
        files = sorted((source / f"digit-{number % 10}").glob("*.png"))[number // 10 * 20 :][:20]
        (root / "images" / name).mkdir(parents=True)
        for file in files:
            shutil.copy(file, root / "images" / name)
    (root / "data" / "reference").mkdir(parents=True)
    shutil.copy(fresh_store, root / "mlflow.db")
    yaml = YAML(typ="safe", pure=True)
    params = yaml.load(PROJECT / "params.yaml")
    params["ingest"] |= {"source": "image_folder", "root": "images", "workers": 1}
    params["validate"] |= {"critical": [], "classes": NAMES}
    params["augment"] |= {"overrides": {"cutmix": 1.0}, "balance": "loss_weights"}
    params["models"] = {MODEL: {"architecture": MODEL}}
    params["train"] |= {"epochs": 1, "device": "cpu", "threads": 1, "precision": "float32"}
    params["prune"]["epochs"] = params["benchmark"]["rounds"] = 1
    yaml.dump(params, root / "params.yaml")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("error", message="Glyph")  # a box in a picture
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
        with chdir(root):
            for stage in yaml.load(PROJECT / "dvc.yaml")["stages"].values():
                if stage.get("foreach") != "${ensembles}":
                    cmd = stage.get("do", stage)["cmd"]
                    words = (cmd if isinstance(cmd, str) else cmd[-1]).replace("${key}", MODEL).split()
                    app(words[3:], standalone_mode=False)
        yield root


def test_every_table_and_record_holds_them(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquet, CSV, JSON, and the cards in the weights and in each ONNX file; in the pages none is markup."""
    monkeypatch.chdir(project)
    assert set(read_table(layout.MANIFEST)["class"]) == set(read_table(layout.SPLITS)["class"]) == set(NAMES)
    assert read_table(layout.per_class(MODEL))["class"].tolist() == sorted(NAMES)
    predictions = read_table(layout.predictions(MODEL))
    assert set(predictions["label"]) <= set(NAMES) and {f"p_{name}" for name in NAMES} < set(predictions.columns)
    suspects = read_table(layout.SUSPECTS)
    assert {*suspects["class"], *suspects["suggested"]} <= set(NAMES)
    assert all((Path("images") / path).exists() for path in suspects["path"])
    assert weights.load(layout.checkpoint("train", MODEL))[1].class_names == tuple(sorted(NAMES))
    for file in (layout.onnx(variant, MODEL) for variant in ("fp32", "int8", "pruned", "pruned_int8")):
        cards = [prop.value for prop in onnx.load(file).metadata_props if "class_names" in prop.value]
        assert json.loads(cards[0])["class_names"] == sorted(NAMES)
    findings = {finding["check"]: finding for finding in read_json(layout.VALIDATION)["findings"]}
    assert findings["known_classes"]["passed"] and findings["class_images"]["passed"]
    report = layout.REPORT.read_text(encoding="utf-8")
    assert "猫" in report and "&lt;b&gt;bold&lt;b&gt;" in report
    assert "<b>bold" not in report + layout.FINDINGS.read_text(encoding="utf-8")


def test_mlflow_has_all_files(project: Path) -> None:
    """A name in none of a run's metrics or paths can be refused by the server."""
    client = mlflow.MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    run = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])[0]
    assert "test/accuracy" in run.data.metrics
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id, "evaluate")}
    assert {"evaluate/per_class.csv", "evaluate/predictions.parquet", "evaluate/confusion.png"} <= artifacts


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8))
def test_a_label_is_one_line_without_a_formula_or_a_box(name: str) -> None:
    """Whatever the name: printable, in some font, and drawn as it stands."""
    assert not is_math_text(plots.label(name))
    shown = plots.label(name).replace(r"\$", "$")  # as matplotlib does with what is no formula
    assert shown.isprintable() and all(plots._family(character) for character in shown)
    assert shown == name or not name.isprintable() or not all(map(plots._family, name))


def test_a_picture_takes_a_character_from_any_font_that_is_there(tmp_path: Path) -> None:
    """A figure with a character that matplotlib's own font lacks is drawn without a warning."""
    own = plots._characters(next(entry.fname for entry in fonts.fontManager.ttflist if entry.name == plots.FONT))
    other = next(entry.fname for entry in fonts.fontManager.ttflist if entry.name == "STIXGeneral")
    foreign = next(chr(code) for code in sorted(plots._characters(other) - own) if chr(code).isprintable())
    assert plots.label(foreign) == foreign
    table = pd.DataFrame({"train": [3, 4]}, index=[foreign, "a"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.save(plots.class_counts(table, "counts"), tmp_path / "counts.png")
    assert np.asarray(Image.open(tmp_path / "counts.png")).std() > 0


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1))
def test_a_csv_gives_back_every_name(names: list[str]) -> None:
    """Line breaks, quotes, `NA` and digits come back as text; numbers come back as numbers, finite or not."""
    table = pd.DataFrame({"class": names, "loss": [float("nan"), *[float("inf")] * (len(names) - 1)]})
    with tempfile.TemporaryDirectory() as folder:
        write_table(Path(folder) / "table.csv", table)
        pd.testing.assert_frame_equal(read_table(Path(folder) / "table.csv"), table, check_dtype=False)
