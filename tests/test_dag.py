"""dvc.yaml is held against the code: a stage declares what it reads, and reads what it declares."""

from __future__ import annotations

import ast
import re
import shutil
from functools import cache
from pathlib import Path

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from flows.graph import read_changed
from pipeline.config import Params
from tests.conftest import PROJECT
from tests.project import Project, clone

STAGES: dict[str, dict[str, object]] = YAML(typ="safe", pure=True).load(PROJECT / "dvc.yaml")["stages"]
# What a stage may import without depending on it, and why an edit there may rerun nothing
EXEMPT = {
    "pipeline.commands": "wires stages to files; what decides about a result belongs into a stage",
    "pipeline.errors": "decides nothing",
    "pipeline.config": "what it reads is in `params:`, which DVC compares by value; recipes.py decides, see RECIPE",
    "pipeline.tracking": "tells MLflow what the stage has written already",
}
CHECKS = {"load"}  # a function of the shell that refuses parameters, or returns them as they are
# Of one stage alone
PRINTED = {"train": {"pipeline.diagnosis.rules"}}  # at the end, for people; the report's own is what is kept
# How a model's recipe comes about, for the stages that ask for one
RECIPE = "pipeline/config/recipes.py"


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
    return {name for name in found if file_of(name) is not None and not name.startswith(tuple(EXEMPT))}


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
        for helper in called & shell_functions() - CHECKS:
            direct |= imported(function(helper))
    modules = set().union(*(closure(name) for name in direct - PRINTED.get(stage, set())))
    texts = {file: file.read_text(encoding="utf-8") for file in map(file_of, modules) if file is not None}
    holding = [file for file, text in texts.items() if any(not isinstance(n, ast.Expr) for n in ast.parse(text).body)]
    asks = any(".recipe(" in text for text in (*texts.values(), *map(ast.unparse, commands_of(stage))))
    return {file.relative_to(PROJECT).as_posix() for file in holding} | ({RECIPE} if asks else set())


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
    if "device" in named:
        named |= {"train"}
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


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose stages are all up to date, as DVC sees it: each output is there, though empty."""
    project = clone(tmp_path_factory.mktemp("done") / "clone")
    project.run("dvc config --local core.no_scm true")
    with Repo(str(project.root)) as repo:
        for out in (Path(str(out)) for stage in repo.index.stages for out in stage.outs):
            path = project.root / out
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir() if not path.suffix else path.touch()
    project.run("dvc commit --force --quiet")
    assert read_changed(project.root) == frozenset()
    return project.root


@pytest.mark.parametrize(
    ("edited", "rerun"),
    [
        ("pipeline/config/recipes.py", {"train", "prune", "report"}),
        ("pipeline/training/inputs.py", {"train", "prune"}),
        ("pipeline/diagnosis/rules.py", {"report"}),
        ("pipeline/networks/architectures/modern_cnn.py", {"train", "prune", "export", "evaluate", "audit"}),
    ],
)
def test_an_edit_reruns_what_it_changes(done: Path, edited: str, rerun: set[str]) -> None:
    """What trains a network or stands in its card trains anew; the words of a diagnosis do not."""
    code = done / edited
    text = code.read_text(encoding="utf-8")
    code.write_text(f"{text}\n# edited\n", encoding="utf-8")
    try:
        assert {stage.partition("@")[0] for stage in read_changed(done)} == rerun
    finally:
        code.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("section", "name", "command"),
    [
        ("models", "a; touch owned", ["repro"]),
        ("models", "a'; touch owned; '", ["repro", "-s", "train@a'; touch owned; '"]),
        ("models", "a\ntouch owned", ["repro", "-s", "prune@a\ntouch owned"]),
        ("ensembles", "$(touch owned)", ["repro"]),
    ],
)
def test_no_name_reaches_a_shell_unchecked(
    done: Path, tmp_path: Path, section: str, name: str, command: list[str]
) -> None:
    """Whether all is brought up to date or a single stage, and although no other stage has anything to do."""
    project = Project(Path(shutil.copytree(done, tmp_path / "copy")))
    yaml = YAML(typ="safe", pure=True)
    params = yaml.load(project.root / "params.yaml")
    named = {"architecture": "simple_cnn"} if section == "models" else {"members": ["simple_cnn", "modern_cnn"]}
    params[section] = {**params[section], name: named}
    yaml.dump(params, project.root / "params.yaml")
    if "prune" in command[-1]:  # which needs what `train` would have made
        checkpoint = project.root / "artifacts" / "train" / name / "checkpoint.safetensors"
        checkpoint.parent.mkdir()
        checkpoint.touch()
    assert f"error: params.yaml: {section}: " in project.run(["dvc", *command], code=255)
    assert not (project.root / "owned").exists()


@pytest.mark.parametrize("stage", STAGES)
def test_a_command_with_a_name_in_it_comes_after_the_check(stage: str) -> None:
    """DVC runs a stage's commands in order, and none after one that fails."""
    cmd: str | list[str] = definition(stage)["cmd"]
    if "${" in "".join(cmd):
        assert cmd[0] == "python -m pipeline.config"
