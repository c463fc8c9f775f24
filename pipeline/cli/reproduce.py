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
    """Train a version again, in a clone of its commit: exit code 0 if its checkpoint is identical, 1 if it is not."""
    from pipeline.registry import reproduce as work

    name = load().registry.name
    with tempfile.TemporaryDirectory(prefix="reproduce-") as folder:
        found = work.reproduce(name, version, into or Path(folder) / "project", environment)
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        verdict, differs = "identical" if found["identical"] else "not identical", False
        print(f"{verdict}: {found['model']}, version {found['version']} of {name}, commit {found['commit'][:12]}\n")
        rows = [("", "then", "now", "")]
        for what, then, now in (fact.values() for fact in found["facts"]):
            shown = [value[:16] if "sha256" in what else value for value in (then, now)]
            rows.append((what, *shown, "" if then == now else "differs"))
        print(table(rows))
        if not found["identical"]:
            differs = any(then != now for _, then, now in (fact.values() for fact in found["facts"][1:]))
            why = "what differs decides the weights" if differs else "nothing else that is recorded differs: training "
            why += "" if differs else "on a GPU or with train.time_limit comes to other weights each time"
            print(f"\nlargest difference of a weight: {found['largest']}; {why}")
    if not found["identical"]:
        sys.exit(1)
