"""MLproject opens doors that exist: MLflow itself reads each entry point, and its command is looked up."""

import importlib
import importlib.util
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
PROJECT: Any = importlib.import_module("mlflow.projects._project_spec").load_project(str(ROOT))
ENTRY_POINTS: list[str] = list(YAML(typ="safe").load(ROOT / "MLproject")["entry_points"])


def command_of(name: str, folder: Path, **given: str) -> list[str]:
    """The words that `mlflow run -e NAME` would run; a path parameter gets a file whose name has a space."""
    entry_point = PROJECT.get_entry_point(name)
    image = folder / "a picture.png"
    image.touch()
    paths = {key: str(image) for key, parameter in entry_point.parameters.items() if parameter.type == "path"}
    return shlex.split(entry_point.compute_command({**paths, **given}, str(folder)))


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_entry_points_lead_somewhere(name: str, tmp_path: Path) -> None:
    """A command is `dvc repro` of a file, a flow that is there, or a verb that the shell knows."""
    match command_of(name, tmp_path):
        case ["dvc", "repro", target]:
            assert (ROOT / target).is_file()
        case ["python", "-m", "pipeline", verb, *_]:
            asked = [sys.executable, "-m", "pipeline", verb, "--help"]
            assert subprocess.run(asked, cwd=ROOT, capture_output=True, check=False, timeout=60).returncode == 0
        case ["python", "-m", module]:
            assert importlib.util.find_spec(module)
        case words:
            pytest.fail(f"MLproject may only call dvc and this project: {shlex.join(words)}")


def test_main_takes_one_stage(tmp_path: Path) -> None:
    """`-P target=...` reaches DVC as one word, whatever stands in it."""
    assert command_of("main", tmp_path, target="train@simple_cnn") == ["dvc", "repro", "train@simple_cnn"]
    assert command_of("main", tmp_path, target="a; rm -rf b") == ["dvc", "repro", "a; rm -rf b"]


def test_predict_takes_one_image(tmp_path: Path) -> None:
    """A path with a space stays one argument."""
    assert command_of("predict", tmp_path)[-1] == str(tmp_path / "a picture.png")


def test_environment_is_the_lock() -> None:
    """MLflow's own environments install the same lock as the Makefile."""
    assert Path(PROJECT.env_config_path) == ROOT / "python_env.yaml"
    environment = YAML(typ="safe").load(ROOT / "python_env.yaml")
    assert environment["dependencies"] == ["-r requirements.lock"]
    assert (ROOT / "requirements.lock").is_file()
