"""The graph of the stages is what DVC says it is."""

import json
import os
import subprocess
from pathlib import Path

from flows.graph import find_alone, read_graph, release_dead


def test_graph_has_the_stages_of_dvc_in_an_order_that_can_run(toy: Path) -> None:
    """Matrix stages and those of a subfolder have the addresses that DVC takes, tracked data is no stage, and needs
    come first."""
    (toy / "sub").mkdir()
    (toy / "sub" / "dvc.yaml").write_text(
        "stages: {count: {cmd: wc ../split.txt > n, deps: [../split.txt], outs: [n]}}"
    )
    graph = read_graph(toy)
    assert graph == {
        "split": frozenset(),
        "train@a": {"split"},
        "train@b": {"split"},
        "compare": {"train@a", "train@b"},
        "sub/dvc.yaml:count": {"split"},
    }
    order = list(graph)
    assert all(order.index(needed) < order.index(stage) for stage in graph for needed in graph[stage])


def test_alone_are_the_stages_that_nothing_can_run_beside() -> None:
    """In a diamond the two ends are alone; a stage that nothing needs has company everywhere."""
    diamond = {"top": set[str](), "left": {"top"}, "right": {"top"}, "bottom": {"left", "right"}}
    assert find_alone(diamond) == {"top", "bottom"}
    assert find_alone(diamond | {"stray": set[str]()}) == frozenset()
    assert find_alone({"only": set[str]()}) == {"only"}


def test_a_lock_of_a_dead_process_is_released_though_its_number_is_taken(toy: Path) -> None:
    """DVC takes any process with the number for the holder, and would wait for ever; a holder that lives keeps its."""
    ours = {"pid": os.getpid(), "cmd": "/usr/bin/dvc repro train@a"}  # this process is no `train@a`
    with subprocess.Popen(["sh", "-c", "read line", "dvc", "repro", "train@b"], stdin=subprocess.PIPE) as alive:
        theirs = {"pid": alive.pid, "cmd": "/usr/bin/dvc repro train@b"}
        lock = toy / ".dvc" / "tmp" / "rwlock"
        lock.write_text(json.dumps({"write": {"/a": ours, "/b": theirs}, "read": {"/c": [ours, theirs]}}))
        release_dead(toy)
        assert json.loads(lock.read_text()) == {"write": {"/b": theirs}, "read": {"/c": [theirs]}}
        alive.communicate(b"end\n")
