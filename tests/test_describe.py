"""`describe`: layers, parameters and work of a model that nobody has trained."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.artifacts import write_table
from tests.conftest import PROJECT

MODELS = """
models:
  mine:
    architecture: configurable_cnn
    options:
      convolutions: [{filters: 8, kernel_size: 5, stride: 2}, {filters: 16, pool: max}]
      dense: []
  simple_cnn:
    architecture: simple_cnn
  frozen:
    architecture: torchvision_model
    options: {name: vit_b_16, freeze: true}

ensembles:
  both: {members: [mine, simple_cnn]}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the shipped params.yaml, but for its models."""
    text = (PROJECT / "params.yaml").read_text()
    before, after = text.index("\nmodels:"), text.index("\ntrain:")
    (tmp_path / "params.yaml").write_text(text[:before] + MODELS + text[after:])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def described(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["describe", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def row(layer: str, output: str) -> list[str]:
    """The cells of a layer's line."""
    return next(re.split(r"  +", line.strip()) for line in output.splitlines() if line.startswith(f"{layer} "))


def test_each_layer_has_its_shape_parameters_and_macs(project: Path) -> None:
    """At 16 pixels and 10 classes: a convolution costs its filters' weights at each pixel that it makes."""
    output = described("mine")
    assert "mine (configurable_cnn): 16 x 16 RGB in, 10 classes out" in output
    assert row("0", output) == ["0", "Conv2d", "8 x 8 x 8", "600", "38,400"]  # 5x5x3 x 8 = 600, x 8x8 pixels
    assert row("3", output) == ["3", "Conv2d", "16 x 8 x 8", "1,152", "73,728"]  # 3x3x8 x 16 = 1,152, x 8x8
    # Norms 2 x (8 + 16) = 48, the last layer 17 x 10 = 170, and 160 of it multiply
    assert "1,970 parameters (1,970 of them learn), 0.01 MB as float32, 112,288 MACs an image" in output


def test_the_number_of_classes_is_that_of_the_images_or_as_told(project: Path) -> None:
    """The splits know it; before them it is 10; --classes comes first."""
    assert "4 classes out" in described("cnn", "--classes", "4")
    write_table(Path("artifacts/split/splits.parquet"), pd.DataFrame({"class": ["a", "b", "c", "a"]}))
    assert "cnn: 16 x 16 RGB in, 3 classes out" in described("cnn")
    assert "4 classes out" in described("cnn", "--classes", "4")


def test_an_ensemble_is_its_members_and_their_sums(project: Path) -> None:
    """Each has its table; the last line adds them up."""
    output = described("both")
    counts = [int(found.replace(",", "")) for found in re.findall(r"^([\d,]+) parameters \(", output, re.MULTILINE)]
    assert len(counts) == 2
    assert f"both: 2 members, {sum(counts):,} parameters" in output


def test_attention_and_frozen_layers_are_counted(project: Path) -> None:
    """A vision transformer from nothing but params.yaml: attention's products count, its own parameters and those
    outside of any layer are in the table, and only the last layer learns."""
    output = described("frozen")
    # One patch and the class token make 2 tokens: the three projections, the one behind them, and two products of heads
    assert row("network.encoder.layers.encoder_layer_0.self_attention", output)[-2:] == [
        f"{4 * 768 * 769:,}", f"{4 * 2 * 768 * 768 + 2 * 2 * 2 * 768:,}",
    ]  # fmt: skip
    assert row("", output)[0] == "outside of layers"
    assert "(7,690 of them learn)" in output  # 769 x 10
    total = re.search(r"^([\d,]+) parameters \(", output, re.MULTILINE)
    cells = [line.split()[-2] for line in output.splitlines() if re.search(r"\d  +[\d,]+$", line)]
    assert total and sum(int(cell.replace(",", "")) for cell in cells) == int(total[1].replace(",", ""))


def test_wrong_names_and_options_are_one_sentence(project: Path) -> None:
    """What is there is listed; options are checked as training would."""
    with pytest.raises(ValueError, match=r"there is no model 'mini': give one of params.yaml \(mine, simple_cnn, froz"):
        described("mini")
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("kernel_size: 5", "kernel_size: 0"))
    with pytest.raises(ValueError, match=r"options\.convolutions\[0\]\.kernel_size is 0"):
        described("mine")
