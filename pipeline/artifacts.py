"""Every on-disk format of the pipeline, its reader and its writer. Imports no torch.

Nothing written here holds a timestamp, a run id or an absolute path: DVC compares outputs by content.
"""

import csv
import hashlib
import json
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import pandas as pd

from pipeline import layout
from pipeline.errors import UserError
from pipeline.preprocessing import Preprocessing

SPLITS = ("train", "val", "test")
LEFT_OUT = "left_out"  # the split of an image that is like one of another side, where it would leak
VARIANTS = ("fp32", "int8", "pruned", "pruned_int8")


@contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """A file to write: a kill, an error or a full disk leaves the one that was there or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    try:
        with new.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except BaseException as error:
        new.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise


def write_whole(path: Path, content: bytes | memoryview) -> None:
    with replaced(path) as file:
        file.write(content)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file to read. Libraries do not always name one that is missing, and each has its own words for a damaged one:
    that is a UserError."""
    with path.open("rb") as file:
        try:
            yield file
        except Exception as error:
            if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno):
                raise
            reason = str(error).partition("\n")[0][:80] or type(error).__name__
            fix = f"`dvc checkout --force {path}` restores it; or delete it and run `dvc repro`"
            fix = fix if layout.ARTIFACTS in path.parents else "restore it"
            raise UserError(f"{path} is damaged ({reason}): {fix}") from error


def write_json(path: Path, content: Any) -> None:
    write_whole(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    with opened(path) as file:
        return json.load(file)


def write_metrics(stage: str, name: str, metrics: dict[str, Any], checkpoint: Path, **origin: str) -> None:
    """metrics.json, and beside it the SHA-256 of the trained checkpoint that all of it comes from."""
    write_json(layout.metrics(stage, name), metrics)
    write_json(layout.lineage(stage, name), {"checkpoint": sha256(checkpoint), **origin})


def write_table(path: Path, table: pd.DataFrame) -> None:
    """As parquet, or as CSV where the name ends in .csv."""
    if path.suffix == ".csv":
        # All text in quotes: a name may hold a carriage return, which ends a row where it stands bare
        write_whole(path, table.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC).encode())
    else:
        write_whole(path, table.to_parquet(index=False))


def read_table(path: Path) -> pd.DataFrame:
    with opened(path) as file:
        if path.suffix != ".csv":
            return pd.read_parquet(file)
        content = file.read()
        if not content.endswith(b"\n"):
            raise ValueError("the end is missing")
        # A class may be called 001, NA or None; an empty place among numbers is one that is not finite
        text = dict.fromkeys(("path", "class", "reason", "suggested"), str)
        numbers = {name: [""] for name in pd.read_csv(BytesIO(content), nrows=0).columns if name not in text}
        return pd.read_csv(BytesIO(content), dtype=text, keep_default_na=False, na_values=numbers)


def unreadable(quarantine: pd.DataFrame) -> pd.DataFrame:
    """The files of quarantine.csv; class folders that hold no image stand there too, with a slash at the end."""
    return quarantine[~quarantine["path"].str.endswith("/").astype(bool)]


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_images(path: Path, size: int, blocks_NHWC: Iterable[np.ndarray]) -> None:
    """Write blocks [n, size, size, 3] uint8 as one .npy file, whose length is known only at the end.

    numpy pads the header so that the first axis may grow in place; memory stays at one block.
    """
    header, count = {"descr": "|u1", "fortran_order": False}, 0
    with replaced(path) as file:
        np.lib.format.write_array_header_1_0(file, {**header, "shape": (0, size, size, 3)})
        for block_NHWC in blocks_NHWC:
            assert block_NHWC.dtype == np.uint8 and block_NHWC.shape[1:] == (size, size, 3)
            file.write(np.ascontiguousarray(block_NHWC).data)
            count += len(block_NHWC)
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, {**header, "shape": (count, size, size, 3)})


def read_images(path: Path) -> np.ndarray:
    """All images, uint8 [N, size, size, 3], mapped from disk and not read before they are used."""
    # Read-only: the kernel refuses to map a file copy-on-write that is larger than the machine's memory
    with opened(path):
        return np.lib.format.open_memmap(path, mode="r")


def expect_random_access(images_NHWC: np.ndarray) -> None:
    """No reading ahead in a mapped file: larger than memory, an epoch of random batches would read it 100 times."""
    mapped = getattr(images_NHWC, "_mmap", None)
    if mapped is not None:
        mapped.madvise(mmap.MADV_RANDOM)


class ImageRows:
    """Some rows of an array of images, which may be larger than memory."""

    def __init__(self, images_NHWC: np.ndarray, rows: np.ndarray) -> None:
        self.images_NHWC, self.rows = images_NHWC, rows
        self.shape = (len(rows), *images_NHWC.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, places: slice | np.ndarray) -> np.ndarray:
        """uint8 [n, size, size, 3], in memory."""
        return np.asarray(self.images_NHWC[self.rows[places]])


Images = np.ndarray | ImageRows  # uint8 [N, size, size, 3]: len() and slices


@dataclass(frozen=True)
class Dataset:
    """The images together with what `split` said of each. `labels` [N] index `class_names`."""

    images_NHWC: np.ndarray
    labels: np.ndarray
    splits: pd.DataFrame
    class_names: tuple[str, ...]

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of one split, ascending."""
        return np.flatnonzero(self.splits["split"].to_numpy() == split)

    def of(self, split: str) -> tuple[ImageRows, np.ndarray]:
        """Images, read when they are asked for, and labels [n] of one split."""
        rows = self.rows(split)
        return ImageRows(self.images_NHWC, rows), self.labels[rows]


def read_dataset() -> Dataset:
    images_NHWC, splits = read_images(layout.IMAGES), read_table(layout.SPLITS)
    if len(images_NHWC) != len(splits):
        many = f"{layout.IMAGES} has {len(images_NHWC):,} images and {layout.SPLITS} {len(splits):,}"
        raise UserError(f"{many}: run `dvc repro` first")
    names, labels = np.unique(splits["class"].to_numpy(dtype=object), return_inverse=True)
    return Dataset(images_NHWC, labels, splits, tuple(names.tolist()))


@dataclass(frozen=True)
class ModelCard:
    """What a network needs beside its weights; stands in the checkpoint and in the ONNX file."""

    architecture: str
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    mean: tuple[float, ...]  # of each channel, on the 0-1 scale, as `std`
    std: tuple[float, ...]
    options: Mapping[str, Any] = field(default_factory=dict)  # the architecture's own, as in params.yaml

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        content = json.loads(text)
        lists = {name: tuple(content[name]) for name in ("class_names", "mean", "std")}
        preprocessing = Preprocessing.from_record(content["preprocessing"])
        return cls(content["architecture"], preprocessing=preprocessing, options=content["options"], **lists)
