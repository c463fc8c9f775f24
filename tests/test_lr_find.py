"""The range test of learning rates."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.artifacts import Dataset
from pipeline.cli.lr_find import lr_find
from pipeline.training.lr_find import suggested
from tests.conftest import PROJECT
from tests.inputs import write_inputs


def test_it_suggests_where_the_loss_falls() -> None:
    """A valley: the steepest place is on its slope, the suggestion well before its bottom; a flat loss is refused."""
    rate = np.logspace(-6, 1, 100)
    smooth = 2.3 - np.exp(-((np.log10(rate) + 1) ** 2))
    found = pd.DataFrame({"learning_rate": rate, "loss": smooth, "smooth": smooth})
    steepest, peak = suggested(found)
    assert 0.005 < steepest < 0.05 and 0.02 < peak < 0.05
    with pytest.raises(ValueError, match="did not fall"):
        suggested(found.assign(smooth=2.3))


def test_the_command_writes_a_picture_and_says_a_rate(
    dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From what the data stages left; a model that learns without gradients is refused."""
    monkeypatch.chdir(tmp_path)
    text = (PROJECT / "params.yaml").read_text().replace("architecture: modern_cnn", "architecture: hog_svm")
    Path("params.yaml").write_text(text)
    write_inputs(dataset)
    lr_find("simple_cnn", steps=60)
    said = capsys.readouterr().out
    assert 1e-4 < float(said.split("suggested learning_rate ")[1].split(",")[0]) < 2
    assert Path("lr-find-simple_cnn.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"models\.modern_cnn\.architecture"):
        lr_find("modern_cnn")
