"""A small DVC project in a temporary folder, and a Prefect server for the flows that run on it."""

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import PROJECT

DVC_YAML = """
stages:
  split:
    cmd: cat source.txt > split.txt
    deps: [source.txt]
    outs: [split.txt]
  train:
    matrix: {model: [a, b]}
    cmd: sh train.sh ${item.model}
    deps: [split.txt, train.sh]
    params: ["models.${item.model}"]
    outs: ["model_${item.model}.txt"]
  compare:
    cmd: cat model_a.txt model_b.txt > comparison.txt
    deps: [model_a.txt, model_b.txt]
    outs: [comparison.txt]
"""
PARAMS_YAML = """
models:
  a: {rate: 1}
  b: {rate: 2}
"""
TRAIN_SH = """
echo "training $1"
echo "${OMP_NUM_THREADS:-all}" > "threads_$1"
cat split.txt params.yaml > "model_$1.txt"
"""


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """For something that happens in another process."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def is_gone(pid: int) -> bool:
    """Whether a process has ended (an orphan's remains may wait for init)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # gone before it was opened, or before it was read
        return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with four stages, split -> train@a, train@b -> compare, over data that DVC tracks."""
    from dvc.repo import Repo

    for variable in ("OMP_NUM_THREADS", "PREFECT_API_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    root = tmp_path / "toy"
    root.mkdir()
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    files = {"dvc.yaml": DVC_YAML, "params.yaml": PARAMS_YAML, "train.sh": TRAIN_SH, "source.txt": "data\n"}
    for name, text in files.items():
        (root / name).write_text(text)
    monkeypatch.chdir(root)  # `add` takes paths from here
    with Repo.init(str(root)) as repo:
        repo.add(["source.txt"])
    monkeypatch.chdir(tmp_path)  # nothing may depend on the caller's folder
    return root


def add_flows(toy: Path, verb: str) -> None:
    """The real flows, and a pipeline that has nothing but their imports and Python code for every verb."""
    shutil.copytree(PROJECT / "flows", toy / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    (toy / "pipeline").mkdir()
    for name in ("__init__.py", "errors.py", "layout.py", "proxies.py"):
        shutil.copy(PROJECT / "pipeline" / name, toy / "pipeline")
    (toy / "pipeline" / "__main__.py").write_text(verb)


@pytest.fixture
def edit(toy: Path) -> Callable[[str, str, str], None]:
    """Replaces text in a file of the project."""

    def replace(name: str, old: str, new: str) -> None:
        text = (toy / name).read_text()
        assert old in text
        (toy / name).write_text(text.replace(old, new))

    return replace


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """Prefect's own test server, on a database of its own."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness():
        yield
