"""params.yaml: what is wrong is said in one sentence that names the key, before any stage has run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.augmentation.policy import POLICIES, Policy, resolve
from pipeline.config import as_yaml, load
from pipeline.errors import UserError
from tests.conftest import PROJECT

TEXT = (PROJECT / "params.yaml").read_text(encoding="utf-8")
ARCHITECTURE = "    architecture: simple_cnn"
CONFIGURABLE = "    architecture: configurable_cnn\n    options: {convolutions: [{filter: 8}]}"


def changed(folder: Path, *changes: tuple[str, str]) -> Path:
    """The shipped params.yaml, changed."""
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    return folder / "params.yaml"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("  batch_size:", "  batch_sise:", "train.batch_sise is not a known key (did you mean batch_size?)"),
        ("  processes: 1", "  processes: 64", "train: batch_size is 64"),
        ("  test: 0.2", "  test: 0.95", "split: validation + test"),
        ('group_pattern: ""', 'group_pattern: "(x"', "split: group_pattern"),
        ("[0.02, 0.98]", "[0.98, 0.02]", "validate: brightness"),
        ("[known_classes", "[known_class", "validate.critical[0] is 'known_class' (did you mean known_classes?)"),
        ("  source: digits", "  source: digit", "ingest.source is 'digit' (did you mean digits?)"),
        ('experiment: "digits"\n', "", "experiment is missing"),
        ('experiment: "digits"', "experiment: [", "not valid YAML"),
        (TEXT, "", "experiment is missing"),
        ("    learning_rate: 0.05", "    recipe: [own]", "models.simple_cnn.recipe is ['own']"),
        ("overrides: {}", "overrides: {rotatoin: 10}", "augment.overrides.rotatoin is not a known key (did you"),
        ("overrides: {}", "overrides: {cutmix: .nan}", "augment.overrides.cutmix is nan"),
        (ARCHITECTURE, CONFIGURABLE, "models.simple_cnn.options.convolutions[0].filter"),
        (ARCHITECTURE, f"{ARCHITECTURE}\n    options: {{rate: 5}}", "models.simple_cnn.options: simple_cnn has none"),
        ("  simple_cnn:", "  $(x):", "models.$(x) is '$(x)'"),
        ("ensembles: {}", "ensembles:", "ensembles is empty: write its keys below it"),
        ("  opset: 20", "  opset: 20\n  opset: 21", '"opset" stands twice: keep one'),
        (TEXT, "- a", "is ['a']: write its keys"),
        ("ensembles: {}", "ensembles: {a;b: {members: [simple_cnn, modern_cnn]}}", "ensembles.a;b is 'a;b'"),
    ],
)
def test_a_wrong_params_file_is_one_sentence(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    path = changed(tmp_path, (old, new))
    with pytest.raises(UserError, match=re.escape(sentence)) as error:
        load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_the_light_verbs_import_no_torch() -> None:
    code = "import pipeline.config, sys; pipeline.config.load(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)


def test_a_params_file_that_cannot_be_read_is_a_sentence_of_the_check(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").mkdir()
    command = [sys.executable, "-m", "pipeline.config"]
    env = os.environ | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.stderr.startswith("error: params.yaml: Is a directory") and done.returncode == 1


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    path = changed(tmp_path)
    path.write_bytes(TEXT.replace('experiment: "digits"', 'experiment: "Vögel"').encode("latin-1"))
    line = TEXT[: TEXT.index("experiment:")].count("\n") + 1
    with pytest.raises(UserError, match=re.escape(f"{path}: line {line} ")):
        load(path)


def test_a_terminal_without_the_letters_ends_no_verb(tmp_path: Path, digit_folder: Path) -> None:
    """What it cannot show stands there by its code; names of files are read as UTF-8, whatever the locale."""
    folder, page = tmp_path / "images" / "扱う", tmp_path / "findings.html"
    shutil.copytree(digit_folder, folder)
    (folder / "digit-1").rename(folder / "猫")
    terminal = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "pipeline", "data", str(folder), "--page", str(page)]
    said = subprocess.run(command, cwd=tmp_path, env=os.environ | terminal, capture_output=True, check=True)
    assert rb"\u732b" in said.stdout
    assert "猫/000.png" in page.read_text(encoding="utf-8")


def test_a_models_own_keys_override_the_recipe(tmp_path: Path) -> None:
    """An entry of `models` takes `train` and replaces the keys that it names; 1e-3 is a number, as for DVC."""
    rate = ("    learning_rate: 0.05", "    learning_rate: 1e-3\n    epochs: 2\n    device: cuda")
    params = load(changed(tmp_path, rate, ("device: auto", "device: cpu")))
    assert (params.recipe("simple_cnn").learning_rate, params.recipe("simple_cnn").epochs) == (0.001, 2)
    assert params.recipe("modern_cnn").epochs == params.train.epochs
    assert [params.device(name) for name in ("simple_cnn", "modern_cnn", "any ensemble")] == ["cuda", "cpu", "cpu"]
    with pytest.raises(UserError, match="'vgg'; it has: simple_cnn, modern_cnn, simple_resnet"):
        params.recipe("vgg")


def test_overrides_replace_single_knobs(tmp_path: Path) -> None:
    augment = load(changed(tmp_path, ("overrides: {}", "overrides: {scale: 0, mixup: 1}"))).augment
    expected = POLICIES["digits"].model_dump() | {"scale": 0.0, "mixup": 1.0}
    assert resolve(augment.policy, augment.overrides) == Policy(**expected)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    own = (ARCHITECTURE, f"{ARCHITECTURE}\n    options: {{}}\n    ema: 0.9")
    ensemble = ("ensembles: {}", "ensembles: {both: {members: [simple_cnn, modern_cnn]}}")
    params = load(changed(tmp_path, own, ensemble, ("overrides: {}", "overrides: {hue: 0.1}")))
    (tmp_path / "again.yaml").write_text(as_yaml(params))
    assert load(tmp_path / "again.yaml") == params
