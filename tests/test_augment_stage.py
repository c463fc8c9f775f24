"""`augment`: statistics, balance, policy and preview, of the training split and of nothing else."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline import layout
from pipeline.artifacts import Dataset, read_table, write_table
from pipeline.augmentation.policy import Policy
from pipeline.config import Augment, Params
from pipeline.stages.augment import VERSIONS, Statistics, channel_statistics, preview, run

MIXED: dict[str, Any] = {"mixup": 0.4, "cutmix": 1.0, "resized_crop": 0.5, "hue": 0.1, "erasing": 0.5}
SIMPLE: Statistics = ((0.5,) * 3, (0.5,) * 3)


def test_statistics_are_those_of_numpy(dataset: Dataset) -> None:
    rows = dataset.rows("train")
    mean, std = channel_statistics(dataset.images_NHWC, rows)
    pixels = dataset.images_NHWC[rows].astype(np.float64) / 255
    assert mean == pytest.approx(pixels.mean(axis=(0, 1, 2)), abs=1e-5)
    assert std == pytest.approx(pixels.std(axis=(0, 1, 2)), abs=1e-5)


@pytest.mark.usefixtures("working_folder")
def test_nothing_of_the_other_splits_gets_into_the_outputs(dataset: Dataset, params: Params) -> None:
    """With the validation and test images replaced by noise, every file is the same to the byte, the picture too."""
    asked = params.model_copy(update={"augment": Augment.model_validate({"policy": "digits", "overrides": MIXED})})
    train, others = dataset.rows("train"), np.concatenate([dataset.rows("val"), dataset.rows("test")])
    plain = np.array(dataset.images_NHWC)
    noisy, darker = plain.copy(), plain.copy()
    noisy[others] = np.random.default_rng(0).integers(0, 256, noisy[others].shape)
    darker[train] //= 2

    def written(images_NHWC: np.ndarray) -> dict[str, bytes]:
        write_table(layout.SPLITS, dataset.splits)
        layout.IMAGES.parent.mkdir(exist_ok=True)
        np.save(layout.IMAGES, images_NHWC)
        run(asked)
        return {file.name: file.read_bytes() for file in sorted(layout.POLICY.parent.iterdir())}

    files = written(plain)
    wanted = {"row": train, "class": dataset.splits["class"].to_numpy()[train], "weight": 1.0}
    pd.testing.assert_frame_equal(read_table(layout.SAMPLE_INDEX), pd.DataFrame(wanted), check_dtype=False)
    assert list(files) == ["norm_stats.json", "policy.json", "preview.png", "sample_index.parquet"]
    assert written(noisy) == files
    changed = written(darker)
    assert {name for name in files if changed[name] != files[name]} == {"norm_stats.json", "preview.png"}


@pytest.mark.parametrize(("policy", "mixes"), [(Policy(rotation=10), False), (Policy(**MIXED), True)])
def test_the_preview_shows_each_class_and_what_is_mixed_into_it(dataset: Dataset, policy: Policy, mixes: bool) -> None:
    (axes,) = preview(dataset, policy, SIMPLE, "", 0).axes
    assert len(axes.images) == 3 * (1 + VERSIONS)
    texts = [text.get_text() for text in axes.texts]
    assert {"digit-0", "digit-1", "digit-2"} <= set(texts)
    assert any("% digit-" in text for text in texts) == mixes


def test_a_preview_of_many_classes_is_cut_short(dataset: Dataset) -> None:
    names = tuple(f"class-{i:02d}" for i in range(40))
    labels = np.arange(len(dataset.labels)) % 40
    splits = dataset.splits.assign(split="train", **{"class": np.array(names)[labels]})
    figure = preview(Dataset(dataset.images_NHWC, labels, splits, names), Policy(), SIMPLE, "", 0)
    assert len(figure.axes[0].images) == 12 * (1 + VERSIONS)
    assert "12 of 40" in figure.get_suptitle()
