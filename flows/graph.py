"""The stage graph as DVC has it. `dvc.yaml` owns it: nothing here, and nothing that uses this, names a stage.

A stage's address is what `dvc repro` takes, such as `split` or `train@simple_cnn`.
"""

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


def find_alone(upstream: Mapping[str, Set[str]]) -> frozenset[str]:
    """The stages that nothing can run beside: every other stage is above or below them."""
    above: dict[str, frozenset[str]] = {}
    for stage, needed in upstream.items():
        above[stage] = frozenset(needed).union(*(above[other] for other in needed))

    def related(stage: str) -> int:
        return len(above[stage]) + sum(stage in others for others in above.values())

    return frozenset(stage for stage in above if related(stage) == len(above) - 1)


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
        living = {path: [holder for holder in holders if _lives(holder)] for path, holders in lock["read"].items()}
        lock["read"] = {path: holders for path, holders in living.items() if holders}


def _lives(holder: Mapping[str, Any]) -> bool:
    import psutil

    try:
        return str(holder["cmd"]).split()[-1] in " ".join(psutil.Process(holder["pid"]).cmdline())
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # of another user: DVC must judge
        return True


def _open_repo(root: Path) -> Any:
    from dvc.repo import Repo  # late, because it takes half a second

    return Repo(str(root), _wait_for_lock=True)


def _address(stage: Any) -> str:
    """What `dvc repro` takes in the project root, whatever folder this process is in."""
    path = str(stage.path_in_repo)
    return stage.name if path == "dvc.yaml" else f"{path}:{stage.name}"
