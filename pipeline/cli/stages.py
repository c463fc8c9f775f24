"""A stage as dvc.yaml calls it: read params.yaml, run it, print a line of what came out, and tell MLflow.

A file in pipeline/stages/ is a stage: its `run` takes the parameters, and the name of a model where the stage has one,
and returns the facts for the line.
"""

import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from inspect import signature
from typing import Annotated, Any

import typer

from pipeline.config import load
from pipeline.errors import UserError

Name = Annotated[str, typer.Argument(help="An entry of `models` or `ensembles`, where the stage is of one.")]


def command(stage: str) -> Callable[..., None]:
    """For typer."""

    def run(name: Name = "") -> None:
        run_stage(stage, name)

    return run


def run_stage(stage: str, name: str = "") -> None:
    """Raises UserError for wrong parameters, and for a name that is missing or unknown."""
    start, config = time.perf_counter(), load()
    run = import_module(f"pipeline.stages.{stage}").run
    arguments: dict[str, Any] = {"config": config}
    if "name" in signature(run).parameters:
        if name not in config.names:
            raise UserError(f"{stage} needs a name of params.yaml, not {name!r}: {', '.join(config.names)}")
        arguments["name"] = name
    elif name:
        raise UserError(f"{stage} is not of a single model: leave {name!r} out")
    if stage == "train":
        from pipeline.tracking.live import live_run

        arguments["live"] = partial(live_run, config, name)
    facts = run(**arguments)
    if not facts:  # a process of a distributed training that is not the main one
        return
    print(f"{f'{stage} {name}'.strip()}: {', '.join(facts)} ({time.perf_counter() - start:.1f} s)", flush=True)
    if stage == "ensemble":
        from pipeline.tracking.runs import note_ensemble

        note_ensemble(config, name)
    for model in [name] if name else config.names if stage == "benchmark" else []:
        from pipeline.tracking.sync import sync_or_warn

        sync_or_warn(config, model)
