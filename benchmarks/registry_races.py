"""Promotions as 20 processes at once, and killed at 20 random moments, in the embedded store and on an MLflow server
with PostgreSQL, S3 and a login. Each must leave one champion, aliases that agree and a history that verifies."""

import os
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd

from pipeline.artifacts import Dataset, ModelCard
from pipeline.config import load
from pipeline.preprocessing import Preprocessing
from pipeline.registry import versions, views
from tests.conftest import PROJECT
from tests.races import at_once, killed, more_versions, sound
from tests.results import leave_results
from tests.servers import NAME, PASSWORD, mlflow_server, postgres, postgres_tools, s3

PROCESSES, KILLS = (int(number) for number in (sys.argv[1:3] or (20, 20)))


def prepare(folder: Path) -> list[str]:
    """A project with one network that knows nothing, registered many times; the versions."""
    folder.mkdir()
    os.chdir(folder)
    Path("params.yaml").write_bytes((PROJECT / "params.yaml").read_bytes())
    images = np.zeros((12, 16, 16, 3), np.uint8)
    columns = {
        "path": [f"{n}.png" for n in range(12)],
        "class": ["a", "b"] * 6,
        "sha256": [f"{n:064}" for n in range(12)],
    }
    splits = pd.DataFrame({**columns, "split": ["train", "val", "test"] * 4, "group": range(12), "alike": range(12)})
    dataset = Dataset(images, np.arange(12) % 2, splits, ("a", "b"))
    card = ModelCard("simple_cnn", ("a", "b"), Preprocessing(16, "crop", (255, 255, 255)), (0.3,) * 3, (0.3,) * 3)
    leave_results(card, dataset)
    params = load()
    return [versions.register(params).version, *more_versions(params.registry.name, PROCESSES)]


def measure(where: str, wanted: list[str]) -> None:
    name = load().registry.name
    at_once(wanted[:1])
    outcomes, seconds = at_once(wanted[1:])
    seen = sound(name)
    assert outcomes == {"promoted": PROCESSES} and sorted(str(e.champion) for e in seen.entries) == sorted(wanted)
    print(
        f"{where}: {PROCESSES} at once in {seconds:.1f} s: champion {seen.champion}, {len(seen.entries)} entries",
        flush=True,
    )
    _, alone = at_once([wanted[0]])
    ended: Counter[str] = Counter()
    for kill in range(KILLS):
        old, other = sound(name).champion, wanted[1 + kill % 2]
        died = killed(other, alone)
        new = sound(name).champion
        assert new in (old, other) and (died or new == other)
        ended[f"{'killed' if died else 'done'}, {'new' if new == other else 'old'} champion"] += 1
    assert views.verify(name)[0] == []
    print(f"{where}: {KILLS} kills within {alone:.1f} s, the time of one: {dict(ended)}; verified", flush=True)


if __name__ == "__main__":
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{root}/mlflow.db"
        measure("embedded", prepare(root / "embedded"))
        if tools := postgres_tools():
            database, store = stack.enter_context(postgres(tools)), stack.enter_context(s3())
            options = ("--artifacts-destination", "s3://bucket/races")
            address = stack.enter_context(mlflow_server(root, database, store, *options))
            os.environ["MLFLOW_TRACKING_URI"] = address.replace("://", f"://{NAME}:{quote(PASSWORD, safe='')}@")
            measure("server", prepare(root / "server"))
        os.chdir("/")
