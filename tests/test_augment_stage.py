"""`augment`: statistics, balance, policy and preview, of the training split and of nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.artifacts import Dataset, write_table
from pipeline.commands.data import augment as command
from pipeline.config import Augment
from pipeline.evaluation.plots import save
from pipeline.stages.augment import VERSIONS, augment, statistics
from tests.conftest import PROJECT

MIXED = {"mixup": 0.4, "cutmix": 1.0, "resized_crop": 0.5, "hue": 0.1, "erasing": 0.5}


def test_statistics_are_those_of_the_training_split(dataset: Dataset) -> None:
    """Mean and deviation as numpy computes them."""
    rows = dataset.rows("train")
    mean, std = statistics(dataset.images_NHWC, rows)
    pixels = dataset.images_NHWC[rows].astype(np.float64) / 255
    assert mean == pytest.approx(pixels.mean(axis=(0, 1, 2)), abs=1e-5)
    assert std == pytest.approx(pixels.std(axis=(0, 1, 2)), abs=1e-5)


@pytest.fixture
def written(tmp_path: Path, dataset: Dataset) -> Callable[[str, np.ndarray], dict[str, bytes]]:
    """The files that the command `augment` writes for some images."""

    def run(name: str, images_NHWC: np.ndarray) -> dict[str, bytes]:
        np.save(tmp_path / f"{name}.npy", images_NHWC)
        write_table(tmp_path / "splits.parquet", dataset.splits)
        text = (PROJECT / "params.yaml").read_text()
        text = text.replace("overrides: {}", f"overrides: {MIXED}".replace("True", "true"))
        (tmp_path / "params.yaml").write_text(text.replace("balance: none", "balance: duplicates"))
        out = tmp_path / name
        command(tmp_path / f"{name}.npy", tmp_path / "splits.parquet", out, params=tmp_path / "params.yaml")
        return {file.name: file.read_bytes() for file in sorted(out.iterdir())}

    return run


def test_nothing_of_the_other_splits_gets_into_the_outputs(
    written: Callable[[str, np.ndarray], dict[str, bytes]], dataset: Dataset
) -> None:
    """With the validation and test images replaced by noise, every file is the same to the byte, the picture too."""
    noisy = np.array(dataset.images_NHWC)
    others = np.concatenate([dataset.rows("val"), dataset.rows("test")])
    noisy[others] = np.random.default_rng(0).integers(0, 256, noisy[others].shape)
    plain, spoiled = written("plain", np.array(dataset.images_NHWC)), written("spoiled", noisy)
    assert list(plain) == ["norm_stats.json", "policy.json", "preview.png", "sample_index.parquet"]
    assert plain == spoiled
    touched = np.array(dataset.images_NHWC)
    touched[dataset.rows("train")] //= 2
    assert {name for name, content in written("touched", touched).items() if content != plain[name]} == {
        "norm_stats.json", "preview.png",
    }  # fmt: skip


def test_the_sample_index_is_of_the_training_split(dataset: Dataset) -> None:
    """Rows, and the classes that the split has for them."""
    made = augment(dataset, Augment(policy="none")).balance.sample_index
    rows = dataset.rows("train")
    wanted = pd.DataFrame({"row": rows, "class": dataset.splits["class"].to_numpy()[rows], "weight": 1.0})
    pd.testing.assert_frame_equal(made, wanted, check_dtype=False)


def test_the_preview_shows_each_class_and_what_is_mixed_into_it(dataset: Dataset, tmp_path: Path) -> None:
    """One original and several versions a class, its name beside it; shares of other classes only where they mix."""
    for overrides, mixes in (({}, False), (MIXED, True)):
        preview = augment(dataset, Augment(policy="digits", overrides=overrides)).preview
        (axes,) = preview.axes
        assert len(axes.images) == 3 * (1 + VERSIONS)
        texts = [text.get_text() for text in axes.texts]
        assert {"digit-0", "digit-1", "digit-2", "original"} <= set(texts)
        assert any("% digit-" in text for text in texts) == mixes
        save(preview, tmp_path / "preview.png")


def test_many_classes_are_cut_short_and_said_so(dataset: Dataset) -> None:
    """The picture stays one that can be looked at."""
    names = tuple(f"class-{i:02d}" for i in range(40))
    labels = np.arange(len(dataset.labels)) % 40
    splits = dataset.splits.assign(split="train", **{"class": np.array(names)[labels]})
    preview = augment(Dataset(dataset.images_NHWC, labels, splits, names), Augment(policy="light")).preview
    assert len(preview.axes[0].images) == 12 * (1 + VERSIONS)
    assert any("the first 12 of 40 classes" in text.get_text().replace("\n", " ") for text in preview.axes[0].texts)
