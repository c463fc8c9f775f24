"""dvc.yaml is held against the code: a stage declares what it reads, and reads what it declares."""

import ast
import inspect
import itertools
import re
import shutil
from functools import cache
from pathlib import Path

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from pipeline import layout
from pipeline.artifacts import VARIANTS
from pipeline.cli.stages import run_stage
from pipeline.config import Params
from pipeline.errors import UserError
from tests.conftest import PROJECT
from tests.project import STAGES, Project, clone, definition, outputs, read_changed

# What a stage may import without depending on it: errors decide nothing, the paths of the layout stand in dvc.yaml too,
# and what config reads is in `params:`, which DVC compares by value, but for RECIPE, of the stages that ask for one
EXEMPT = ("pipeline.errors", "pipeline.layout", "pipeline.config")
RECIPE = "pipeline/config/recipes.py"
PRINTED = ("pipeline.stages.train", "pipeline.diagnosis.rules")  # for people; the report's own is what is kept


def verbs_of(stage: str) -> list[str]:
    """What the stage's `cmd` runs: files of pipeline/stages/, one or, for an ensemble, several."""
    return re.findall(r"python -m pipeline (\w+)", str(definition(stage)["cmd"]))


def imported(module: str) -> set[str]:
    """Modules of the pipeline that a module imports anywhere, also inside functions."""
    file = file_of(module)
    assert file is not None
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pipeline"):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    passed_over = (*EXEMPT, PRINTED[1]) if module == PRINTED[0] else EXEMPT
    return {name for name in found if file_of(name) is not None and not name.startswith(passed_over)}


def file_of(module: str) -> Path | None:
    path = PROJECT / Path(*module.split("."))
    return next((f for f in (path.with_suffix(".py"), path / "__init__.py") if f.is_file()), None)


@cache
def closure(module: str) -> frozenset[str]:
    return frozenset({module}.union(*(closure(name) for name in imported(module) - {module})))


def read_modules(stage: str) -> set[str]:
    """Files of the pipeline that the stage imports, directly or not; empty packages aside."""
    modules = set().union(*(closure(f"pipeline.stages.{verb}") for verb in verbs_of(stage)))
    texts = {file: file.read_text(encoding="utf-8") for file in map(file_of, modules) if file is not None}
    holding = [file for file, text in texts.items() if any(not isinstance(n, ast.Expr) for n in ast.parse(text).body)]
    asks = any(".recipe(" in text for text in texts.values())
    return {file.relative_to(PROJECT).as_posix() for file in holding} | ({RECIPE} if asks else set())


def test_the_layout_and_the_dag_name_the_same_paths() -> None:
    declared = {out.replace("${key}", "NAME") for stage in STAGES for out in outputs(stage)}
    arguments: dict[str, list[object]] = {"name": ["NAME"], "stage": [*STAGES], "variant": [*VARIANTS], "seed": [0],
                 "kind": ["confusion", "curves", "mistakes", "reliability"]}  # fmt: skip
    named = {str(value) for name, value in vars(layout).items() if isinstance(value, Path) and name != "ARTIFACTS"}
    made: dict[str, set[str]] = {}
    for name, function in inspect.getmembers(layout, inspect.isfunction):
        choices = itertools.product(*(arguments[parameter] for parameter in inspect.signature(function).parameters))
        made[name] = {str(function(*choice)) for choice in choices}
    del made["folder"], made["resume"]  # of no single output; of no output
    inside = {"seeds_table", "seed_checkpoint"}  # of the output `seeds`
    assert all(paths & declared for name, paths in made.items() if name not in inside)
    assert named - {str(layout.REFERENCE)} <= declared
    assert declared <= named.union(*made.values())


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_modules_that_it_imports_and_no_others(stage: str) -> None:
    """Otherwise a change of the code would rerun nothing, or too much."""
    declared = {dep for dep in definition(stage)["deps"] if dep.startswith("pipeline/") and not dep.endswith(".j2")}
    read = read_modules(stage)
    covered = {(dep, file) for dep in declared for file in read if Path(file).is_relative_to(dep)}
    assert read == {file for _, file in covered}
    assert {dep for dep in declared if "${item.architecture}" not in dep} == {dep for dep, _ in covered}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_the_sections_that_it_reads(stage: str) -> None:
    source = "\n".join((PROJECT / f"pipeline/stages/{verb}.py").read_text() for verb in verbs_of(stage))
    if stage == "report":  # hands the whole of params.yaml to its page
        source += (PROJECT / "pipeline/report.html.j2").read_text().replace("params.", "config.")
    named = set(re.findall(r"\b(?:config|params)\.([a-z]+)_?\b(?!\.yaml)", source))
    implied = {"recipe": {"train", "models"}, "device": {"train"}, "names": {"models", "ensembles"}}
    named = named.union(*(implied.get(name, set()) for name in named))
    read = named & {field.alias or name for name, field in Params.model_fields.items()}
    declared = {entry.split(".")[0] for entry in definition(stage)["params"]}
    assert declared == read


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


OF_AN_ARCHITECTURE = [
    stage for stage in STAGES if "pipeline/networks/architectures/${item.architecture}.py" in definition(stage)["deps"]
]


@pytest.mark.parametrize(
    ("edited", "rerun"),
    [
        ("pipeline/config/recipes.py", {"train", "prune", "report"}),
        ("pipeline/training/inputs.py", {"train", "prune"}),
        ("pipeline/diagnosis/rules.py", {"report"}),
        ("pipeline/networks/architectures/modern_cnn.py", {*OF_AN_ARCHITECTURE, "audit"}),
    ],
)
def test_an_edit_reruns_what_it_changes(done: Path, edited: str, rerun: set[str]) -> None:
    """What trains a network or stands in its card trains again; the words of a diagnosis do not."""
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
    assert f"error: params.yaml: {section}." in project.run(["dvc", *command], code=255)
    assert not (project.root / "owned").exists()


@pytest.mark.parametrize(
    ("stage", "name"), [("ingest", "simple_cnn"), ("train", ""), ("train", "vgg"), ("ensemble", "simple_cnn")]
)
def test_a_stage_is_told_its_model_or_none(monkeypatch: pytest.MonkeyPatch, stage: str, name: str) -> None:
    monkeypatch.chdir(PROJECT)
    with pytest.raises(UserError, match=name or "simple_cnn"):
        run_stage(stage, name)


def test_a_command_with_a_name_in_it_comes_after_the_check() -> None:
    """DVC runs a stage's commands in order, and none after one that fails."""
    for stage in STAGES:
        cmd = definition(stage)["cmd"]
        assert "${" not in "".join(cmd) or cmd[0] == "python -m pipeline.config", stage
