"""A copy of this project in a folder of its own, and what a person types there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from ruamel.yaml import YAML

from tests.conftest import PROJECT

SHIPPED = (
    ".dvc/.gitignore", ".dvc/config", ".dvcignore", ".gitignore", "MLproject", "data/downloads/README.md",
    "data/reference/README.md", "dvc.yaml", "flows", "params.yaml", "pipeline", "prefect.yaml", "python_env.yaml",
    "requirements.lock",
)  # fmt: skip


STAGES: dict[str, dict[str, Any]] = YAML(typ="safe", pure=True).load(PROJECT / "dvc.yaml")["stages"]


def definition(stage: str) -> dict[str, Any]:
    body: dict[str, Any] = STAGES[stage].get("do", STAGES[stage])
    return body


def outputs(stage: str) -> set[str]:
    listed = [out for kind in ("outs", "metrics", "plots") for out in definition(stage).get(kind, [])]
    return {out if isinstance(out, str) else next(iter(out)) for out in listed}


class Project:
    def __init__(self, root: Path) -> None:
        self.root = root
        unset = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID")
        self.env = {name: value for name, value in os.environ.items() if name not in unset} | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PREFECT_HOME": str(root.parent / "prefect"),
            "DVC_NO_ANALYTICS": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            **{f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }

    def run(self, command: str | list[str], code: int = 0) -> str:
        words = command.split() if isinstance(command, str) else command
        done = subprocess.run(
            words, cwd=self.root, env=self.env, capture_output=True, text=True, timeout=500, check=False
        )
        output = done.stdout + done.stderr
        assert done.returncode == code, f"{command} exited with {done.returncode}:\n{output[-4000:]}"
        return output

    def change(self, old: str, new: str, file: str = "params.yaml") -> None:
        path = self.root / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    def ran(self, output: str) -> set[str]:
        return set(re.findall(r"Running stage '(.*?)'", output))


def clone(root: Path) -> Project:
    """The shipped files as they stand in the working tree, so that a test sees what is not committed yet."""
    for name in SHIPPED:
        source, target = PROJECT / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return Project(root)


def read_changed(root: Path) -> frozenset[str]:
    """The stages that DVC would not skip as they stand, by its own status."""
    with Repo(str(root)) as repo:
        status = repo.status(check_updates=False)
        return frozenset(stage.name for stage in repo.index.stages if stage.cmd and stage.addressing in status)
