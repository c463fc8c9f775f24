"""`python -m pipeline VERB`: the stages that dvc.yaml calls, and the verbs for people. Errors are one sentence."""

from __future__ import annotations

import os
import sys

import typer

from pipeline.commands import data, models, setup, shipping

app = typer.Typer(
    help="Labelled images in, a tested and registered CNN classifier out. `dvc repro` runs all stages.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
STAGES = "Stages (called by dvc.yaml)"
VERBS = "For people"
for command in (setup.init, shipping.register, shipping.promote, shipping.predict, shipping.track):
    app.command(rich_help_panel=VERBS)(command)
for command in (data.ingest, data.validate, data.split, data.augment):
    app.command(rich_help_panel=STAGES)(command)
for command in (models.train, models.prune, models.export, models.quantize, models.evaluate):
    app.command(rich_help_panel=STAGES)(command)
for command in (models.benchmark, models.report):
    app.command(rich_help_panel=STAGES)(command)


def main() -> None:
    try:
        app()
    except ValueError as error:  # what stages raise for people: the sentence is enough
        sys.exit(f"error: {' '.join(str(error).split())}")
    except OSError as error:
        if error.filename is None:
            raise
        sys.exit(f"error: {error.filename}: {error.strerror}: check the path, its permissions and the free space")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    main()
