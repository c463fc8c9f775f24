"""Options that several commands share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.config import load as load

ParamsFile = Annotated[Path, typer.Option("--params", help="The file of parameters.")]
Artifacts = Annotated[Path, typer.Option("--artifacts", help="The folder of the stages' outputs.")]
DEFAULT_PARAMS = Path("params.yaml")
DEFAULT_ARTIFACTS = Path("artifacts")


@contextmanager
def summary(stage: str, visible: bool = True) -> Iterator[list[str]]:
    """Prints one line at the end: the stage, what the block put into the list, and the time that it took."""
    start = time.perf_counter()
    facts: list[str] = []
    yield facts
    if visible:
        print(f"{stage}: {', '.join(facts)} ({time.perf_counter() - start:.1f} s)", flush=True)


def write_metrics(out: Path, metrics: dict[str, Any], checkpoint: Path, **origin: str) -> None:
    """metrics.json, and beside it the trained checkpoint that they come from."""
    from pipeline.artifacts import LINEAGE, sha256, write_json

    write_json(out / "metrics.json", metrics)
    write_json(out / LINEAGE, {"checkpoint": sha256(checkpoint), **origin})
