"""The stages as dvc.yaml calls them: read params.yaml, run one, print a line of what came out, and tell MLflow.

This is the only place that tells MLflow of a stage. A file in pipeline/stages/ is a stage: its `run` takes the
parameters, and the name of a model where the stage has one, and returns the facts for the line.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.config import files_of, load

Name = Annotated[str | None, typer.Argument(help="An entry of `models` or `ensembles`, where the stage is of one.")]


def commands() -> dict[str, Callable[..., None]]:
    """A command for each stage, by its name."""

    def command(stage: str) -> Callable[..., None]:
        def run(name: Name = None) -> None:
            run_stage(stage, name)

        return run

    return {stage: command(stage) for stage in files_of("stages")}


def run_stage(stage: str, name: str | None = None) -> None:
    """Raises UserError for wrong parameters."""
    start = time.perf_counter()
    config = load(Path("params.yaml"))
    arguments: list[Any] = [config] if name is None else [config, name]
    if stage == "train":
        from pipeline.tracking import live_run

        arguments.append(partial(live_run, config, name))
    facts = import_module(f"pipeline.stages.{stage}").run(*arguments)
    if not facts:  # a process of a distributed training that is not the main one
        return
    title = stage if name is None else f"{stage} {name}"
    print(f"{title}: {', '.join(facts)} ({time.perf_counter() - start:.1f} s)", flush=True)
    changed = [name] if name is not None else config.everything if stage == "benchmark" else []
    if changed:
        from pipeline.tracking import sync_or_warn

        for model in changed:
            sync_or_warn(config, model)
