"""A registry with some versions, and what tests of it ask."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pipeline.artifacts import Dataset, ModelCard
from pipeline.config import Params
from pipeline.registry import history, promotion, versions
from pipeline.registry.promotion import Outcome
from pipeline.registry.versions import register
from pipeline.tracking import runs
from pipeline.tracking.server import connect
from tests.conftest import new_project
from tests.results import CHECKPOINT, MODEL, leave_results

Promote = Callable[..., Outcome]


def make(params: Params, card: ModelCard, dataset: Dataset, seed: int, steps: int = 0) -> str:
    """Registers the network of a seed, trained for some steps, as if here and now; its version."""
    leave_results(card, dataset, seed, steps)
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


@pytest.fixture(scope="session")
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
