"""Who was champion, when and why: an append-only, hash-chained history in the registry itself.

An entry is a version of a registered model of its own, NAME.history. Of all that MLflow lets a client write, only
versions are numbered by the server, one after the other, and the number of a deleted one is not given again: so two
writers never take the same place, and what is missing shows. An entry holds the hash of the one before. One that was
written at the same time as another, and came second, names a hash that is not the last one any more: it never counted,
and its writer looks again. What the entries say is true; the aliases follow (promotion.py: settle).
"""

import hashlib
import json
import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any
from uuid import uuid4

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipeline.errors import UserError
from pipeline.tracking.runs import user_name

TEXT, HASH, SETTLED, HEAD = "entry", "sha256", "settled", "history.head"
SETTING = 600.0  # seconds for which a process may set aliases, or have been killed while it did
SOURCE = "history://entry/none"  # versions need one
TRIES = 20  # of a write
WITHDRAWN = ("reject", "rollback", "moved", "lost")  # what takes a version out of the race until a person forces it
Content = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """`content`: see `append`. `settled`: the aliases have followed. `setting`: a process sets them by this entry."""

    number: int
    digest: str
    content: Content
    settled: bool
    setting: bool

    @property
    def champion(self) -> str | None:
        """After it."""
        after: str | None = self.content["to"]
        return after

    def __str__(self) -> str:
        of = self.content
        return f"{of['verb']} of version {of['version']} on {of['time']} by {of['who']}: {of['why']}"


@dataclass(frozen=True)
class History:
    """The entries that count, in their order; what is wrong with it, and what of that a person has accepted since.
    `existing`: the model's versions that are not deleted. `noted`: the last entry, as the model's tag says."""

    name: str
    entries: Sequence[Entry]
    faults: Sequence[str]
    accepted: Sequence[str]
    existing: Set[str]
    noted: str

    @property
    def head(self) -> str:
        return self.entries[-1].digest if self.entries else ""

    @property
    def champion(self) -> str | None:
        return self.entries[-1].champion if self.entries else None

    @cached_property
    def withdrawn(self) -> dict[str, Entry]:
        """Versions that were rejected, rolled back or replaced by hand, and by which entry; champions are none."""
        last = {entry.content["version"]: entry for entry in self.entries}  # none is judged once it is withdrawn
        return {
            version: entry
            for version, entry in last.items()
            if entry.content["verb"] in WITHDRAWN and version != self.champion
        }

    @property
    def previous(self) -> str | None:
        """The champion before this one, of those that were not withdrawn or deleted: where `rollback` goes."""
        before = [entry.champion for entry in self.entries if entry.champion not in (None, self.champion)]
        return next((each for each in reversed(before) if each in self.existing and each not in self.withdrawn), None)

    def at(self, moment: datetime) -> Entry | None:
        """The last entry until then."""
        until = [entry for entry in self.entries if datetime.fromisoformat(entry.content["time"]) <= moment]
        return until[-1] if until else None

    def comparisons(self, test_data: str) -> list[Entry]:
        """Those in which a challenger was scored on this test data."""
        return [entry for entry in self.entries if entry.content.get("test_data") == test_data]

    def expect_sound(self) -> None:
        if self.faults:
            way_out = (
                "see `python -m pipeline registry verify`; `registry promote --force --reason WHY` goes on from it"
            )
            raise UserError(f"the history of {self.name} was changed: {self.faults[0]}: {way_out}")


def read(client: MlflowClient, name: str) -> History:
    existing = {str(version.version) for version in versions_of(client, name)}
    entries: list[Entry] = []
    faults: list[str] = []
    accepted: list[str] = []
    known = {""}
    for version in versions_of(client, f"{name}.history"):
        number, text, digest = int(version.version), version.tags.get(TEXT, ""), version.tags.get(HASH, "")
        if digest_of(text) != digest:
            faults.append(f"entry {number} is not as it was written")
            continue
        content = json.loads(text)
        if content["before"] not in known:
            faults.append(f"an entry before {number} is missing or was changed")
        elif content["before"] != (entries[-1].digest if entries else ""):
            continue  # another writer came first
        notes = [value for key, value in version.tags.items() if key.startswith(SETTLED)]
        setting = any(value != "true" and time.time() - float(value) < SETTING for value in notes)
        entries.append(Entry(number, digest, content, "true" in notes, setting))
        known.add(digest)
        if content["accepts_faults"]:
            if content["noted"] not in known:
                faults.append(f"the last entry before {number} is missing")
            accepted, faults = [*accepted, *faults], []
            known.add(content["noted"])
    models = client.search_registered_models(f"name = '{name}'")
    noted = next((model.tags[HEAD] for model in models if HEAD in model.tags), "")
    if noted and noted not in known:
        faults.append("its last entry is missing")
    return History(name, entries, faults, accepted, existing, noted)


def versions_of(client: MlflowClient, model: str) -> list[ModelVersion]:
    """In the order of their numbers. MLflow's pages are offsets: in its own order, by the last change, what is written
    between two pages would hide a version."""
    found: list[ModelVersion] = []
    token: str | None = None
    while token != "":
        page = client.search_model_versions(f"name = '{model}'", 1000, ["version_number ASC"], token)
        found, token = [*found, *page], page.token or ""
    return found


def append(
    client: MlflowClient, history: History, verb: str, version: str, to: str | None, why: str, **more: Any
) -> bool:
    """Write an entry behind those of `history`; whether it counts, or another writer came first.

    `verb`: promote, refuse, undecided, reject, rollback, found (a champion that the history did not know), moved (an
    alias, by hand) or lost (the champion was deleted). `version`: which one it is about. `to`: the champion after it.
    """
    who, now = f"{user_name()}@{socket.gethostname()}", datetime.now(UTC).isoformat(timespec="seconds")
    content: dict[str, Any] = {
        "verb": verb, "version": version, "from": history.champion, "to": to, "why": why, "time": now, "who": who,
    }  # fmt: skip
    accepts = bool(history.faults) and bool(more.get("forced"))
    content |= {"before": history.head, "accepts_faults": accepts, "noted": history.noted, "nonce": uuid4().hex, **more}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    digest = digest_of(text)
    model, tags = f"{history.name}.history", {TEXT: text, HASH: digest}
    said = f"{verb} {version}: {why}"[:1000]
    if not history.entries:
        create_model(client, model, f"The history of {history.name}: see `python -m pipeline registry history`")
    write(lambda: client.create_model_version(model, SOURCE, tags=tags, description=said, await_creation_for=0))
    return any(entry.digest == digest for entry in read(client, history.name).entries)


def setting(client: MlflowClient, history: History, process: str) -> None:
    """Note that a process sets the aliases by the last entry now: what it writes may come late, after another's."""
    _note(client, history.name, history.entries[-1].number, process, str(time.time()))


def settled(client: MlflowClient, history: History, numbers: Set[int], process: str) -> None:
    """Note that the aliases are as the last entry says, and which one that is."""
    for number in numbers:
        _note(client, history.name, number, process, "true")
    if history.noted != history.head and not history.faults:
        write(lambda: client.set_registered_model_tag(history.name, HEAD, history.head))


def _note(client: MlflowClient, name: str, number: int, process: str, value: str) -> None:
    write(lambda: client.set_model_version_tag(f"{name}.history", str(number), f"{SETTLED}.{process}", value))


def write(call: Callable[[], object]) -> None:
    """Again, where the store refuses it because another process writes the same at the same time."""
    for left in reversed(range(TRIES)):
        try:
            call()
            return
        except MlflowException as error:
            if left == 0 or error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            time.sleep(random.uniform(0, 0.2))


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def create_model(client: MlflowClient, model: str, description: str | None = None) -> None:
    """Unless it is there."""
    if not client.search_registered_models(f"name = '{model}'"):
        with suppress(MlflowException):  # another process was quicker; else the next write says what is wrong
            client.create_registered_model(model, description=description)
