"""What is promoted, and what is taken back."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.artifacts import Dataset, ModelCard, sha256
from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.registry import history, promotion, versions
from pipeline.registry.promotion import reject, rollback, settle
from pipeline.registry.versions import register
from pipeline.tracking.server import connect
from tests.registry.conftest import Promote, aliases, verbs
from tests.results import leave_results

pytestmark = pytest.mark.usefixtures("tracking_folder")


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


def test_a_champion_of_before_the_history_is_found(params: Params, new: Callable[[int], str], promote: Promote) -> None:
    connect().set_registered_model_alias(params.registry.name, "champion", new(0))
    new(1)
    assert promote(alpha=0.4).outcome != "promoted"
    assert verbs(params)[0] == "found" and aliases(params)["champion"] == "1"


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
