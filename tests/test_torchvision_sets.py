"""torchvision's datasets: some in tiny files of the original formats, all of them without a network."""

import gzip
import hashlib
import inspect
import io
import pickle
import shutil
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torchvision.datasets as sets
from PIL import Image

from pipeline.datasets import Entry, find
from pipeline.datasets.torchvision_sets import SETS
from pipeline.errors import UserError

Patch = pytest.MonkeyPatch
Writer = Callable[[Path, Patch], None]
NUMBERS = [0, 1, 9]  # of the classes that the tiny sets have
PIXELS_NHWC = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


def write(path: Path, content: bytes) -> str:
    """Returns the MD5, which the loaders compare."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return hashlib.md5(content).hexdigest()


def write_cifar10(root: Path, patch: Patch) -> None:
    batch = pickle.dumps({"data": PIXELS_NHWC.transpose(0, 3, 1, 2).reshape(3, -1), "labels": NUMBERS})
    folder = root.parent / "unpacked" / sets.CIFAR10.base_folder
    md5 = write(folder / "batch", batch)
    meta = write(folder / "batches.meta", pickle.dumps({"label_names": [f"animal {i}" for i in range(10)]}))
    packed = Path(shutil.make_archive(str(root / "cifar-10-python"), "gztar", folder.parent))
    patch.setattr(sets.CIFAR10, "tgz_md5", hashlib.md5(packed.read_bytes()).hexdigest())
    patch.setattr(sets.CIFAR10, "train_list", [["batch", md5]])
    patch.setattr(sets.CIFAR10, "test_list", [["batch", md5]])
    patch.setattr(sets.CIFAR10, "meta", {**sets.CIFAR10.meta, "md5": meta})


def write_mnist(root: Path, patch: Patch) -> None:
    """IDX: a magic number of type and dimensions, the sizes, the bytes."""
    images = np.array([0x803, 3, 28, 28], ">i4").tobytes() + PIXELS_NHWC[:, :28, :28, 0].tobytes()
    labels = np.array([0x801, 3], ">i4").tobytes() + bytes(NUMBERS)
    contents = {name: gzip.compress(images if "images" in name else labels) for name, _ in sets.MNIST.resources}
    resources = [(name, write(root / "MNIST" / "raw" / name, content)) for name, content in contents.items()]
    patch.setattr(sets.MNIST, "resources", resources)


def write_eurosat(root: Path, patch: Patch) -> None:
    """The MD5 of its archive is a constant inside a method: that comparison alone is left out."""
    (root / "eurosat").mkdir(parents=True)
    with zipfile.ZipFile(root / "eurosat" / "EuroSAT.zip", "w") as archive:
        for pixels, name in zip(PIXELS_NHWC, ("Forest", "River", "SeaLake"), strict=True):
            content = io.BytesIO()
            Image.fromarray(pixels).save(content, "PNG")
            archive.writestr(f"2750/{name}/{name}_1.jpg", content.getvalue())
    patch.setattr(sets.utils, "check_md5", lambda *_: True)


def found(name: str, root: Path) -> list[Entry]:
    """The files of `scratch` are left for the test."""
    return find(name, root, Path(tempfile.mkdtemp(dir=root.parent))).entries


@pytest.mark.parametrize(
    ("name", "write_files", "splits", "labels"),
    [
        ("cifar10", write_cifar10, ["train", "test"], ["animal 0", "animal 1", "animal 9"]),
        ("mnist", write_mnist, ["train", "test"], ["0", "1", "9"]),
        ("eurosat", write_eurosat, [""], ["Forest", "River", "SeaLake"]),
    ],
)
def test_a_set_that_is_there_is_read(
    tmp_path: Path, monkeypatch: Patch, name: str, write_files: Writer, splits: list[str], labels: list[str]
) -> None:
    """Splits, labels and pixels are the official ones, and the second time the same."""
    write_files(tmp_path / "root", monkeypatch)
    for _ in range(2):
        entries = found(name, tmp_path / "root")
        assert sorted((e.split, e.label) for e in entries) == sorted((s, label) for s in splits for label in labels)
        for entry in entries:
            image = np.asarray(Image.open(entry.content)) if isinstance(entry.content, Path) else entry.content
            expected = PIXELS_NHWC[labels.index(entry.label)]
            assert np.array_equal(image, np.repeat(expected[:28, :28, :1], 3, 2) if name == "mnist" else expected)


@pytest.mark.parametrize("name", SETS)
def test_a_set_that_cannot_be_had_says_what_to_do(tmp_path: Path, monkeypatch: Patch, name: str) -> None:
    """Every download is refused by a port that nobody listens on; the sentence names the files and their place."""
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setattr(urllib.request, "_opener", None)
    loader, _, files = SETS[name]
    with pytest.raises(UserError, match=str(tmp_path / "root")) as raised:
        found(name, tmp_path / "root")
    source = inspect.getsource(getattr(sets, loader))
    assert all(file in str(raised.value) and Path(file).name in source for file in files)


def test_a_damaged_file_is_reported_like_a_missing_one(tmp_path: Path, monkeypatch: Patch) -> None:
    """The checksum tells; the file stays as it is for people to look at."""
    write_cifar10(tmp_path / "root", monkeypatch)
    file = tmp_path / "root" / sets.CIFAR10.filename
    file.write_bytes(file.read_bytes()[:100])
    monkeypatch.setattr(sets.CIFAR10, "url", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="damaged"):
        found("cifar10", tmp_path / "root")
    assert len(file.read_bytes()) == 100


def test_a_download_stays_and_nothing_else(tmp_path: Path, monkeypatch: Patch) -> None:
    """From a real server, once; the next time the archive in `root` is enough. What was unpacked goes with scratch."""
    write_cifar10(tmp_path / "web", monkeypatch)
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "web")
    monkeypatch.setattr(urllib.request, "_opener", None)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(sets.CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{sets.CIFAR10.filename}")
        first = found("cifar10", tmp_path / "root")
        server.shutdown()
    assert [path.name for path in (tmp_path / "root").rglob("*")] == [sets.CIFAR10.filename]
    assert [entry.path for entry in found("cifar10", tmp_path / "root")] == [entry.path for entry in first]
