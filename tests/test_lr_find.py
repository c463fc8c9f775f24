"""The range test of learning rates."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.cli.lr_find import lr_find
from pipeline.training.lr_find import suggested
from tests.conftest import PROJECT
from tests.workspace import workspace


def test_it_suggests_where_the_loss_falls() -> None:
    """A valley: the steepest place is on its slope, the suggestion well before its bottom; a flat loss is refused."""
    rate = np.logspace(-6, 1, 100)
    smooth = 2.3 - np.exp(-((np.log10(rate) + 1) ** 2))
    found = pd.DataFrame({"learning_rate": rate, "loss": smooth, "smooth": smooth})
    steepest, peak = suggested(found)
    assert 0.005 < steepest < 0.05
    assert 0.02 < peak < 0.05
    with pytest.raises(ValueError, match="did not fall at any learning rate"):
        suggested(found.assign(smooth=2.3))


def test_the_command_writes_a_picture_and_says_a_rate(
    digit_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the artifacts of the data stages; the suggestion trains."""
    root = workspace(tmp_path / "run", digit_folder, {})
    artifacts = root / "artifacts"
    for name, folder in (("images.npy", "ingest"), ("preprocessing.json", "ingest"), ("splits.parquet", "split")):
        (artifacts / folder).mkdir(parents=True, exist_ok=True)
        (root / name).rename(artifacts / folder / name)
    (root / "augment").rename(artifacts / "augment")
    with chdir(root):
        lr_find("simple_cnn", steps=60)
    said = capsys.readouterr().out
    assert "suggested learning_rate" in said
    assert 1e-4 < float(said.split("suggested learning_rate ")[1].split(",")[0]) < 2
    assert (root / "lr-find-simple_cnn.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_without_gradients_has_no_rate(tmp_path: Path) -> None:
    """It is refused before anything is read."""
    text = (PROJECT / "params.yaml").read_text().replace("architecture: modern_cnn", "architecture: hog_svm")
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(
        ValueError, match=r"models\.modern_cnn\.architecture is hog_svm, which has no learning rate: name"
    ):
        lr_find("modern_cnn", params=tmp_path / "params.yaml")
