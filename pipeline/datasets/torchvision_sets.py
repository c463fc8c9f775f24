"""Well-known datasets, through torchvision's loaders, which download into `root` what is not there.

The files are described at https://docs.pytorch.org/vision/stable/datasets.html#image-classification
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets import Entry

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


def find(source: str, root: Path, scratch: Path, labels: str) -> list[Entry]:
    import torchvision.datasets

    official = SETS[source]
    loader = getattr(torchvision.datasets, official.loader)
    entries = []
    for split, arguments in official.splits.items():
        try:
            images = loader(root, download=True, **arguments)  # downloads nothing that is there
        # The last two are what a damaged file makes of the loaders that compare no checksum
        except (OSError, RuntimeError, ValueError, AssertionError) as error:
            files = ", ".join(f"{name} (MD5 {md5})" for name, md5 in official.files(loader))
            raise ValueError(
                f"{source} is not in {root}, or damaged, and cannot be downloaded ({' '.join(str(error).split())}): "
                f"connect to the network, or put {files} into {root} by hand"
            ) from None
        names = None if official.by_number else getattr(images, "classes", None)
        for i in range(len(images)):
            content, number = images[i]
            label = names[number] if names else str(number)
            entries.append(_entry(root, split, label, i, content))
    return entries


def _entry(root: Path, split: str, label: str, i: int, content: Any) -> Entry:
    """`content` is a file, or a PIL image, whose grey is repeated in red, green and blue."""
    if isinstance(content, Path):
        return Entry(content.relative_to(root).as_posix(), label, split, content)
    path = f"{split}/{label.replace('/', '-')}/{i:05d}"  # T-shirt/top
    return Entry(path, label, split, np.array(content.convert("RGB"), dtype=np.uint8))
