"""Well-known datasets, through torchvision's loaders, which download into `root` what is not there.

The files are described at https://docs.pytorch.org/vision/stable/datasets.html#image-classification
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets import Entry, Found
from pipeline.errors import UserError

BY_FLAG = {"train": {"train": True}, "test": {"train": False}}
BY_NAME = {"train": {"split": "train"}, "test": {"split": "test"}}


@dataclass(frozen=True)
class Official:
    """A class of torchvision.datasets: what it is asked for each official split, and the files and MD5s it needs.

    `by_number`: labels are the numbers of the classes, which are digits. Loaders of image files are asked for paths.
    """

    loader: str
    splits: dict[str, dict[str, Any]]
    files: Callable[[Any], list[tuple[str, str]]]
    by_number: bool = False


def _one_archive(loader: Any) -> list[tuple[str, str]]:
    return [(loader.filename, loader.tgz_md5)]


def _mnist_files(loader: Any) -> list[tuple[str, str]]:
    return [(f"{loader.__name__}/raw/{name}", md5) for name, md5 in loader.resources]


def _svhn_files(loader: Any) -> list[tuple[str, str]]:
    return [(name, md5) for split, (_, name, md5) in loader.split_list.items() if split != "extra"]


def _eurosat_files(loader: Any) -> list[tuple[str, str]]:
    return [("eurosat/EuroSAT.zip", "c8fa014336c82ac7804f0398fcb19387")]


def _flowers_files(loader: Any) -> list[tuple[str, str]]:
    return [
        ("flowers-102/102flowers.tgz", "52808999861908f626f3c1f4e79d11fa"),
        ("flowers-102/imagelabels.mat", "e0620be6f572b9609742df49c70aed4d"),
        ("flowers-102/setid.mat", "a5357ecc9cb78c4bef273ce3793fc85c"),
    ]


SETS = {
    "cifar10": Official("CIFAR10", BY_FLAG, _one_archive),
    "cifar100": Official("CIFAR100", BY_FLAG, _one_archive),
    "fashion_mnist": Official("FashionMNIST", BY_FLAG, _mnist_files),
    "mnist": Official("MNIST", BY_FLAG, _mnist_files, by_number=True),
    "svhn": Official("SVHN", BY_NAME, _svhn_files, by_number=True),
    "stl10": Official("STL10", BY_NAME, _one_archive),
    "eurosat": Official("EuroSAT", {"": {"loader": Path}}, _eurosat_files),
    "flowers102": Official(
        "Flowers102", {split: {"split": split, "loader": Path} for split in ("train", "val", "test")}, _flowers_files
    ),
}
NAMES = tuple(SETS)


def find(source: str, root: Path, scratch: Path, labels: str) -> Found:
    import torchvision.datasets

    official = SETS[source]
    loader = getattr(torchvision.datasets, official.loader)
    files = official.files(loader)
    for name, _ in files:  # unpacked beside links: `root` is a dependency of the stage, and only the downloads stay
        if (root / name).exists():
            _parent(scratch / name).symlink_to((root / name).resolve())
    try:
        found = {split: loader(scratch, download=True, **told) for split, told in official.splits.items()}
    # The last two are what a file in a wrong format makes of the loaders
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        wanted = ", ".join(f"{name} (MD5 {md5})" for name, md5 in files)
        raise UserError(
            f"{source} is not in {root}, or damaged, and cannot be downloaded ({' '.join(str(error).split())}): "
            f"connect to the network, or put {wanted} into {root} by hand"
        ) from None
    for name, _ in files:
        if not (scratch / name).is_symlink():
            shutil.copy(scratch / name, _parent(root / name))
    return Found([e for split, images in found.items() for e in _entries(official, scratch, split, images)])


def _parent(file: Path) -> Path:
    """The same file, after its folder was made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _entries(official: Official, scratch: Path, split: str, images: Any) -> Iterator[Entry]:
    """Of one split. Images are files, or PIL's, whose grey is repeated in red, green and blue."""
    names = None if official.by_number else getattr(images, "classes", None)
    for i in range(len(images)):
        content, number = images[i]
        label = names[number] if names else str(number)
        if isinstance(content, Path):
            yield Entry(content.relative_to(scratch).as_posix(), label, split, content)
        else:
            path = f"{split}/{label.replace('/', '-')}/{i:05d}"  # T-shirt/top
            yield Entry(path, label, split, np.array(content.convert("RGB"), dtype=np.uint8))
