"""`python -m pipeline VERB`: the stages that dvc.yaml calls, and the verbs for people.

What a person can fix is one sentence; a bug of ours keeps its traceback.
"""

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from pipeline.cli import data, describe, init, lr_find, predict, registry, reproduce, stages
from pipeline.config import files_of
from pipeline.errors import UserError, said
from pipeline.training.signals import Interrupted

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show every traceback.")] = False) -> None:
    """Labelled images in, a tested and registered CNN classifier out. `dvc repro` runs all stages."""


VERBS: list[Callable[..., None]] = [
    init.init, data.data, data.accept, describe.describe, lr_find.lr_find,
    registry.register, registry.promote, predict.predict, registry.track, registry.lineage, reproduce.reproduce,
]  # fmt: skip
for verb in VERBS:
    app.command(rich_help_panel="For people")(verb)
app.add_typer(registry.app, name="registry", rich_help_panel="For people")
for stage in files_of("stages"):
    app.command(stage, help="See dvc.yaml.", rich_help_panel="Stages (called by dvc.yaml)")(stages.command(stage))


def main() -> None:
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        # In such a locale Python would misread the names of files; the terminal keeps its encoding
        os.environ |= {"PYTHONUTF8": "1", "PYTHONIOENCODING": sys.stdout.encoding}
        os.execv(sys.executable, sys.orig_argv)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a name may hold what a terminal lacks
    try:
        app()
    except Interrupted as stopped:
        print(f"{stopped}: `dvc repro` goes on from there", file=sys.stderr)
        sys.exit(stopped.exit_code)
    except (UserError, OSError) as error:
        sentence = said(error)
        if not sentence or "--debug" in sys.argv:
            raise
        sys.exit(f"error: {sentence}")


if __name__ == "__main__":
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    main()
