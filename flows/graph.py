"""The stage graph as DVC has it: which stages there are, what each needs, and which have nothing to do.

`dvc.yaml` owns the graph: nothing here, and nothing that uses this, names a stage.
A stage's address is what `dvc repro` takes, such as `split` or `train@simple_cnn`.
"""

import subprocess
import sys
from collections.abc import Mapping, Set
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any


def read_graph(root: Path) -> dict[str, frozenset[str]]:
    """Each stage that has a command, and the stages it directly needs, which come before it."""
    with _open_repo(root) as repo:
        graph = repo.index.graph
        # `.dvc` files (data that is tracked or imported) have no command: they are inputs, not work.
        direct = {
            _address(stage): frozenset(_address(needed) for needed in graph[stage] if needed.cmd)
            for stage in graph
            if stage.cmd
        }
    return {stage: direct[stage] for stage in TopologicalSorter(direct).static_order()}


def read_changed(root: Path) -> frozenset[str]:
    """The stages that DVC would not skip as they stand, by its own status and so by its own rules.

    Raises `dvc.lock.LockError` while another process runs a stage of this workspace.
    """
    with _open_repo(root) as repo:
        # Imports stay as they are until `dvc update`, so their sources need not be asked over the network.
        status = repo.status(check_updates=False)
        # The keys of a status are relative to the caller's folder, as `addressing` is.
        return frozenset(_address(stage) for stage in repo.index.stages if stage.addressing in status)


def keep_to(root: Path) -> None:
    """Tell DVC that a project without a repository of its own, such as an unpacked zip, has none.

    DVC would stage its files in a repository of a folder above, or without any refuse to run.
    """
    if not (root / ".git").exists():
        command = [sys.executable, "-m", "dvc", "config", "--local", "core.no_scm", "true"]
        subprocess.run(command, cwd=root, check=True)


def release_dead(root: Path) -> None:
    """Remove the locks of DVC processes that were killed and whose number another process has since.

    DVC does so where no process has the number; else it would wait for a stranger for ever.
    """
    from dvc.rwlock import _edit_rwlock

    with (
        _open_repo(root) as repo,
        _edit_rwlock(repo.tmp_dir, repo.fs, repo.config["core"].get("hardlink_lock")) as lock,
    ):
        lock["write"] = {path: holder for path, holder in lock["write"].items() if _lives(holder)}
        kept = {path: [holder for holder in holders if _lives(holder)] for path, holders in lock["read"].items()}
        lock["read"] = {path: holders for path, holders in kept.items() if holders}


def _lives(holder: Mapping[str, Any]) -> bool:
    import psutil

    try:
        return str(holder["cmd"]).split()[-1] in " ".join(psutil.Process(holder["pid"]).cmdline())
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # of another user: DVC must judge
        return True


def find_fresh(upstream: Mapping[str, Set[str]], changed: Set[str]) -> frozenset[str]:
    """The stages with nothing to do: unchanged, and so is everything above them."""
    fresh: set[str] = set()
    for stage, needed in upstream.items():
        if stage not in changed and needed <= fresh:
            fresh.add(stage)
    return frozenset(fresh)


def find_alone(upstream: Mapping[str, Set[str]]) -> frozenset[str]:
    """The stages that nothing can run beside: every other stage is above or below them."""
    above: dict[str, frozenset[str]] = {}
    for stage, needed in upstream.items():
        above[stage] = frozenset(needed).union(*(above[other] for other in needed))
    return frozenset(
        stage
        for stage in above
        if all(other == stage or other in above[stage] or stage in above[other] for other in above)
    )


def _open_repo(root: Path) -> Any:
    from dvc.repo import Repo  # late, because it takes half a second

    return Repo(str(root), _wait_for_lock=True)


def _address(stage: Any) -> str:
    """What `dvc repro` takes in the project root, whatever folder this process is in."""
    name = getattr(stage, "name", None)  # a `.dvc` file has one stage, without a name
    path = str(stage.path_in_repo)
    return path if name is None else name if path == "dvc.yaml" else f"{path}:{name}"
