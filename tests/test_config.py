"""params.yaml: what is wrong is said in one sentence that names the key."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.__main__ import app
from pipeline.cli.init import init
from pipeline.config import Model, Params, Section, check, load
from tests.conftest import PROJECT


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  batch_size:", "  batch_sise:", "train.batch_sise is not a known key (did you mean batch_size?)"),
        ("  warmup: 0.25", "  warmup: soon", "train.warmup is 'soon'"),
        ("  warmup: 0.25", "  warmup: 1.5", "train.warmup is 1.5: input should be less than 1"),
        ("  test: 0.2", "  test: 0.95", "split: validation + test is 1.05 and leaves nothing to train on"),
        ("    architecture: simple_cnn", "    architecture: simple_cn", "did you mean simple_cnn?"),
        ('  source: "digits"', "  source: digit", "ingest.source is 'digit' (did you mean digits?)"),
        ("    learning_rate: 0.05", "    learning_rat: 0.05", "models.simple_cnn.learning_rat is not a known key"),
        ("    learning_rate: 0.05", "    learning_rate: -1", "models.simple_cnn.learning_rate is -1"),
        ('experiment: "digits"\n', "", "experiment is missing: add it"),
        ("models:\n", "modells:\n", "models is missing"),
        ('experiment: "digits"', "experiment: [", "is not valid YAML"),
    ],
)
def test_a_wrong_params_file_is_one_sentence(tmp_path: Path, old: str, new: str, said: str) -> None:
    """Unknown keys, wrong types, impossible values and broken YAML each name their place."""
    text = (PROJECT / "params.yaml").read_text()
    assert old in text
    path = tmp_path / "params.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        load(path)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    """With the line, for editors that save as Latin-1; `init` keeps it beside its own."""
    path = tmp_path / "params.yaml"
    text = (PROJECT / "params.yaml").read_text(encoding="utf-8")
    path.write_bytes(text.replace('experiment: "digits"', 'experiment: "Vögel"').encode("latin-1"))
    with pytest.raises(ValueError, match=re.escape(f"{path}: line 5 ")):
        load(path)
    init(dataset="digits", params=path)
    assert load(path).experiment == "digits"
    assert "Vögel".encode("latin-1") in (tmp_path / "params.yaml.bak").read_bytes()


@pytest.mark.parametrize("terminal", [{"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_a_terminal_without_the_letters_ends_no_verb(
    tmp_path: Path, digit_folder: Path, terminal: dict[str, str]
) -> None:
    """What it cannot show stands there by its code; names of files are read as UTF-8, whatever the locale."""
    shutil.copytree(digit_folder, tmp_path / "images" / "扱う")
    (tmp_path / "images" / "扱う" / "digit-1").rename(tmp_path / "images" / "扱う" / "猫")
    folder, page = tmp_path / "images" / "扱う", tmp_path / "findings.html"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONCOERCECLOCALE": "0", **terminal}
    said = subprocess.run(
        [sys.executable, "-m", "pipeline", "data", str(folder), "--page", str(page)],
        cwd=tmp_path, env=environment, capture_output=True, check=True,
    )  # fmt: skip
    assert rb"\u732b" in said.stdout
    assert "猫/000.png" in page.read_text(encoding="utf-8")


def test_a_models_own_keys_override_the_recipe(tmp_path: Path) -> None:
    """An entry of `models` takes `train` and replaces the keys that it names; 1e-3 is a number, as for DVC."""
    path = tmp_path / "params.yaml"
    text = (PROJECT / "params.yaml").read_text()
    path.write_text(text.replace("    learning_rate: 0.05", "    learning_rate: 1e-3\n    epochs: 2", 1))
    params = load(path)
    assert (params.recipe("simple_cnn").learning_rate, params.recipe("simple_cnn").epochs) == (0.001, 2)
    assert params.recipe("modern_cnn").epochs == params.train.epochs
    with pytest.raises(ValueError, match="no model 'vgg'; it has: simple_cnn, modern_cnn, simple_resnet"):
        params.recipe("vgg")


def test_a_network_runs_where_it_was_trained() -> None:
    """`train.device`, or that of the model's own entry; an ensemble's members may differ."""
    text = (PROJECT / "params.yaml").read_text(encoding="utf-8")
    assert "device: auto" in text
    params = check(text.replace("device: auto", "device: cpu"), "params.yaml")
    own = {**params.models, "own": Model(architecture="simple_cnn", device="cuda")}
    params = params.model_copy(update={"models": own})
    assert [params.device(name) for name in ("simple_cnn", "own", "any ensemble")] == ["cpu", "cuda", "cpu"]


def test_every_key_stands_in_the_file() -> None:
    """So that no default decides unseen: DVC compares what params.yaml says, not what the code fills in."""
    content = YAML(typ="safe", pure=True).load(PROJECT / "params.yaml")
    for name, field in Params.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            assert set(content[field.alias or name]) == set(field.annotation.model_fields)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  overrides: {}", "  overrides: {rotatoin: 10}", "augment.overrides.rotatoin is not a known knob"),
        ("  overrides: {}", "  overrides: {rotation: 200}", "augment.overrides.rotation is 200"),
        ("  policy: digits", "  policy: digit", "augment.policy is 'digit'"),
        (
            "    architecture: simple_cnn",
            "    architecture: configurable_cnn\n    options: {convolutions: [{filter: 8}]}",
            "models.simple_cnn.options.convolutions[0].filter",
        ),
        (
            "    architecture: simple_cnn",
            "    architecture: torchvision_model\n    options: {name: resnet19}",
            "models.simple_cnn.options.name: torchvision has no classifier 'resnet19'",
        ),
        (
            "    architecture: simple_cnn",
            "    architecture: simple_cnn\n    options: {dropout: 0.5}",
            "models.simple_cnn.options: simple_cnn has none",
        ),
    ],
)
def test_what_the_code_says_of_a_value_is_known_before_the_first_stage(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    """A knob, a policy or an architecture's option that is not there stops `ingest` before it reads an image."""
    text = (PROJECT / "params.yaml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "params.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")
    outputs = [tmp_path / name for name in ("images.npy", "manifest.parquet", "quarantine.csv", "preprocessing.json")]
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'params.yaml'}: {said}")):
        app(["ingest", *map(str, outputs), "--params", str(tmp_path / "params.yaml")], standalone_mode=False)
    assert not any(path.exists() for path in outputs)
