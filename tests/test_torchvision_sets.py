"""torchvision's datasets, in tiny files of the original formats: pickles, IDX, MATLAB, raw bytes, JPEG."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torchvision.datasets as sets
from PIL import Image

from pipeline.datasets import Entry, find
from pipeline.datasets.torchvision_sets import NAMES

Patch = pytest.MonkeyPatch
NUMBERS = [0, 1, 9]  # of the classes that the tiny sets have
PIXELS_NHWC = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


def write(path: Path, content: bytes) -> str:
    """Returns the MD5, which the loaders compare."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return hashlib.md5(content).hexdigest()


def tar(files: dict[str, bytes]) -> bytes:
    with io.BytesIO() as content:
        with tarfile.open(fileobj=content, mode="w:gz") as archive:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return content.getvalue()


def md5s(files: dict[str, bytes], *wanted: str) -> list[list[str]]:
    found = [(Path(name).name, hashlib.md5(data).hexdigest()) for name, data in files.items()]
    return [[name, md5] for name, md5 in found if name in wanted]


def write_cifar(root: Path, patch: Patch, loader: Any, train: str, test: str, meta: str, names: dict[str, Any]) -> None:
    key = "labels" if "label_names" in names else "fine_labels"
    planes = PIXELS_NHWC.transpose(0, 3, 1, 2).reshape(3, -1)
    batch = pickle.dumps({"data": planes, key: NUMBERS})
    files = {f"{loader.base_folder}/{name}": batch for name in (train, test)}
    files[f"{loader.base_folder}/{meta}"] = pickle.dumps(names)
    patch.setattr(loader, "tgz_md5", write(root / loader.filename, tar(files)))
    patch.setattr(loader, "train_list", md5s(files, train))
    patch.setattr(loader, "test_list", md5s(files, test))
    patch.setattr(loader, "meta", {**loader.meta, "md5": md5s(files, meta)[0][1]})


def write_cifar10(root: Path, patch: Patch) -> None:
    names = {"label_names": [f"animal {i}" for i in range(10)]}
    write_cifar(root, patch, sets.CIFAR10, "data_batch_1", "test_batch", "batches.meta", names)


def write_cifar100(root: Path, patch: Patch) -> None:
    names = {"fine_label_names": [f"thing {i}" for i in range(100)]}
    write_cifar(root, patch, sets.CIFAR100, "train", "test", "meta", names)


def write_idx(root: Path, patch: Patch, loader: Any) -> None:
    """IDX: a magic number of type and dimensions, the sizes, the bytes."""
    images = np.array([0x803, 3, 28, 28], ">i4").tobytes() + PIXELS_NHWC[:, :28, :28, 0].tobytes()
    labels = np.array([0x801, 3], ">i4").tobytes() + bytes(NUMBERS)
    resources = []
    for name, _ in loader.resources:
        content = gzip.compress(images if "images" in name else labels)
        resources.append((name, write(root / loader.__name__ / "raw" / name, content)))
    patch.setattr(loader, "resources", resources)


def write_mnist(root: Path, patch: Patch) -> None:
    write_idx(root, patch, sets.MNIST)


def write_fashion_mnist(root: Path, patch: Patch) -> None:
    write_idx(root, patch, sets.FashionMNIST)


def matlab(arrays: dict[str, np.ndarray]) -> bytes:
    from scipy.io import savemat

    with io.BytesIO() as content:
        savemat(content, arrays)
        return content.getvalue()


def write_svhn(root: Path, patch: Patch) -> None:
    """Its files call the digit 0 ten."""
    digits = np.array([[number or 10] for number in NUMBERS], np.uint8)
    md5 = write(root / "train_32x32.mat", matlab({"X": PIXELS_NHWC.transpose(1, 2, 3, 0), "y": digits}))
    (root / "test_32x32.mat").write_bytes((root / "train_32x32.mat").read_bytes())
    patch.setattr(sets.SVHN, "split_list", {s: ["", f"{s}_32x32.mat", md5] for s in ("train", "test", "extra")})


def write_stl10(root: Path, patch: Patch) -> None:
    """Its planes are stored column by column, its classes counted from 1."""
    large = np.tile(PIXELS_NHWC, (1, 3, 3, 1)).transpose(0, 3, 2, 1).tobytes()
    labels = bytes(number + 1 for number in NUMBERS)
    contents = {"train_X": large, "train_y": labels, "unlabeled_X": large, "test_X": large, "test_y": labels}
    files = {f"stl10_binary/{name}.bin": content for name, content in contents.items()}
    files["stl10_binary/class_names.txt"] = "\n".join(f"animal {i}" for i in range(10)).encode()
    patch.setattr(sets.STL10, "tgz_md5", write(root / "stl10_binary.tar.gz", tar(files)))
    patch.setattr(sets.STL10, "train_list", md5s(files, "train_X.bin", "train_y.bin", "unlabeled_X.bin"))
    patch.setattr(sets.STL10, "test_list", md5s(files, "test_X.bin", "test_y.bin"))


def jpeg(pixels_HWC: np.ndarray) -> bytes:
    with io.BytesIO() as content:
        Image.fromarray(pixels_HWC).save(content, "JPEG")
        return content.getvalue()


def write_eurosat(root: Path, patch: Patch) -> None:
    """The MD5 of its archive is a constant inside a method: that comparison alone is left out."""
    (root / "eurosat").mkdir(parents=True)
    with zipfile.ZipFile(root / "eurosat" / "EuroSAT.zip", "w") as archive:
        for i, name in enumerate(("Forest", "River", "SeaLake")):
            archive.writestr(f"2750/{name}/{name}_{i + 1}.jpg", jpeg(PIXELS_NHWC[i]))
    patch.setattr(sets.utils, "check_md5", lambda *_: True)


def write_flowers102(root: Path, patch: Patch) -> None:
    """Nine photographs, three a split; images and classes are counted from 1."""
    folder = root / "flowers-102"
    images = {f"jpg/image_{i + 1:05d}.jpg": jpeg(PIXELS_NHWC[i % 3]) for i in range(9)}
    labels = matlab({"labels": np.array([n + 1 for n in NUMBERS] * 3)})
    ids = matlab({"trnid": np.arange(1, 4), "valid": np.arange(4, 7), "tstid": np.arange(7, 10)})
    files = {
        "image": ("102flowers.tgz", write(folder / "102flowers.tgz", tar(images))),
        "label": ("imagelabels.mat", write(folder / "imagelabels.mat", labels)),
        "setid": ("setid.mat", write(folder / "setid.mat", ids)),
    }
    patch.setattr(sets.Flowers102, "_file_dict", files)


ANIMALS = ["animal 0", "animal 1", "animal 9"]
DIGITS = ["0", "1", "9"]
CASES: dict[str, tuple[Callable[[Path, Patch], None], list[str], list[str], int]] = {
    # What writes it, its splits, labels, and the side of its images
    "cifar10": (write_cifar10, ["train", "test"], ANIMALS, 32),
    "cifar100": (write_cifar100, ["train", "test"], ["thing 0", "thing 1", "thing 9"], 32),
    "fashion_mnist": (write_fashion_mnist, ["train", "test"], ["T-shirt/top", "Trouser", "Ankle boot"], 28),
    "mnist": (write_mnist, ["train", "test"], DIGITS, 28),
    "svhn": (write_svhn, ["train", "test"], DIGITS, 32),
    "stl10": (write_stl10, ["train", "test"], ANIMALS, 96),
    "eurosat": (write_eurosat, [""], ["Forest", "River", "SeaLake"], 32),
    "flowers102": (
        write_flowers102,
        ["train", "val", "test"],
        ["pink primrose", "hard-leaved pocket orchid", "globe thistle"],
        32,
    ),
}


def found(name: str, root: Path) -> list[Entry]:
    """The files of `scratch` are left for the test."""
    return find(name, root, Path(tempfile.mkdtemp(dir=root.parent))).entries


def decoded(entry: Entry) -> np.ndarray:
    return np.asarray(Image.open(entry.content)) if isinstance(entry.content, Path) else entry.content


@pytest.mark.parametrize("name", NAMES)
def test_a_set_that_is_there_is_read(tmp_path: Path, monkeypatch: Patch, name: str) -> None:
    """Splits, labels and pixels are the official ones, and the second time the same."""
    write_files, splits, labels, side = CASES[name]
    write_files(tmp_path / "root", monkeypatch)
    for _ in range(2):
        entries = found(name, tmp_path / "root")
        assert sorted((e.split, e.label) for e in entries) == sorted((s, label) for s in splits for label in labels)
        assert [entry.path for entry in entries] == sorted({entry.path for entry in entries})
        for entry in entries:
            expected = np.tile(PIXELS_NHWC[labels.index(entry.label)], (1, 1, 1))
            pixels_HWC = decoded(entry)
            assert pixels_HWC.shape == (side, side, 3)
            assert pixels_HWC.dtype == np.uint8
            if side == 28:
                expected = np.repeat(expected[:28, :28, :1], 3, axis=2)
            elif side == 96:
                expected = np.tile(expected, (3, 3, 1))
            if not isinstance(entry.content, Path):  # JPEG is not exact
                assert np.array_equal(pixels_HWC, expected)


@pytest.fixture
def no_network(monkeypatch: Patch) -> None:
    """Every download is refused by a port that nobody listens on."""
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setattr(urllib.request, "_opener", None)


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("cifar10", r"cifar-10-python\.tar\.gz \(MD5 c58f"),
        ("cifar100", r"cifar-100-python\.tar\.gz \(MD5 eb9058"),
        ("fashion_mnist", r"FashionMNIST/raw/train-images-idx3-ubyte\.gz \(MD5 8d4fb7.*t10k-labels"),
        ("mnist", r"MNIST/raw/train-images-idx3-ubyte\.gz \(MD5 f68b3c.*t10k-labels"),
        ("svhn", r"train_32x32\.mat \(MD5 e26ded.*, test_32x32\.mat \(MD5 eb5a98\w+\) into"),
        ("stl10", r"stl10_binary\.tar\.gz \(MD5 91f776"),
        ("eurosat", r"eurosat/EuroSAT\.zip \(MD5 c8fa01"),
        ("flowers102", r"flowers-102/102flowers\.tgz \(MD5 528089.*imagelabels\.mat .*setid\.mat"),
    ],
)
@pytest.mark.usefixtures("no_network")
def test_a_set_that_cannot_be_had_says_what_to_do(tmp_path: Path, name: str, needed: str) -> None:
    """The sentence names the reason, the files, their checksums and where to put them."""
    with pytest.raises(ValueError, match=rf"cannot be downloaded \(.*\): connect .* put {needed}") as raised:
        found(name, tmp_path / "root")
    assert f"into {tmp_path / 'root'} by hand" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("no_network")
def test_the_checksums_in_the_message_are_torchvisions() -> None:
    """Those of eurosat and flowers102 are restated, as torchvision keeps them private."""
    import inspect

    from pipeline.datasets.torchvision_sets import SETS

    for name in ("eurosat", "flowers102"):
        loader = getattr(sets, SETS[name].loader)
        for file, md5 in SETS[name].files(loader):
            assert md5 in inspect.getsource(loader)
            assert Path(file).name in inspect.getsource(loader)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["cifar10", "mnist", "svhn", "stl10", "flowers102"])
def test_a_damaged_file_is_reported_like_a_missing_one(tmp_path: Path, monkeypatch: Patch, name: str) -> None:
    """The checksum tells; the file stays as it is for people to look at."""
    CASES[name][0](tmp_path / "root", monkeypatch)
    file = max(
        (path for path in (tmp_path / "root").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    half = file.read_bytes()[: file.stat().st_size // 2]
    file.write_bytes(half)
    with pytest.raises(ValueError, match=f"{name} is not in .*, or damaged"):
        found(name, tmp_path / "root")
    assert file.read_bytes() == half


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
