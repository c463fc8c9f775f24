"""The history: who changes it, whoever comes at once, and kills."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from mlflow import MlflowClient

from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.registry import history, promotion, views
from pipeline.registry.promotion import Outcome, reject, rollback, settle
from pipeline.tracking.server import connect
from tests.conftest import PROJECT
from tests.registry.conftest import Promote, aliases, verbs

pytestmark = pytest.mark.usefixtures("tracking_folder")


def tampered(client: MlflowClient, model: str, how: str) -> None:
    """As somebody would who may write to the registry."""

    def tags(number: int) -> dict[str, str]:
        return dict(client.get_model_version(model, str(number)).tags)

    if how == "deleted":
        client.delete_model_version(model, "2")
    elif how == "cut":
        client.delete_model_version(model, "3")
    elif how == "swapped":
        for number, other in ((1, tags(2)), (2, tags(1))):
            for key in (history.TEXT, history.HASH):
                client.set_model_version_tag(model, str(number), key, other[key])
    else:
        text = tags(2)[history.TEXT].replace("for the test 1", "for no reason")
        client.set_model_version_tag(model, "2", history.TEXT, text)
        if how == "changed well":
            client.set_model_version_tag(model, "2", history.HASH, history.digest_of(text))


KILLED = """
import os, sys
from mlflow import MlflowClient
from pipeline.registry import promotion
from pipeline.tracking.server import connect

left, (name, version) = int(sys.argv[1]), sys.argv[2:]

def dying(method):
    def call(self, *args, **kwargs):
        global left
        if left == 0:
            os._exit(9)
        left -= 1
        return method(self, *args, **kwargs)
    return call

for method in ("create_model_version", "create_registered_model", "set_registered_model_alias",
               "set_registered_model_tag", "set_model_version_tag", "delete_registered_model_alias"):
    setattr(MlflowClient, method, dying(getattr(MlflowClient, method)))
step = lambda seen: promotion._write(connect(), seen, "promote", version, version, "killed")
promotion._race(connect(), name, step)
"""


@pytest.mark.usefixtures("three")
def test_aliases_that_are_set_late_are_no_persons_decision(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process stands still, or is killed, while it sets the aliases, and meanwhile another promotes."""
    monkeypatch.setattr(promotion, "HAND", 0.01)
    client, name = connect(), params.registry.name

    def entry(version: str) -> None:
        assert promotion._write(client, history.read(client, name), "promote", version, version, "for the test")

    entry("1")
    with monkeypatch.context() as patch:

        def late(*_: object) -> None:
            patch.undo()
            entry("2")
            assert settle(client, name).champion == "2"
            client.set_registered_model_alias(name, "champion", "1")
            client.set_registered_model_alias(name, "previous", "3")
            raise KeyboardInterrupt

        patch.setattr(promotion, "_set", late)
        with pytest.raises(KeyboardInterrupt):
            settle(client, name)
    assert settle(client, name).champion == "2" and verbs(params)[-1] == "promote"
    assert (aliases(params)["champion"], aliases(params)["previous"]) == ("2", "1")


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("how", ["changed", "changed well", "deleted", "cut", "swapped"])
def test_a_history_that_was_changed_is_noticed(params: Params, promote: Promote, how: str) -> None:
    """Nothing is promoted on it, until a person goes on from there; that it was changed is said for ever."""
    name = params.registry.name
    assert views.verify(name)[0] == []
    tampered(connect(), f"{name}.history", how)
    assert any("history" in problem for problem in views.verify(name)[0])
    for verb in (partial(promote, "2"), partial(reject, params, "2", "x"), partial(rollback, params, "x")):
        with pytest.raises(UserError, match="verify"):
            verb()
    assert promote("1", force="I have looked at it").champion == "1"
    problems, checked = views.verify(name)
    assert problems == [] and any("accepted before" in text for text in checked)


@pytest.mark.usefixtures("three")
def test_who_was_champion_at_a_time(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    name = params.registry.name
    now = datetime.now(UTC)
    assert [row["to"] for row in views.entries(name)] == ["1", "2", "3"]
    (row,) = views.entries(name, (now + timedelta(minutes=1)).isoformat())
    assert row["to"] == "3" and row["why"] == "for the test 2" and row["forced"]
    assert views.entries(name, (now - timedelta(days=1)).date().isoformat()) == []
    (today,) = views.entries(name, datetime.now().astimezone().date().isoformat())
    assert today == row
    with pytest.raises(UserError, match="yesterday"):
        views.entries(name, "yesterday")


@pytest.mark.usefixtures("three")
def test_many_at_once_leave_one_champion_and_a_history_that_verifies(params: Params) -> None:
    """Each sees the others' entries: whoever comes second looks again."""

    def race(number: int) -> str:
        if number % 4 == 0:
            return reject(params, "1", f"{number}").outcome
        done: list[Outcome | None] = []
        name, version = params.registry.name, str(2 + number % 2)

        def step(seen: history.History) -> Outcome | None:
            done.append(None)
            return promotion._write(connect(), seen, "promote", version, version, f"{number}")

        return promotion._race(connect(), name, step).outcome

    with ThreadPoolExecutor(20) as pool:
        outcomes = list(pool.map(race, range(20)))
    assert {*outcomes} <= {"promoted", "rejected"}
    found = history.read(connect(), params.registry.name)
    assert found.faults == [] and len(found.entries) == 23
    assert aliases(params)["champion"] == found.champion and views.verify(params.registry.name)[0] == []


@pytest.mark.usefixtures("three")
def test_a_kill_at_any_point_leaves_the_old_champion_or_the_new_one(params: Params) -> None:
    """Before each write of a promotion in turn, as SIGKILL does; the next verb finishes what was begun."""
    name, alive = params.registry.name, False
    for writes in range(12):
        old = settle(connect(), name).champion
        new = "1" if old != "1" else "2"
        command = [sys.executable, "-c", KILLED, str(writes), name, new]
        alive = subprocess.run(command, check=False, env=os.environ | {"PYTHONPATH": str(PROJECT)}).returncode == 0
        seen = settle(connect(), name)
        assert seen.champion in (old, new) and aliases(params)["champion"] == seen.champion
        assert views.verify(name)[0] == []
        if alive:
            assert seen.champion == new and writes > 3
            break
    assert alive
