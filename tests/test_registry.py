"""MLflow's registry, for real: what is registered, and what is promoted."""

import shutil
import sys
from pathlib import Path

import mlflow
import numpy as np
import onnxruntime
import pytest

from pipeline import registry
from pipeline.__main__ import main
from pipeline.artifacts import Dataset, ModelCard
from pipeline.config import Params, Registry
from pipeline.errors import UserError
from pipeline.registry import choose, promote, register
from pipeline.tracking.server import connect
from pipeline.tracking.sync import sync
from tests.conftest import PROJECT
from tests.results import MODEL, leave_results

pytestmark = pytest.mark.usefixtures("tracking_folder")

ROWS = [
    {"model": "a", "variant": "fp32", "val_accuracy": 0.90, "accuracy": 0.99, "size_mb": 5.0, "latency_ms": 2.0},
    {"model": "b", "variant": "fp32", "val_accuracy": 0.92, "accuracy": 0.80, "size_mb": 9.0, "latency_ms": 4.0},
    {"model": "b", "variant": "int8", "val_accuracy": 0.95, "accuracy": 0.80, "size_mb": 2.0, "latency_ms": 1.0},
]


def test_the_candidate_is_chosen_by_validation_accuracy_within_the_budgets() -> None:
    """The test accuracy has no say; a budget takes a candidate out; a variant must be asked for; ties go to the
    smaller file."""
    assert choose(ROWS, Registry())["model"] == "b"
    assert choose(ROWS, Registry(max_size_mb=6.0))["model"] == "a"
    assert choose(ROWS, Registry(variants=["fp32", "int8"]))["variant"] == "int8"
    assert choose([row | {"val_accuracy": 0.9} for row in ROWS], Registry())["model"] == "a"
    with pytest.raises(UserError, match=r"a fp32: 2\.00 ms .*; b fp32: 4\.00 ms"):
        choose(ROWS, Registry(max_latency_ms=1.5))


def holder(name: str, alias: str = "champion") -> str:
    return str(connect().get_model_version_by_alias(name, alias).version)


def test_register_and_promote(params: Params, card: ModelCard, dataset: Dataset) -> None:
    """The first challenger is promoted, the same one again is not, a worse one is refused, a better one takes over."""
    name = params.registry.name
    with pytest.raises(UserError, match=name):
        promote(params, dataset, card.preprocessing)
    leave_results(card, dataset)
    ended = connect().get_run(sync(connect(), params, MODEL)).info.end_time
    assert [register(params)[0] for _ in range(2)] == ["1", "1"]
    assert connect().get_run(sync(connect(), params, MODEL)).info.end_time == ended
    assert [promote(params, dataset, card.preprocessing).promoted for _ in range(2)] == [True, False]
    images, labels = dataset.of("test")

    def right(version: str) -> int:
        return int((registry.load(name, version).probabilities(images).argmax(axis=1) == labels).sum())

    for seed in (1, 2, 3):
        before = holder(name)
        leave_results(card, dataset, seed)
        version, _ = register(params)
        promoted = promote(params, dataset, card.preprocessing).promoted
        assert promoted == (right(version) > right(before))
        assert holder(name) == (version if promoted else before)
        assert not promoted or holder(name, "previous") == before
        assert any(key.startswith("promotion.") for key in connect().get_model_version(name, version).tags)


@pytest.fixture
def champion(tracking_folder: Path, params: Params, card: ModelCard, dataset: Dataset) -> None:
    """Version 1, of `dataset`."""
    leave_results(card, dataset)
    register(params)
    promote(params, dataset, card.preprocessing)


@pytest.mark.usefixtures("champion")
def test_a_model_of_other_classes_is_not_compared(params: Params, card: ModelCard, dataset: Dataset) -> None:
    """Two datasets under one name: a sentence, not a wrong number."""
    leave_results(card, dataset, seed=1)
    register(params)
    other = Dataset(dataset.images_NHWC, dataset.labels, dataset.splits, ("x", "y", "z"))
    with pytest.raises(UserError, match=r"version 1 .* `registry\.name`"):
        promote(params, other, card.preprocessing)


@pytest.mark.usefixtures("champion")
@pytest.mark.parametrize("change", ["moved", "renamed", "replaced", "twin", "left_out", "all"])
def test_images_that_taught_the_champion_do_not_test_it(
    params: Params, card: ModelCard, dataset: Dataset, change: str
) -> None:
    """Known by content: renamed files that taught it are no new ones, new files under old names are, and what is like
    an image that taught it is not. None left is an error."""
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
            promote(params, now, card.preprocessing)
    else:
        compared = len(test) - 6 * (change != "replaced")
        assert f"on {compared} test images" in promote(params, now, card.preprocessing).reason


def test_a_registry_that_does_not_answer_is_not_taken_for_an_empty_one(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a model: register one. Without a server: look at the server."""
    name = params.registry.name
    with pytest.raises(UserError, match=f"{name}@champion .*python -m pipeline register"):
        registry.load(name, "champion")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"MLflow at http://127\.0\.0\.1:9 failed"):
        registry.load(name, "champion")


@pytest.mark.usefixtures("champion")
def test_the_registered_file_needs_no_code_of_ours(params: Params, dataset: Dataset) -> None:
    """onnxruntime alone gives what our predictor gives."""
    images, _ = dataset.of("test")
    ours = registry.load(params.registry.name, "champion").probabilities(images)
    uri = f"models:/{params.registry.name}@champion"
    session = onnxruntime.InferenceSession(next(Path(mlflow.artifacts.download_artifacts(uri)).rglob("*.onnx")))
    assert np.allclose(session.run(["probabilities"], {"image": images[:]})[0], ours, atol=1e-6)


@pytest.mark.parametrize("verb", ["promote", "register"])
def test_a_verb_before_the_stages_says_what_to_run_first(monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    """Nothing is wrong with the disk: the stages have not run."""
    shutil.copy(PROJECT / "params.yaml", ".")
    monkeypatch.setattr(sys, "argv", ["pipeline", verb])
    with pytest.raises(SystemExit, match=r"artifacts/.* does not exist: run `dvc repro` first"):
        main()
