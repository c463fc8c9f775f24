"""When a challenger becomes the champion, and how a champion goes: each step an entry of the history, then the aliases.

A kill at any point leaves the old champion or the new one: before the entry nothing has happened; after it, `settle`,
with which every verb begins, lets the aliases follow.
"""

import hashlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
from mlflow import MlflowClient

from pipeline.artifacts import LEFT_OUT, Dataset
from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.evaluation.gate import Candidate, judge
from pipeline.inference.predictor import Predictor
from pipeline.inference.timing import timed
from pipeline.preprocessing import Preprocessing
from pipeline.registry import history as log
from pipeline.registry import versions
from pipeline.registry.history import History
from pipeline.registry.versions import CHALLENGER, CHAMPION, PREVIOUS, SHA256, Loaded, aliases_of, fetch
from pipeline.tracking.server import connect, explained

ROUNDS = 100  # calls of each model, in turns, by which latencies are compared
RACES = 50  # writers that may come first before this one gives up
PAST = {"promote": "promoted", "refuse": "refused", "reject": "rejected", "rollback": "rolled back"}
PAST |= {"undecided": "undecided"}
HAND = 1.0  # seconds between two looks at an alias that differs


class Outcome(NamedTuple):
    """Of a verb that may change the champion: the champion after it, and the entry that says why."""

    outcome: str
    champion: str | None
    why: str
    content: dict[str, Any]


def settle(client: MlflowClient, name: str) -> History:
    """Bring the aliases to what the history says, or the history to what a person did to the aliases by hand."""
    process, mine = uuid4().hex, set[int]()
    looked: tuple[str, str | None] | None = None
    for _ in range(RACES):
        history, aliases = log.read(client, name), aliases_of(client, name)
        champion, last = history.champion, history.entries[-1] if history.entries else None
        is_settled = last is None or last.settled or last.number in mine
        wanted = {CHAMPION: champion, PREVIOUS: history.previous}
        if not is_settled and aliases.get(CHALLENGER) in history.withdrawn:
            wanted[CHALLENGER] = None
        changes = {alias: version for alias, version in wanted.items() if aliases.get(alias) != version}
        if is_settled and not changes:
            log.settled(client, history, mine, process)
            return history
        # Unless a process that sets aliases may be late, or was killed, one that differs was moved by hand
        by_hand = CHAMPION in changes and is_settled and not any(entry.setting for entry in history.entries)
        if by_hand or (champion is not None and champion not in history.existing):
            found = (history.head, aliases.get(CHAMPION))
            if looked != found:  # what was read may be of two moments
                looked = found
                time.sleep(HAND * (last is not None))
            elif history.faults:
                return history
            else:
                _adopt(client, history, aliases.get(CHAMPION))
            continue
        if last is not None:
            log.setting(client, history, process)
            mine.add(last.number)
        for alias, version in changes.items():
            _set(client, name, alias, version)
    raise UserError(f"the aliases of {name} change all the time: wait until others have done with them")


def _adopt(client: MlflowClient, history: History, champion: str | None) -> None:
    """What was done by hand is a person's decision: it is written down, and not undone."""
    before = history.champion
    if before is None:
        assert champion is not None
        log.append(client, history, "found", champion, champion, "it had the alias before the history knew of it")
    elif champion is None:
        log.append(client, history, "lost", before, None, "the champion, or its alias, was deleted")
    else:
        log.append(client, history, "moved", before, champion, f"the alias was moved to version {champion} by hand")


def _set(client: MlflowClient, name: str, alias: str, version: str | None) -> None:
    if version is None:
        log.write(lambda: client.delete_registered_model_alias(name, alias))
    else:
        log.write(lambda: client.set_registered_model_alias(name, alias, version))


@explained()
def promote(
    params: Params, dataset: Dataset, preprocessing: Preprocessing, version: str = "", force: str = ""
) -> Outcome:
    """Make the challenger, or `version`, champion if it passes the gate (evaluation/gate.py), or by `force`: why."""
    client, name = connect(), params.registry.name
    checked: dict[str, str] = {}  # once, however often another writer comes first

    def step(history: History) -> Outcome | None:
        challenger = version or aliases_of(client, name).get(CHALLENGER)
        if challenger is None:
            raise UserError(f"{name} has no challenger: run `python -m pipeline register` first")
        challenger = str(versions.version_of(client, name, challenger).version)
        if challenger == history.champion and not history.faults:
            return Outcome("unchanged", challenger, f"version {challenger} is champion already", {})
        if force:
            if challenger not in checked:
                with tempfile.TemporaryDirectory() as folder:
                    checked[challenger] = fetch(client, name, challenger, Path(folder)).tags[SHA256]
            of = {"forced": True, "artifact": checked[challenger]}
            return _write(client, history, "promote", challenger, challenger, force, **of)
        history.expect_sound()
        if challenger in history.withdrawn:
            why = f"withdrawn ({history.withdrawn[challenger]}): `--force --reason WHY` promotes it all the same"
            return Outcome("refused", history.champion, why, {})
        if history.champion is None and history.previous:
            gone = f"version {history.entries[-1].content['version']}, the champion of {name}, was deleted"
            raise UserError(f"{gone}: `python -m pipeline registry rollback` puts version {history.previous} back")
        return _judged(client, history, challenger, params, dataset, preprocessing)

    return _race(client, name, step)


def _race(client: MlflowClient, name: str, step: Callable[[History], Outcome | None]) -> Outcome:
    """Do `step` on the settled history until no other writer comes first, and let the aliases follow."""
    for _ in range(RACES):
        done = step(settle(client, name))
        if done is not None:
            settle(client, name)
            return done
    raise UserError(f"{RACES} others came first: the history of {name} grows all the time; try again later")


def _write(
    client: MlflowClient, history: History, verb: str, version: str, to: str | None, why: str, **more: Any
) -> Outcome | None:
    """None where another writer came first."""
    written = log.append(client, history, verb, version, to, why, **more)
    return Outcome(PAST.get(verb, verb), to, why, more) if written else None


def _judged(
    client: MlflowClient, history: History, challenger: str, params: Params, dataset: Dataset,
    preprocessing: Preprocessing,
) -> Outcome | None:  # fmt: skip
    """Score both on the test images that taught neither, and write the gate's verdict. The same question on the same
    images is not asked twice: its answer stands in the history."""
    name, champion, asked = history.name, history.champion, params.registry.model_dump()
    tested = dataset.splits.iloc[dataset.rows("test")]
    test_data = hashlib.sha256("".join(sorted(tested["sha256"] + tested["class"])).encode()).hexdigest()
    earlier = history.comparisons(test_data)
    # What a busy machine may have failed is measured again
    by_time = {"latency", "enough_rounds", *(["improvement"] if params.registry.improve == "latency" else [])}
    for known in (entry.content for entry in earlier):
        same = known["to"] == known["from"] == champion and known["version"] == challenger and known["asked"] == asked
        if same and not any(check["name"] in by_time and not check["passed"] for check in known["verdict"]["checks"]):
            return Outcome(PAST[known["verb"]], champion, f"{known['why']} (as on {known['time']})", dict(known))
    with tempfile.TemporaryDirectory() as folder:
        loaded = [fetch(client, name, version, Path(folder)) for version in (challenger, champion) if version]
        scored = [Predictor(each.file) for each in loaded]
        rows = _compared(name, dataset, preprocessing, loaded, scored)
        images, labels = dataset.images_NHWC[rows], dataset.labels[rows]
        alone = [Predictor(each.file, params.benchmark.threads) for each in loaded]
        times = timed(alone, {1: images[:1]}, ROUNDS).values()
        candidates = [
            Candidate(
                each.version, model.probabilities(images), each.size_mb, latency, versions.lineage_problems(each.tags)
            )
            for each, model, latency in zip(loaded, scored, times, strict=True)
        ]
    counted = sum(entry.content["from"] is not None and entry.content["verb"] != "undecided" for entry in earlier)
    opponent = candidates[1] if champion else None
    group = dataset.splits["group"].to_numpy()[rows]
    verdict = judge(candidates[0], opponent, labels, group, dataset.class_names, params.registry, counted)
    verb = next(verb for verb, past in PAST.items() if past == verdict.outcome)
    return _write(
        client, history, verb, challenger, challenger if verb == "promote" else champion, verdict.reason,
        verdict=verdict.record(), asked=asked, test_data=test_data, test_images=len(rows), comparison=counted + 1,
        artifact=loaded[0].tags[SHA256],
    )  # fmt: skip


def _compared(
    name: str, dataset: Dataset, preprocessing: Preprocessing, loaded: list[Loaded], scored: list[Predictor]
) -> np.ndarray:
    """The rows of the test images that have taught none of the versions, nor are like an image that has. Raises
    UserError where versions are of other data, or no image is left."""
    rows, splits = dataset.rows("test"), dataset.splits
    for each, model in zip(loaded, scored, strict=True):
        versions.expect_same_task(name, each.version, model.card, dataset.class_names, preprocessing)
        # Other splits than today's: a test image of now, or one that is like it, may have taught this version
        taught = splits[splits["sha256"].isin(each.taught)]
        left_out = taught["split"] == LEFT_OUT  # which have no group with test images any more
        known = splits["group"].isin(taught["group"]) | splits["alike"].isin(taught["alike"][left_out])
        rows = rows[~known.to_numpy()[rows]]
    if not len(rows):
        which = " or ".join(each.version for each in loaded)
        raise UserError(f"every test image, or one that is like it, has taught version {which}: keep split.seed")
    return rows


@explained()
def reject(params: Params, version: str, why: str) -> Outcome:
    """A version that must not become champion. A champion is rolled back instead."""
    client, name = connect(), params.registry.name

    def step(history: History) -> Outcome | None:
        history.expect_sound()
        number = str(versions.version_of(client, name, version).version)
        if number == history.champion:
            raise UserError(f"version {number} is the champion: `python -m pipeline registry rollback` takes it back")
        return _write(client, history, "reject", number, history.champion, why)

    return _race(client, name, step)


@explained()
def rollback(params: Params, why: str) -> Outcome:
    """Put the previous champion back, the identical artifact: its SHA-256 is checked first."""
    client, name = connect(), params.registry.name

    def step(history: History) -> Outcome | None:
        history.expect_sound()
        before = history.previous
        if before is None:
            raise UserError(f"{name} has no previous champion to go back to: see `python -m pipeline registry history`")
        with tempfile.TemporaryDirectory() as folder:
            artifact = fetch(client, name, before, Path(folder)).tags[SHA256]
        gone = history.champion or history.entries[-1].content["version"]
        return _write(client, history, "rollback", gone, before, why, artifact=artifact)

    return _race(client, name, step)
