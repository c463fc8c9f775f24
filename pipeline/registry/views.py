"""What people ask the registry: its versions, how two of them differ, its history, and whether all is sound."""

import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.errors import UserError
from pipeline.registry import history as log
from pipeline.registry.history import Entry
from pipeline.registry.versions import CARD, CHAMPION, aliases_of, fetch, version_of
from pipeline.tracking.server import connect, explained

Row = dict[str, Any]
RESULTS = ("model", "variant", "val_accuracy", "accuracy", "size_mb", "latency_ms")


def _at(aliases: Mapping[str, str], number: str) -> list[str]:
    """Those that stand at a version."""
    return sorted(alias for alias, of in aliases.items() if of == number)


@explained()
def versions(name: str) -> list[Row]:
    """A row per version, the newest first."""
    client = connect()
    history, aliases = log.read(client, name), aliases_of(client, name)
    rows = []
    for version in reversed(log.versions_of(client, name)):
        number, tags = str(version.version), version.tags
        withdrawn = history.withdrawn.get(number)
        rows.append({
            "version": number,
            "aliases": _at(aliases, number),
            "withdrawn": str(withdrawn) if withdrawn else "",
            "created": datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).isoformat(timespec="seconds"),
            "data": tags.get("lineage.data.sha256", "")[:12],
            **{key: tags.get(key, "") for key in RESULTS},
        })  # fmt: skip
    return rows


@explained()
def lineage(name: str, wanted: str = "") -> list[Row]:
    """A row per version, by the data that it was trained on, the newest data first. `wanted`: a version or an alias,
    for all versions on its data, or the beginning of the data's hash. Raises UserError where nothing is."""
    client = connect()
    aliases = aliases_of(client, name)
    rows: list[Row] = [
        {
            "data": version.tags.get("lineage.data.sha256", "unknown"), "version": str(version.version),
            "aliases": _at(aliases, str(version.version)),
            "model": version.tags.get("model", ""), "splits": version.tags.get("lineage.splits.sha256", "unknown"),
            "commit": version.tags.get("lineage.git.commit", "unknown"), "accuracy": version.tags.get("accuracy", ""),
        }
        for version in reversed(log.versions_of(client, name))
    ]  # fmt: skip
    order = list(dict.fromkeys(row["data"] for row in rows))
    data = {row["data"] for row in rows if wanted == row["version"] or wanted in row["aliases"]}
    data = data or {each for each in order if each.startswith(wanted)}
    if wanted and not data:
        raise UserError(f"{wanted} is no version of {name}, and no data of one: see `python -m pipeline lineage`")
    return sorted((row for row in rows if row["data"] in data), key=lambda row: order.index(row["data"]))


@explained()
def show(name: str, wanted: str) -> Row:
    """All that is known of a version, and what the history says of it."""
    client = connect()
    found = version_of(client, name, wanted)
    number = str(found.version)
    entries = [record(entry) for entry in log.read(client, name).entries if entry.content["version"] == number]
    tags = {key: value for key, value in sorted(found.tags.items()) if key != CARD}
    aliases = _at(aliases_of(client, name), number)
    where = {"source": found.source, "run_id": found.run_id}
    return {"name": name, "version": number, "aliases": aliases, **where, "tags": tags, "history": entries}


@explained()
def difference(name: str, first: str, second: str) -> list[Row]:
    """Tags and parameters in which two versions differ; those of a run that was deleted are not known."""
    client = connect()
    sides = [version_of(client, name, wanted) for wanted in (first, second)]
    facts = [{**_params(client, str(side.run_id)), **side.tags} for side in sides]
    keys = sorted(set(facts[0]) | set(facts[1]))
    each = ({"key": key, "first": facts[0].get(key, ""), "second": facts[1].get(key, "")} for key in keys)
    return [row for row in each if row["first"] != row["second"]]


def _params(client: MlflowClient, run_id: str) -> dict[str, str]:
    try:
        return {f"params.{key}": value for key, value in client.get_run(run_id).data.params.items()}
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}


def record(entry: Entry) -> Row:
    return {"entry": entry.number, **entry.content}


@explained()
def entries(name: str, at: str = "") -> list[Row]:
    """The history; with `at`, a day (its end) or a time, the one entry that was the last one then."""
    history = log.read(connect(), name)
    if not at:
        return [record(entry) for entry in history.entries]
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        raise UserError(f"--at {at} is no time: write 2026-11-25 or 2026-11-25T14:30, or with a zone, +00:00") from None
    if len(at) <= len("2026-11-25"):
        moment = moment.replace(hour=23, minute=59, second=59)
    found = history.at(moment.astimezone())
    return [record(found)] if found else []


@explained()
def verify(name: str) -> tuple[list[str], list[str]]:
    """What is wrong: with the history, the aliases, and the files of all versions; and what was checked."""
    client = connect()
    history, found = log.read(client, name), log.versions_of(client, name)
    champion = aliases_of(client, name).get(CHAMPION)
    problems = [f"history: {fault}" for fault in history.faults]
    if champion != history.champion:
        problems.append(f"alias {CHAMPION}: it is at version {champion}, and the history says {history.champion}")
    with tempfile.TemporaryDirectory() as folder:
        for version in found:
            try:
                fetch(client, name, str(version.version), Path(folder))
            except UserError as error:
                problems.append(str(error))
    checked = [f"{len(history.entries)} entries of the history", f"the files of {len(found)} versions"]
    return problems, [*checked, *(f"accepted before: {fault}" for fault in history.accepted)]
