"""Promotions as processes of their own: many at once, and killed in the middle. The current folder is the project."""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable

from pipeline.registry import history, promotion, versions
from pipeline.tracking.server import connect
from tests.conftest import PROJECT

RACER = """
import sys
from pipeline.config import load
from pipeline.registry import promotion

params = load()
print("ready", flush=True)
sys.stdin.readline()
print(promotion.promote(params, None, None, *sys.argv[1:]).outcome)
"""


def racer(version: str, why: str) -> subprocess.Popen[str]:
    """A forced promotion that has imported all and waits for a line."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])}
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", RACER, version, why], env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )
    assert process.stdout and process.stdout.readline() == "ready\n", process.communicate()
    return process


def at_once(wanted: Iterable[str]) -> tuple[Counter[str], float]:
    """Promotions of these versions that start together: how they ended, and the seconds that all took."""
    racers = [racer(version, f"race {number}") for number, version in enumerate(wanted)]
    start = time.monotonic()
    for process in racers:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    said = [(*process.communicate(timeout=600), process.returncode) for process in racers]
    return Counter(out.strip() if code == 0 else err[-1000:] for out, err, code in said), time.monotonic() - start


def killed(version: str, seconds: float) -> bool:
    """A promotion that is killed at a random moment of its first `seconds`; whether it was still at it."""
    process = racer(version, "killed")
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()
    time.sleep(random.uniform(0, seconds))
    process.kill()
    process.communicate()
    return process.returncode != 0


def more_versions(name: str, count: int) -> list[str]:
    """Of the same file as version 1."""
    client = connect()
    first = client.get_model_version(name, "1")
    source, tags = str(first.source), dict(first.tags)
    model = source.removeprefix("models:/")
    made = (client.create_model_version(name, source, first.run_id, tags, model_id=model) for _ in range(count))
    return [str(version.version) for version in made]


def sound(name: str) -> history.History:
    """What there is after the next verb; asserts that the history verifies and that the aliases agree."""
    promotion.settle(connect(), name)
    seen, aliases = history.read(connect(), name), versions.aliases_of(connect(), name)
    assert seen.faults == [] and seen.entries[-1].settled and seen.noted == seen.head
    assert (aliases.get("champion"), aliases.get("previous")) == (seen.champion, seen.previous)
    return seen
