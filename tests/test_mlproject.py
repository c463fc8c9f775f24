"""MLproject opens doors that exist: MLflow itself reads each entry point, and its command is looked up."""

import importlib.util
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from ruamel.yaml import YAML

from pipeline.__main__ import app
from tests.conftest import PROJECT

VERBS = vars(typer.main.get_command(app))["commands"]
READ: Any = importlib.import_module("mlflow.projects._project_spec").load_project(str(PROJECT))


def command_of(name: str, folder: Path, **given: str) -> list[str]:
    """The words that `mlflow run -e NAME` would run; a path parameter gets a file whose name has a space."""
    entry_point = READ.get_entry_point(name)
    image = folder / "a picture.png"
    image.touch()
    paths = {key: str(image) for key, parameter in entry_point.parameters.items() if parameter.type == "path"}
    return shlex.split(entry_point.compute_command({**paths, **given}, str(folder)))


@pytest.mark.parametrize("name", YAML(typ="safe").load(PROJECT / "MLproject")["entry_points"])
def test_entry_points_lead_somewhere(name: str, tmp_path: Path) -> None:
    """A command is `dvc repro` of a file, a flow that is there, or a verb that the shell knows."""
    match command_of(name, tmp_path):
        case ["dvc", "repro", target]:
            assert (PROJECT / target).is_file()
        case ["python", "-m", "pipeline", verb, *images]:
            assert verb in VERBS
            assert images in ([], [str(tmp_path / "a picture.png")])
        case words:
            assert words[:-1] == ["python", "-m"] and importlib.util.find_spec(words[-1])


@pytest.mark.parametrize("target", ["train@simple_cnn", "a; rm -rf b"])
def test_main_takes_one_stage(tmp_path: Path, target: str) -> None:
    """`-P target=...` reaches DVC as one word, whatever stands in it."""
    assert command_of("main", tmp_path, target=target) == ["dvc", "repro", target]
