"""The pipeline's files: written whole or not at all; what is damaged is named, with what to do."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from torch import nn

from pipeline.artifacts import ModelCard, read_images, read_json, read_table, write_images, write_json, write_table
from pipeline.config import Train
from pipeline.errors import UserError, said
from pipeline.inference.predictor import Predictor
from pipeline.layout import ARTIFACTS
from pipeline.networks import weights
from pipeline.training.device import place

TABLE = pd.DataFrame({"path": [f"{i}.png" for i in range(20_000)], "reason": "torn\nin two"})


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may be larger than 10,000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def save(path: Path, card: ModelCard) -> None:
    weights.save(path, weights.fresh(card), card)


FILES: dict[str, tuple[Callable[[Path, ModelCard], None], Callable[[Path], object]]] = {
    "a.parquet": (lambda path, card: write_table(path, TABLE), read_table),
    "a.csv": (lambda path, card: write_table(path, TABLE), read_table),
    "a.json": (lambda path, card: write_json(path, list(range(20_000))), read_json),
    "a.npy": (lambda path, card: write_images(path, 32, [np.zeros((100, 32, 32, 3), np.uint8)]), read_images),
    "a.safetensors": (save, weights.load),
    "a.onnx": (save, Predictor),  # not of ONNX at all
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.usefixtures("working_folder")
def test_a_full_disk_leaves_the_file_that_was_there(name: str, card: ModelCard) -> None:
    path = ARTIFACTS / name
    write_json(path, "old")
    with full_disk(), pytest.raises(OSError, match="large") as error:
        FILES[name][0](path, card)
    assert said(error.value).startswith(f"{path}: File too large: free some space")
    assert [file.read_text() for file in path.parent.iterdir()] == ['"old"\n']


@pytest.mark.parametrize("name", FILES)
@pytest.mark.usefixtures("working_folder")
def test_what_is_missing_or_damaged_is_named(name: str, card: ModelCard) -> None:
    path, (write, read) = ARTIFACTS / name, FILES[name]
    with pytest.raises(FileNotFoundError) as missing:
        read(path)
    assert said(missing.value) == f"{path} does not exist: run `dvc repro` first"
    write(path, card)
    for size in (path.stat().st_size // 2, 9, 0):
        os.truncate(path, size)
        with pytest.raises(UserError, match=rf"{path} is damaged \(.+\): `dvc checkout"):
            read(path)


def test_a_damaged_probe_is_measured_again(tmp_path: Path) -> None:
    record, network = tmp_path / "probe.json", nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    record.write_text('{"circum')
    place(Train(device="cpu"), network, 8, 2, record)
    assert read_json(record)["bfloat16_over_float32"] > 0
