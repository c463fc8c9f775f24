"""`ingest`: a row and a picture per image, in bounded memory, the same with any number of processes."""

import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import layout
from pipeline.artifacts import Dataset, read_dataset, read_images, read_json, read_table, write_images, write_table
from pipeline.config import Ingest, Params
from pipeline.errors import UserError
from pipeline.image_files import load
from pipeline.preprocessing import Preprocessing
from pipeline.stages.ingest import BLOCK, ingest, run

Capsys = pytest.CaptureFixture[str]


def config(root: Path, **more: object) -> Ingest:
    return Ingest.model_validate({"source": "image_folder", "root": str(root), "image_size": 16, **more})


def copies(folder: Path, source: Path, count: int) -> Path:
    for copy in range(count):
        shutil.copytree(source, folder / "images" / f"digit-{copy}")
    return folder / "images"


def test_a_run_writes_a_row_and_a_picture_per_image(
    tmp_path: Path, digit_folder: Path, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    """In the same order, with the numbers of the files; what cannot be read is listed, or stops if it is said to."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(digit_folder, "images")
    Path("images/digit-0/000.png").write_bytes(b"")
    Path("images/digit-1/note.jpg").write_text("not an image")
    facts = run(params.model_copy(update={"ingest": config(Path("images"))}))
    assert facts == ["119 images", "3 classes", "2 set aside"] and "images/digit-0/000.png" in capsys.readouterr().err
    images, manifest = read_images(layout.IMAGES), read_table(layout.MANIFEST)
    assert images.shape == (119, 16, 16, 3) and len(manifest) == 119
    first = manifest.iloc[0]
    assert (first["path"], first["width"], first["mode"], first["format"]) == ("digit-0/001.png", 8, "L", "PNG")
    assert first["bytes"] == Path("images/digit-0/001.png").stat().st_size
    assert first["brightness"] == pytest.approx(images[0].mean() / 255, abs=1e-3)
    assert read_table(layout.QUARANTINE)["path"].tolist() == ["digit-0/000.png", "digit-1/note.jpg"]
    assert Preprocessing.from_record(read_json(layout.PREPROCESSING)) == Preprocessing(16, "crop", (255, 255, 255))
    with pytest.raises(UserError, match=r"images/digit-0/000\.png.*ingest\.strict"):
        run(params.model_copy(update={"ingest": config(Path("images"), strict=True)}))


def test_ingest_with_many_processes_gives_the_same_bytes(tmp_path: Path, digit_folder: Path) -> None:
    """Order and content do not depend on the number of processes."""
    root = copies(tmp_path, digit_folder, 10)  # more than the few blocks that one process keeps for itself
    alone = ingest(config(root, workers=1), tmp_path / "alone.npy")
    many = ingest(config(root, workers=2), tmp_path / "many.npy")
    assert len(alone.manifest) == 1200 > 4 * BLOCK
    pd.testing.assert_frame_equal(alone.manifest, many.manifest)
    assert (tmp_path / "alone.npy").read_bytes() == (tmp_path / "many.npy").read_bytes()


def test_white_is_that_of_the_data_set(tmp_path: Path, digit_folder: Path) -> None:
    """Each type of values has its own, which is kept for those who serve; what nobody can decide is set aside."""
    root = shutil.copytree(digit_folder, tmp_path / "images")
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    made: dict[str, np.ndarray] = {
        "12 of 16.png": grey * 16,
        "32.tif": grey.astype(np.int32),
        "dark.png": grey // 4 * 16,
    }
    made |= {"float.tif": (grey / 255).astype(np.float32), "negative.tif": grey.astype(np.float32) - 1}
    for name, values in made.items():
        Image.fromarray(values).save(root / "digit-1" / name)
    found = ingest(config(root, workers=2), tmp_path / "images.npy")
    assert found.preprocessing.white == {"uint16": 4095, "int32": 255, "float32": 1}
    assert found.quarantine["path"].tolist() == ["digit-1/negative.tif"]
    images, manifest = read_images(tmp_path / "images.npy"), found.manifest.set_index("path")
    for row, path in enumerate(manifest.index):
        assert (images[row] == load(root / path, found.preprocessing)).all(), path
    assert np.allclose(manifest["brightness"], images.mean(axis=(1, 2, 3)) / 255, atol=1e-3)
    means = [
        images[manifest.index.get_loc(f"digit-1/{name}")].mean()
        for name in ("12 of 16.png", "32.tif", "dark.png", "float.tif")
    ]
    assert means == pytest.approx([127, 127, 127 / 4, 127], abs=2)


def test_a_class_on_another_scale_is_set_aside(tmp_path: Path) -> None:
    """12 bits beside 16: the brightness would tell the class."""
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16)
    for label, count, factor in (("cat", 15, 16), ("dog", 16, 257)):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(np.roll(ramp, i) * factor).save(tmp_path / "images" / label / f"{i:02}.png")
    found = ingest(config(tmp_path / "images"), tmp_path / "images.npy")
    assert found.preprocessing.white == {"uint16": 65535}
    assert set(found.quarantine["class"]) == {"cat"} and found.manifest["class"].tolist() == ["dog"] * 16
    assert "4,095" in found.quarantine["reason"][0] and any("cat/00.png" in note for note in found.notes)
    images = read_images(tmp_path / "images.npy")
    assert len(images) == 16 and images.mean() == pytest.approx(127, abs=1)


def test_images_and_splits_of_different_runs_are_not_mixed(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shifted labels would look like a bad model."""
    monkeypatch.chdir(tmp_path)
    write_images(layout.IMAGES, 16, [np.zeros((7, 16, 16, 3), np.uint8)])
    write_table(layout.SPLITS, dataset.splits)
    with pytest.raises(ValueError, match=r"has 7 images and .* 120: run `dvc repro` first"):
        read_dataset()


def test_memory_does_not_grow_with_the_data(tmp_path: Path, digit_folder: Path) -> None:
    """An array of 260 MB is written with less than half of that, however slow the disk is: blocks are let go of."""
    root = copies(tmp_path, digit_folder, 20)
    tracemalloc.start()
    try:
        ingest(config(root, workers=1, image_size=192), tmp_path / "images.npy")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / "images.npy").stat().st_size > 260e6
    assert peak < 130e6


def test_an_array_may_be_larger_than_the_memory(tmp_path: Path) -> None:
    """The kernel refuses to map such a file copy-on-write; this one is full of holes, and takes no room."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    count = 2 * memory // (1024 * 1024 * 3)
    np.lib.format.open_memmap(tmp_path / "images.npy", "w+", np.uint8, (count, 1024, 1024, 3))
    images = read_images(tmp_path / "images.npy")
    assert images.nbytes > 1.9 * memory
    assert images[-1, -1, -1].tolist() == [0, 0, 0]
