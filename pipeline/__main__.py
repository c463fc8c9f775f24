"""`python -m pipeline VERB`: the stages that dvc.yaml calls, and the verbs for people. Errors are one sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from errno import EDQUOT, ENOSPC

import typer

from pipeline.cli import data as inspection
from pipeline.cli import describe, lr_find
from pipeline.cli import init as setup
from pipeline.cli import registry as shipping
from pipeline.commands import data, models
from pipeline.errors import UserError
from pipeline.training.signals import Interrupted

app = typer.Typer(
    help="Labelled images in, a tested and registered CNN classifier out. `dvc repro` runs all stages.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
PANELS: dict[str, list[Callable[..., None]]] = {
    "For people": [
        setup.init,
        inspection.data,
        inspection.accept,
        describe.describe,
        lr_find.lr_find,
        shipping.register,
        shipping.promote,
        shipping.predict,
        shipping.track,
    ],
    "Stages (called by dvc.yaml)": [
        *(data.ingest, data.validate, data.split, data.augment),
        *(models.combine, models.export, models.quantize, models.evaluate),
        *(models.audit, models.benchmark, models.report),
    ],
}
for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)


def main() -> None:
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        # In such a locale Python would misread the names of files; the terminal keeps its encoding
        os.environ |= {"PYTHONUTF8": "1", "PYTHONIOENCODING": sys.stdout.encoding}
        os.execv(sys.executable, sys.orig_argv)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a name may hold what a terminal lacks
    try:
        app()
    except UserError as error:  # what stages raise for people: the sentence is enough
        from pipeline.tracking.server import masked

        sys.exit(f"error: {' '.join(masked(str(error)).split())}")
    except FileNotFoundError as error:
        sys.exit(f"error: {error.filename or error} does not exist: run `dvc repro` first, or check the path")
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        check = "free some space" if error.errno in (ENOSPC, EDQUOT) else "check the path and its permissions"
        sys.exit(f"error: {where}{error.strerror or error}: {check}")
    except KeyboardInterrupt:
        sys.exit(130)
    except Interrupted as stopped:
        print(f"{stopped}: `dvc repro` goes on from there", file=sys.stderr)
        sys.exit(stopped.exit_code)


if __name__ == "__main__":
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    main()
