"""`register`, `promote` and `track`: what MLflow is told by hand; `registry`: what it knows, and changing that."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline import layout
from pipeline.cli.table import table
from pipeline.config import load
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.registry.promotion import Outcome

app = typer.Typer(no_args_is_help=True, help="Versions of the model, their history, promotion and rollback.")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Version = Annotated[str, typer.Argument(help="A number or an alias.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it stays in the history.")]
SHOWN = 60  # characters of a value in a table


def register() -> None:
    """Register the best candidate that keeps its budgets, as `challenger`."""
    from pipeline.registry import versions

    config = load()
    version, row, withdrawn = versions.register(config)
    offered = f"not offered again, as it was withdrawn ({withdrawn})" if withdrawn else "challenger"
    print(
        f"registered {config.registry.name} version {version}: {offered}: {row['model']} {row['variant']}, "
        f"validation accuracy {row['val_accuracy']:.2%}, {row['size_mb']:.2f} MB, {row['latency_ms']:.2f} ms"
    )


@app.command("promote")
def promote(
    version: Annotated[str, typer.Argument(help="A number; else the challenger.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Without the gate; marked in the history.")] = False,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Make the challenger champion, if it passes the gate: see docs/registry.md."""
    from pipeline.artifacts import read_dataset, read_json, read_table
    from pipeline.preprocessing import Preprocessing
    from pipeline.registry import promotion

    if force != bool(reason):
        raise UserError("--force and --reason go together: say why the gate should not decide")
    config = load()
    preprocessing = Preprocessing.from_record(read_json(layout.PREPROCESSING))
    dataset = read_dataset()
    if not dataset.splits["sha256"].equals(read_table(layout.MANIFEST)["sha256"]):
        raise UserError(f"{layout.SPLITS} is not of the images in {layout.IMAGES}: run `dvc repro` first")
    _say(config.registry.name, promotion.promote(config, dataset, preprocessing, version, reason), as_json)


@app.command()
def reject(version: Version, reason: Reason = "", as_json: AsJson = False) -> None:
    """Withdraw a version: it is not offered again."""
    from pipeline.registry import promotion

    _needed(reason)
    config = load()
    _say(config.registry.name, promotion.reject(config, version, reason), as_json)


@app.command()
def rollback(reason: Reason = "", as_json: AsJson = False) -> None:
    """Put the previous champion back, and withdraw the present one."""
    from pipeline.registry import promotion

    _needed(reason)
    config = load()
    _say(config.registry.name, promotion.rollback(config, reason), as_json)


def _needed(reason: str) -> None:
    if not reason:
        raise UserError("--reason is missing: say why; it stays in the history")


def _say(name: str, outcome: Outcome, as_json: bool) -> None:
    if as_json:
        print(json.dumps(outcome._asdict(), indent=2, ensure_ascii=False))
        return
    checks = outcome.content.get("verdict", {}).get("checks", [])
    of_classes = [check for check in checks if check["name"].startswith("recall") and check["passed"]]
    rows = [
        (check["name"], "passed" if check["passed"] else "FAILED", check["says"])
        for check in checks
        if check not in of_classes
    ]
    if of_classes:
        rows += [("recall", "passed", f"{len(of_classes)} checks of single classes (all of them: --json)")]
    if checks:
        print(f"{table([('check', 'verdict', ''), *rows])}\n")
    champion = f"champion is version {outcome.champion}" if outcome.champion else "there is no champion"
    print(f"{outcome.outcome}: {champion} of {name} ({outcome.why})")


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """All versions, the newest first."""
    from pipeline.registry import views

    _rows(views.versions(load().registry.name), as_json)


@app.command()
def show(version: Version, as_json: AsJson = False) -> None:
    """All that is known of a version."""
    from pipeline.registry import views

    found = views.show(load().registry.name, version)
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    facts = {key: found[key] for key in ("name", "version", "aliases", "source", "run_id")} | found["tags"]
    print(table([(key, _short(value)) for key, value in facts.items()]))
    for entry in found["history"]:
        print(f"{entry['time']}  {entry['verb']}  {entry['why']}  ({entry['who']})")


@app.command()
def history(
    at: Annotated[str, typer.Option(help="A day (its end) or a time: who was champion then.")] = "",
    as_json: AsJson = False,
) -> None:
    """Who was champion, since when and why."""
    from pipeline.registry import views

    found = views.entries(load().registry.name, at)
    if at and not as_json:
        champion = found[0]["to"] if found else None
        print(f"champion was version {champion}" if champion else "there was no champion")
    columns = ("entry", "time", "who", "verb", "version", "from", "to", "forced", "why")
    _rows(found if as_json else [{key: row.get(key) for key in columns} for row in found], as_json)


@app.command()
def diff(first: Version, second: Version, as_json: AsJson = False) -> None:
    """In what two versions differ: parameters, data, code, results."""
    from pipeline.registry import views

    _rows(views.difference(load().registry.name, first, second), as_json)


@app.command()
def verify(as_json: AsJson = False) -> None:
    """Check the history, the aliases and the files of all versions; exit code 1 if anything is wrong."""
    from pipeline.registry import views

    problems, checked = views.verify(load().registry.name)
    if as_json:
        print(json.dumps({"problems": problems, "checked": checked}, indent=2, ensure_ascii=False))
    else:
        print("\n".join([f"checked: {', '.join(checked)}", *(f"error: {problem}" for problem in problems)]))
    if problems:
        sys.exit(1)


def _rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    elif rows:
        print(table([tuple(rows[0]), *(tuple(map(_short, row.values())) for row in rows)]))
    else:
        print("nothing there yet")


def _short(value: Any) -> str:
    text = ", ".join(value) if isinstance(value, list) else "" if value is None else str(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def lineage(
    wanted: Annotated[str, typer.Argument(help="A number or an alias, or the beginning of the data's hash.")] = "",
    as_json: AsJson = False,
) -> None:
    """Which versions were trained on which data."""
    from pipeline.registry import views

    rows = views.lineage(load().registry.name, wanted)
    if not as_json:
        rows = [row | {key: row[key][:12] for key in ("data", "splits", "commit")} for row in rows]
    _rows(rows, as_json)


def track() -> None:
    """Send to MLflow whatever it has not got yet: after an outage, or when DVC restored stages from its cache."""
    from pipeline.tracking.server import connect
    from pipeline.tracking.sync import sync

    config, client = load(), connect()
    for model in config.names:
        if layout.checkpoint(config.weights_stage(model), model).exists():
            print(f"{model}: run {sync(client, config, model)} is up to date")
        else:
            print(f"{model}: not made yet")
