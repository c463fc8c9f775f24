"""Options that several commands share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

ParamsFile = Annotated[Path, typer.Option("--params", help="The file of parameters.")]
Artifacts = Annotated[Path, typer.Option("--artifacts", help="The folder of the stages' outputs.")]
DEFAULT_PARAMS = Path("params.yaml")
DEFAULT_ARTIFACTS = Path("artifacts")


@contextmanager
def summary(stage: str) -> Iterator[list[str]]:
    """Prints one line at the end: the stage, what the block put into the list, and the time that it took."""
    start = time.perf_counter()
    facts: list[str] = []
    yield facts
    print(f"{stage}: {', '.join(facts)} ({time.perf_counter() - start:.1f} s)", flush=True)
