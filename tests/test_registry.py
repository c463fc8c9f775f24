"""MLflow's registry, for real: what is registered and promoted, what is taken back, and what the history says of it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from pipeline.__main__ import main
from pipeline.artifacts import Dataset, ModelCard, sha256
from pipeline.config import Params, Registry
from pipeline.errors import UserError
from pipeline.registry import history, promotion, versions, views
from pipeline.registry.promotion import Outcome, reject, rollback, settle
from pipeline.registry.versions import choose, register
from pipeline.tracking import runs
from pipeline.tracking.server import connect
from pipeline.tracking.sync import sync
from tests.conftest import PROJECT, new_project
from tests.results import CHECKPOINT, MODEL, leave_results

pytestmark = pytest.mark.usefixtures("tracking_folder")

ROWS = [
    {"model": "a", "variant": "fp32", "val_accuracy": 0.90, "accuracy": 0.99, "size_mb": 5.0, "latency_ms": 2.0},
    {"model": "b", "variant": "fp32", "val_accuracy": 0.92, "accuracy": 0.80, "size_mb": 9.0, "latency_ms": 4.0},
    {"model": "b", "variant": "int8", "val_accuracy": 0.95, "accuracy": 0.80, "size_mb": 2.0, "latency_ms": 1.0},
]
Promote = Callable[..., Outcome]


def test_the_candidate_is_chosen_by_validation_accuracy_within_the_budgets() -> None:
    """The test accuracy has no say; a budget takes a candidate out; a variant must be asked for; ties go to the
    smaller file."""
    assert choose(ROWS, Registry())["model"] == "b"
    assert choose(ROWS, Registry(max_size_mb=6.0))["model"] == "a"
    assert choose(ROWS, Registry(variants=["fp32", "int8"]))["variant"] == "int8"
    assert choose([row | {"val_accuracy": 0.9} for row in ROWS], Registry())["model"] == "a"
    with pytest.raises(UserError, match=r"a fp32: 2\.00 ms .*; b fp32: 4\.00 ms"):
        choose(ROWS, Registry(max_latency_ms=1.5))


def make(params: Params, card: ModelCard, dataset: Dataset, seed: int) -> str:
    """Registers the network of a seed, as if it had been trained here and now; its version."""
    leave_results(card, dataset, seed)
    memo = runs.run_memo(MODEL)
    runs.note_training(params, MODEL, memo, f"{seed}")
    runs.note_end(memo, CHECKPOINT, {})
    return register(params).version


@pytest.fixture
def new(tracking_folder: Path, params: Params, card: ModelCard, dataset: Dataset) -> Callable[[int], str]:
    return partial(make, params, card, dataset)


@pytest.fixture
def promote(params: Params, card: ModelCard, dataset: Dataset) -> Promote:
    def run(version: str = "", force: str = "", data: Dataset = dataset, **knobs: object) -> Outcome:
        registry = params.registry.model_copy(update={"max_calibration_error": 1.0} | knobs)
        asked = params.model_copy(update={"registry": registry})
        return promotion.promote(asked, data, card.preprocessing, version, force)

    return run


@pytest.fixture(scope="module")
def prepared(
    tmp_path_factory: pytest.TempPathFactory, fresh_store: Path, params: Params, card: ModelCard, dataset: Dataset
) -> Path:
    """A project whose versions 1 to 3 were champion, each after the other."""
    with pytest.MonkeyPatch.context() as patch:
        folder = new_project(tmp_path_factory.mktemp("prepared"), fresh_store, patch)
        for seed in range(3):
            make(params, card, dataset, seed)
            promotion.promote(params, dataset, card.preprocessing, force=f"for the test {seed}")
    return folder


@pytest.fixture
def three(prepared: Path, tracking_folder: Path) -> None:
    """A copy of it: no artifact is looked for in the original's folder."""
    shutil.rmtree(tracking_folder / ".git")
    shutil.copytree(prepared, tracking_folder, dirs_exist_ok=True)


def aliases(params: Params) -> dict[str, str]:
    return versions.aliases_of(connect(), params.registry.name)


def verbs(params: Params) -> list[str]:
    return [entry.content["verb"] for entry in history.read(connect(), params.registry.name).entries]


def test_a_model_is_registered_once_and_the_first_one_is_judged_by_itself(
    params: Params, new: Callable[[int], str], promote: Promote
) -> None:
    with pytest.raises(UserError, match=params.registry.name):
        promote()
    assert new(0) == "1"
    ended = connect().get_run(sync(connect(), params, MODEL)).info.end_time
    assert register(params).version == "1" and aliases(params) == {"challenger": "1"}
    assert connect().get_run(sync(connect(), params, MODEL)).info.end_time == ended
    assert promote(max_calibration_error=0.0001).outcome == "refused"
    assert promote().outcome == "promoted" and aliases(params)["champion"] == "1"
    assert promote().outcome == "unchanged"
    assert verbs(params) == ["refuse", "promote"]


def test_a_model_whose_training_nobody_knows_is_refused(
    params: Params, card: ModelCard, dataset: Dataset, promote: Promote
) -> None:
    """DVC restored it from its cache, and MLflow never heard of its training."""
    leave_results(card, dataset)
    register(params)
    assert "git.commit" in promote().why


def test_a_challenger_that_is_no_better_is_refused_and_not_tested_twice(
    params: Params, new: Callable[[int], str], promote: Promote
) -> None:
    new(0)
    promote()
    new(1)
    first, second = (promote(alpha=0.4) for _ in range(2))
    assert first.outcome == second.outcome != "promoted" and first.content["verdict"]["checks"]
    assert len(verbs(params)) == 2 and aliases(params) == {"challenger": "2", "champion": "1"}
    promote(alpha=0.3)
    assert len(verbs(params)) == 3, "another question"


def test_a_better_challenger_is_promoted(params: Params, new: Callable[[int], str], promote: Promote) -> None:
    """Faster, as its file is told to be slow here; what it is held against is the champion of now."""
    new(0)
    promote()
    new(1)
    done = promote(improve="size", factor=1.0001, margin=0.999, max_recall_drop=0.999, max_calibration_error=1.0)
    assert done.outcome == "refused", "as large as the champion"
    content = history.read(connect(), params.registry.name).entries[-1].content
    assert content["test_images"] == 24 and content["from"] == content["to"] == "1"


@pytest.mark.usefixtures("three")
def test_a_champion_that_is_rolled_back_does_not_return_by_itself(
    params: Params, new: Callable[[int], str], promote: Promote, tmp_path: Path
) -> None:
    """The file that comes back is the one that went. Only a person's reason brings the withdrawn version back."""
    client, name = connect(), params.registry.name
    before = sha256(versions.fetch(client, name, "2", tmp_path / "a").file)
    assert rollback(params, "it is worse").champion == "2"
    assert aliases(params) == {"champion": "2", "previous": "1"}
    assert sha256(versions.fetch(client, name, "champion", tmp_path / "b").file) == before
    assert new(2) == "3" and "it is worse" in register(params).withdrawn and "challenger" not in aliases(params)
    assert promote("3").outcome == "refused"
    assert promote("3", force="it was not").champion == "3"
    assert aliases(params) == {"champion": "3", "previous": "2"}
    assert [rollback(params, "again").champion for _ in range(2)] == ["2", "1"]
    with pytest.raises(UserError, match="no previous champion"):
        rollback(params, "and again")


@pytest.mark.usefixtures("three")
def test_a_rejected_version_is_not_offered(params: Params, new: Callable[[int], str]) -> None:
    assert new(3) == "4" and aliases(params)["challenger"] == "4"
    assert reject(params, "challenger", "trained on the wrong data").content == {}
    assert "4" in history.read(connect(), params.registry.name).withdrawn
    assert "challenger" not in aliases(params) and "wrong data" in register(params).withdrawn
    with pytest.raises(UserError, match="rollback"):
        reject(params, "3", "it is the champion")
    with pytest.raises(UserError, match="@9"):
        reject(params, "9", "there is none")


@pytest.mark.usefixtures("three")
def test_an_alias_that_was_moved_by_hand_stays_where_it_is(
    params: Params, promote: Promote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promotion, "HAND", 0.01)
    connect().set_registered_model_alias(params.registry.name, "champion", "1")
    assert settle(connect(), params.registry.name).champion == "1"
    assert promote("3").outcome == "refused" and aliases(params)["champion"] == "1"
    assert verbs(params)[-1] == "moved"


@pytest.mark.usefixtures("three")
def test_a_deleted_champion_makes_room_for_nobody(
    params: Params, promote: Promote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promotion, "HAND", 0.01)
    connect().delete_model_version(params.registry.name, "3")
    with pytest.raises(UserError, match="rollback"):
        promote("1")
    assert rollback(params, "it is gone").champion == "2"


@pytest.mark.usefixtures("three")
def test_a_previous_champion_that_was_deleted_stops_nothing(params: Params, promote: Promote) -> None:
    """Who clears up deletes old versions: the one before is the previous champion then."""
    connect().delete_model_version(params.registry.name, "2")
    assert settle(connect(), params.registry.name).previous == "1"
    assert aliases(params) == {"challenger": "3", "champion": "3", "previous": "1"}
    assert rollback(params, "it is worse").champion == "1" and promote("3", force="it is not").champion == "3"
    assert aliases(params) == {"champion": "3", "previous": "1"}


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


def test_a_champion_of_before_the_history_is_found(params: Params, new: Callable[[int], str], promote: Promote) -> None:
    connect().set_registered_model_alias(params.registry.name, "champion", new(0))
    new(1)
    assert promote(alpha=0.4).outcome != "promoted"
    assert verbs(params)[0] == "found" and aliases(params)["champion"] == "1"


@pytest.mark.usefixtures("three")
def test_a_damaged_file_is_never_served(params: Params, promote: Promote) -> None:
    name = params.registry.name
    location = connect().get_model_version_download_uri(name, "3")
    (file,) = Path(location.removeprefix("file://")).rglob("*.onnx")
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=r"version 3 .*rollback"):
        versions.load(name, "champion")
    problems, _ = views.verify(name)
    assert len(problems) == 1 and "version 3" in problems[0]
    assert rollback(params, "damaged").champion == "2" and versions.load(name, "champion")
    with pytest.raises(UserError, match="version 3"):
        promote("3", force="no matter what")


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


@pytest.mark.usefixtures("three")
def test_a_model_of_another_task_is_refused_before_an_alias_moves(
    params: Params, card: ModelCard, dataset: Dataset
) -> None:
    """Two datasets under one name: a sentence, not a wrong number."""
    names = ("x", "y", "z")
    other = Dataset(dataset.images_NHWC, dataset.labels, dataset.splits, names)
    leave_results(ModelCard(card.architecture, names, card.preprocessing, card.mean, card.std), other, seed=1)
    with pytest.raises(UserError, match=r"version 3 .* `registry\.name`"):
        register(params)
    assert aliases(params) == {"challenger": "3", "champion": "3", "previous": "2"}
    assert len(views.versions(params.registry.name)) == 3


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("change", ["moved", "renamed", "replaced", "twin", "left_out", "all"])
def test_images_that_taught_the_champion_do_not_test_it(
    params: Params, card: ModelCard, dataset: Dataset, promote: Promote, change: str
) -> None:
    """Known by content: renamed files that taught it are no new ones, new files under old names are, and what is like
    an image that taught it is not. None left is an error. The champion's run may be gone."""
    client, name = connect(), params.registry.name
    client.delete_run(str(client.get_model_version(name, "1").run_id))
    splits, taught, test = dataset.splits.copy(), dataset.rows("train")[:6], dataset.rows("test")
    if change in ("twin", "left_out"):
        tie = "group" if change == "twin" else "alike"
        splits.loc[test[:6], tie] = splits.loc[taught, tie].to_numpy()
        splits.loc[taught, "split"] = "train" if change == "twin" else "left_out"
    else:
        splits.loc[taught, "split"], splits.loc[test[:6], "split"] = "test", "train"
    if change in ("renamed", "replaced"):
        column = "path" if change == "renamed" else "sha256"
        splits[column] = "new-" + splits[column]
    if change == "all":
        splits.loc[test, "split"] = "train"
    now = Dataset(dataset.images_NHWC, dataset.labels, splits, dataset.class_names)
    leave_results(card, now, seed=1)
    register(params)
    if change == "all":
        with pytest.raises(UserError, match=r"split\.seed"):
            promote(data=now)
    else:
        promote(data=now)
        content = history.read(client, name).entries[-1].content
        assert content["test_images"] == len(test) - 6 * (change != "replaced")


def test_a_registry_that_does_not_answer_is_not_taken_for_an_empty_one(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a model: register one. Without a server: look at the server."""
    name = params.registry.name
    with pytest.raises(UserError, match=f"{name}@champion .*python -m pipeline register"):
        versions.load(name, "champion")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"MLflow at http://127\.0\.0\.1:9 failed"):
        versions.load(name, "champion")


@pytest.mark.usefixtures("three")
def test_a_version_keeps_images_and_what_it_says_of_them(params: Params, dataset: Dataset, tmp_path: Path) -> None:
    loaded = versions.fetch(connect(), params.registry.name, "champion", tmp_path)
    with np.load(loaded.file.parent / "golden.npz") as golden:
        ours = versions.load(params.registry.name, "champion").probabilities(golden["images_NHWC"])
        assert np.allclose(ours, golden["probabilities"], atol=1e-6) and len(ours) == 16


@pytest.mark.parametrize("verb", ["promote", "register"])
def test_a_verb_before_the_stages_says_what_to_run_first(monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    """Nothing is wrong with the disk: the stages have not run."""
    shutil.copy(PROJECT / "params.yaml", ".")
    monkeypatch.setattr(sys, "argv", ["pipeline", verb])
    with pytest.raises(SystemExit, match=r"artifacts/.* does not exist: run `dvc repro` first"):
        main()


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    "words", ["list", "show 1", "show champion", "history", "history --at 2020-01-01", "diff 1 2", "verify"]
)
def test_what_the_registry_prints(
    params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    """A table for people, and the same as JSON."""
    text = (PROJECT / "params.yaml").read_text().replace('name: "digits"', f'name: "{params.registry.name}"')
    Path("params.yaml").write_text(text)
    printed = []
    for more in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", ["pipeline", "registry", *words.split(), *more])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        printed.append(capsys.readouterr().out)
    assert printed[0] and json.loads(printed[1]) is not None


def test_reasons_are_asked_for(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(PROJECT / "params.yaml", ".")
    for words in ("promote --force", "promote --reason x", "reject 1", "rollback"):
        monkeypatch.setattr(sys, "argv", ["pipeline", "registry", *words.split()])
        with pytest.raises(SystemExit, match="--reason"):
            main()
