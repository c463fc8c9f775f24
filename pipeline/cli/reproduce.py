"""`reproduce`: train a registered version again, from its commit, its params and its data."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.registry import AsJson, Version
from pipeline.cli.table import table
from pipeline.config import load


def reproduce(
    version: Version,
    into: Annotated[Path | None, typer.Option(help="A new folder that stays; else a temporary one.")] = None,
    environment: Annotated[bool, typer.Option("--environment", help="Install its packages too (6 GB).")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a version again, in a clone of its commit: exit code 0 if its checkpoint is identical, 1 if not."""
    from pipeline.registry import reproduce as work

    name = load().registry.name
    with tempfile.TemporaryDirectory(prefix="reproduce-") as folder:
        done = work.reproduce(name, version, into or Path(folder) / "project", environment)
    if as_json:
        print(json.dumps(done._asdict(), indent=2, ensure_ascii=False))
    else:
        verdict = "identical" if done.identical else "not identical"
        print(f"{verdict}: {done.model}, version {done.version} of {name}, commit {done.commit[:12]}")
        rows = [{"what": "checkpoint", **done.checkpoint}, *done.facts]
        marked = [(*row.values(), "" if row["then"] == row["now"] else "differs") for row in rows]
        print(table([("", "then", "now", ""), *marked]))
    if not done.identical:
        if not as_json:
            print(_explained(done.largest, any(row["then"] != row["now"] for row in done.facts)))
        sys.exit(1)


def _explained(largest: float | None, differs: bool) -> str:
    known = {None: "is not known", 0.0: "is 0: the rest of the file differs"}.get(largest, f"is {largest:.2g}")
    why = "what differs above decides the weights" if differs else "nothing that is recorded differs: a GPU or a time "
    why += "" if differs else "limit (train.time_limit) gives other weights each time"
    return f"the largest difference of a weight {known}; {why}"
