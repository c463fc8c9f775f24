"""What is registered, and what the registry says of it."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.__main__ import main
from pipeline.artifacts import Dataset, ModelCard
from pipeline.config import Params, Registry
from pipeline.errors import UserError
from pipeline.registry import versions, views
from pipeline.registry.promotion import rollback
from pipeline.registry.versions import choose, register
from pipeline.tracking.server import connect
from pipeline.tracking.sync import sync
from tests.conftest import PROJECT
from tests.registry.conftest import Promote, aliases, verbs
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
