"""dvc.yaml is held against the code: a stage declares what it reads, and reads what it declares."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.config import Params
from tests.conftest import PROJECT

STAGES: dict[str, dict[str, object]] = YAML(typ="safe", pure=True).load(PROJECT / "dvc.yaml")["stages"]
# The shell wires stages to files and to MLflow; what decides about a result belongs into a stage
SHELL = ("pipeline.config", "pipeline.tracking", "pipeline.registry", "pipeline.commands")


def definition(stage: str) -> dict[str, list[str]]:
    content = STAGES[stage]
    body = content.get("do", content)
    assert isinstance(body, dict)
    return body


def commands_of(stage: str) -> list[ast.FunctionDef]:
    """The functions in pipeline/commands/ that the stage's `cmd` calls, one or a list of them."""
    cmd: str | list[str] = definition(stage)["cmd"]
    verbs = re.findall(r"python -m pipeline (\w+)", cmd if isinstance(cmd, str) else "\n".join(cmd))
    return [function(verb) for verb in verbs]


def function(name: str) -> ast.FunctionDef:
    """A function in pipeline/commands/."""
    for file in (PROJECT / "pipeline" / "commands").glob("*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                return node
    raise AssertionError(f"no command {name}")


@cache
def shell_functions() -> frozenset[str]:
    files = (PROJECT / "pipeline" / "commands").glob("*.py")
    return frozenset(
        node.name for file in files for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)
    )


def imported(tree: ast.AST) -> set[str]:
    """Modules of the pipeline that a tree imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pipeline"):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if file_of(name) is not None and not name.startswith(SHELL)}


def file_of(module: str) -> Path | None:
    path = PROJECT / Path(*module.split("."))
    return next((f for f in (path.with_suffix(".py"), path / "__init__.py") if f.is_file()), None)


@cache
def closure(module: str) -> frozenset[str]:
    file = file_of(module)
    assert file is not None
    direct = imported(ast.parse(file.read_text()))
    return frozenset({module}.union(*(closure(name) for name in direct if name != module)))


def read_modules(stage: str) -> set[str]:
    """Files of the pipeline that the stage's commands import, directly or not; empty packages aside."""
    direct = set()
    for shell in commands_of(stage):
        direct |= imported(shell)
        called = {n.func.id for n in ast.walk(shell) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        for helper in called & shell_functions():
            direct |= imported(function(helper))
    modules = set().union(*(closure(name) for name in direct))
    files = {file_of(name) for name in modules}
    return {
        file.relative_to(PROJECT).as_posix()
        for file in files
        if file is not None and any(not isinstance(n, ast.Expr) for n in ast.parse(file.read_text()).body)
    }


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_every_module_that_it_imports(stage: str) -> None:
    """Otherwise a change of the code would rerun nothing."""
    declared = [dep for dep in definition(stage)["deps"] if dep.startswith("pipeline/")]
    missing = {
        file
        for file in read_modules(stage)
        if not any(file == dep or file.startswith(f"{dep}/") for dep in declared)
    }  # fmt: skip
    assert not missing


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_no_module_that_it_does_not_import(stage: str) -> None:
    """Otherwise a change of the code would rerun too much."""
    declared = [dep for dep in definition(stage)["deps"] if dep.startswith("pipeline/") and not dep.endswith(".j2")]
    read = read_modules(stage)
    used = {dep for dep in declared if any(file == dep or file.startswith(f"{dep}/") for file in read)}
    assert [dep for dep in declared if dep not in used and "${item.architecture}" not in dep] == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_the_sections_that_it_reads(stage: str) -> None:
    """`params:` in dvc.yaml are the sections of params.yaml that the commands take."""
    source = "\n".join(ast.unparse(command) for command in commands_of(stage))
    if stage == "report":  # hands the whole of params.yaml to its page
        source = (PROJECT / "pipeline/stages/report.py").read_text()
        source += (PROJECT / "pipeline/report.html.j2").read_text()
        source = source.replace("params.recipe(", "config.recipe(").replace("params.", "config.")
        source = re.sub(r"config\.yaml", "", source)
    named = set(re.findall(r"(?:config|load\(params\))\.([a-z]+)", source))
    if "recipe" in named:
        named |= {"train", "models"}
    if "everything" in named:
        named |= {"models", "ensembles"}
    read = named & {field.alias or name for name, field in Params.model_fields.items()}
    declared = {entry.split(".")[0] for entry in definition(stage)["params"]}
    assert declared == read


def test_the_code_that_dvc_watches_names_no_output_path() -> None:
    """Paths come from dvc.yaml: stages get theirs as arguments."""
    for package in ("stages", "training", "datasets", "architectures", "evaluation", "inference"):
        for file in (PROJECT / "pipeline" / package).glob("*.py"):
            assert "artifacts/" not in file.read_text(), file
