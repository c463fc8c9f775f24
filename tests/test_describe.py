"""`describe`: layers, parameters and work of a model that nobody has trained."""

import re
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from pipeline import layout
from pipeline.__main__ import app
from pipeline.artifacts import write_table
from pipeline.errors import UserError
from tests.conftest import PROJECT

MODELS = """
models:
  mine:
    architecture: configurable_cnn
    options: {convolutions: [{filters: 8, kernel_size: 5, stride: 2}, {filters: 16, pool: max}], dense: []}
  lenet5: {architecture: lenet5}
  frozen: {architecture: torchvision_model, options: {name: vit_b_16, freeze: true}}
ensembles:
  both: {members: [mine, lenet5]}
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the shipped params.yaml, but for its models."""
    text = re.sub(r"\nmodels:.*(?=\ntrain:)", MODELS, (PROJECT / "params.yaml").read_text(), flags=re.DOTALL)
    (tmp_path / "params.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)


def described(model: str) -> str:
    return CliRunner().invoke(app, ["describe", model], catch_exceptions=False).output


def row(layer: str, output: str) -> list[str]:
    return next(re.split(r"  +", line.strip()) for line in output.splitlines() if line.startswith(f"{layer} "))


def totals(output: str) -> tuple[int, ...]:
    ((parameters, macs),) = re.findall(r"^(\d+) parameters .* (\d+) MACs", output.replace(",", ""), re.MULTILINE)
    return int(parameters), int(macs)


def test_each_layer_has_its_shape_parameters_and_macs() -> None:
    """At 16 pixels and 10 classes: a convolution costs its filters' weights at each pixel that it makes."""
    output = described("mine")
    assert "16 x 16 RGB in, 10 classes" in output
    assert row("0", output) == ["0", "Conv2d", "8 x 8 x 8", "600", "38,400"]  # 5x5x3 x 8 = 600, x 8x8 pixels
    assert row("3", output) == ["3", "Conv2d", "16 x 8 x 8", "1,152", "73,728"]  # 3x3x8 x 16 = 1,152, x 8x8
    # Norms 2 x (8 + 16) = 48, the last layer 17 x 10 = 170, and 160 of it multiply
    assert totals(output) == (1_970, 112_288)


def test_the_number_of_classes_is_that_of_the_images() -> None:
    write_table(layout.SPLITS, pd.DataFrame({"class": ["a", "b", "c", "a"]}))
    assert "3 classes" in described("cnn")


def test_an_ensemble_is_its_members() -> None:
    members = [totals(described(name)) for name in ("mine", "lenet5")]
    assert totals(described("both")) == tuple(map(sum, zip(*members, strict=True)))


def test_attention_and_frozen_layers_are_counted() -> None:
    """The table adds up, with attention's products, its own parameters and those outside of any layer."""
    output = described("frozen")
    # One patch and the class token make 2 tokens: the three projections, the one behind them, and two products of heads
    attention = [f"{4 * 768 * 769:,}", f"{4 * 2 * 768 * 768 + 2 * 2 * 2 * 768:,}"]
    assert row("network.encoder.layers.encoder_layer_0.self_attention", output)[-2:] == attention
    assert row("", output)[0] == "outside of layers"
    cells = re.findall(r"(\d+)  +\d+$", output.replace(",", ""), re.MULTILINE)
    assert totals(output)[0] == sum(map(int, cells))
    assert f"({totals(output)[0] - 769 * 10:,} frozen)" in output


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(UserError, match=r"'mini'.*mine, lenet5, frozen, both, cnn, configurable_cnn"):
        described("mini")
