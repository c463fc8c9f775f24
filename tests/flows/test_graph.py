"""The graph and the state of the stages are what DVC says they are."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest

from flows.graph import find_alone, find_fresh, keep_to, read_changed, read_graph

Edit = Callable[[str, str, str], None]
STAGES = {"split", "train@a", "train@b", "compare"}


def reproduce(root: Path) -> set[str]:
    """Run `dvc repro` in this process; the stages that were not skipped."""
    from dvc.repo import Repo

    with chdir(root), Repo(str(root)) as repo:
        return {stage.addressing for stage in repo.reproduce()}


def test_graph_has_the_stages_of_dvc_in_an_order_that_can_run(toy: Path) -> None:
    """Matrix stages are there under their addresses, tracked data is not, and needs come first."""
    graph = read_graph(toy)
    assert graph == {
        "split": frozenset(),
        "train@a": {"split"},
        "train@b": {"split"},
        "compare": {"train@a", "train@b"},
    }
    order = list(graph)
    assert all(order.index(needed) < order.index(stage) for stage in graph for needed in graph[stage])


def test_stages_of_a_subfolder_have_addresses_that_dvc_takes(toy: Path, edit: Edit) -> None:
    """A stage of `sub/dvc.yaml` is named as `dvc repro` takes it in the root."""
    (toy / "sub").mkdir()
    (toy / "sub" / "dvc.yaml").write_text(
        "stages: {count: {cmd: wc ../split.txt > n, deps: [../split.txt], outs: [n]}}"
    )
    assert read_graph(toy)["sub/dvc.yaml:count"] == {"split"}
    assert "sub/dvc.yaml:count" in read_changed(toy)


def test_everything_is_changed_before_the_first_run_and_nothing_after_it(toy: Path) -> None:
    """The two ends: a new project, and one that is up to date."""
    assert read_changed(toy) == STAGES
    assert reproduce(toy) == STAGES
    assert read_changed(toy) == frozenset()
    assert find_fresh(read_graph(toy), frozenset()) == STAGES


@pytest.mark.parametrize(
    ("name", "old", "new", "fresh"),
    [
        ("params.yaml", "rate: 1", "rate: 3", {"split", "train@b"}),
        ("params.yaml", "a: {rate: 1}", "", {"split", "train@b"}),
        ("dvc.yaml", "cat model_a", "cat -u model_a", {"split", "train@a", "train@b"}),
        ("dvc.yaml", "cat source", "cat -u source", set()),
        ("dvc.yaml", "outs: [split.txt]", "outs: [split.txt]\n    always_changed: true", set()),
        ("train.sh", "training", "Training", {"split"}),
        ("source.txt", "data", "other data", set()),
        ("model_b.txt", "data", "spoilt", {"split", "train@a"}),
    ],
)
def test_a_stale_stage_is_never_fresh(toy: Path, edit: Edit, name: str, old: str, new: str, fresh: set[str]) -> None:
    """After each kind of change exactly the stages above it stay fresh, and DVC skips those too."""
    reproduce(toy)
    edit(name, old, new)
    assert find_fresh(read_graph(toy), read_changed(toy)) == fresh
    if "a: {rate: 1}" not in old:  # without its parameter DVC cannot run the stage
        assert not reproduce(toy) & fresh


def test_a_missing_output_is_not_fresh(toy: Path) -> None:
    """A stage whose output was deleted, from the workspace or from the cache, has something to do."""
    reproduce(toy)
    (toy / "model_a.txt").unlink()
    assert find_fresh(read_graph(toy), read_changed(toy)) == {"split", "train@b"}


def test_a_frozen_stage_is_fresh_for_us_as_for_dvc(toy: Path, edit: Edit) -> None:
    """DVC skips a frozen stage though what it needs has changed; the flow says the same."""
    reproduce(toy)
    edit("dvc.yaml", "outs: [comparison.txt]", "outs: [comparison.txt]\n    frozen: true")
    (toy / "model_a.txt").write_text("other")
    assert read_changed(toy) == {"train@a"}
    assert "compare" not in find_fresh(read_graph(toy), read_changed(toy))  # so DVC itself is asked
    assert reproduce(toy) == {"train@a"}


def test_a_stage_without_inputs_and_outputs_is_never_fresh(toy: Path, edit: Edit) -> None:
    """DVC runs a bare command every time."""
    edit("dvc.yaml", "stages:", "stages:\n  greet:\n    cmd: echo hello")
    reproduce(toy)
    assert read_changed(toy) == {"greet"}


def test_while_another_process_runs_a_stage_dvc_does_not_tell(toy: Path, edit: Edit) -> None:
    """The status then raises DVC's own error, which the flow turns into asking stage by stage."""
    from dvc.lock import LockError

    edit("train.sh", "cat split", "touch started\nsleep 60\ncat split")
    command = [sys.executable, "-m", "dvc", "repro", "train@a"]
    with subprocess.Popen(command, cwd=toy, stdout=subprocess.DEVNULL, start_new_session=True) as other:
        try:
            deadline = time.monotonic() + 30
            while not (toy / "started").exists():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            with pytest.raises(LockError):
                read_changed(toy)
        finally:
            subprocess.run(["kill", "-KILL", "--", f"-{other.pid}"], check=True)


@pytest.mark.parametrize("inside", [False, True])
def test_a_project_without_git_is_left_alone_by_one_above(toy: Path, tmp_path: Path, inside: bool) -> None:
    """An unpacked zip runs, also in somebody's repository, in which nothing is staged."""
    project = tmp_path / "home" / "zip"
    project.mkdir(parents=True)
    for name in ("dvc.yaml", "params.yaml", "train.sh", "source.txt"):
        shutil.copy(toy / name, project)
    (project / ".dvc").mkdir()
    (project / ".dvc" / "config").write_text("[core]\n    autostage = true\n")
    git = ["git", "-C", str(project.parent)]
    if inside:
        subprocess.run([*git, "init", "--quiet"], check=True)
    keep_to(project)
    assert reproduce(project) == STAGES
    assert read_changed(project) == frozenset()
    if inside:
        status = subprocess.run([*git, "status", "--porcelain"], check=True, capture_output=True, text=True)
        assert status.stdout == "?? zip/\n"


def test_alone_are_the_stages_that_nothing_can_run_beside() -> None:
    """In a diamond the two ends are alone; a stage that nothing needs has company everywhere."""
    diamond = {"top": set[str](), "left": {"top"}, "right": {"top"}, "bottom": {"left", "right"}}
    assert find_alone(diamond) == {"top", "bottom"}
    assert find_alone(diamond | {"stray": set[str]()}) == frozenset()
    assert find_alone({"only": set[str]()}) == {"only"}
