"""Well-known datasets, through torchvision's loaders, which download into `root` what is not there.
The files are described at https://docs.pytorch.org/vision/stable/datasets.html#image-classification"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets import Entry, Found
from pipeline.errors import UserError

BY_FLAG = {"train": {"train": True}, "test": {"train": False}}
BY_NAME = {"train": {"split": "train"}, "test": {"split": "test"}}
AS_FILES = {split: {"split": split, "loader": Path} for split in ("train", "val", "test")}
IDX = [f"raw/{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
FLOWERS = [f"flowers-102/{file}" for file in ("102flowers.tgz", "imagelabels.mat", "setid.mat")]
# A class of torchvision.datasets, what it is asked for each official split, and the files that it downloads
SETS: dict[str, tuple[str, dict[str, dict[str, Any]], list[str]]] = {
    "cifar10": ("CIFAR10", BY_FLAG, ["cifar-10-python.tar.gz"]),
    "cifar100": ("CIFAR100", BY_FLAG, ["cifar-100-python.tar.gz"]),
    "fashion_mnist": ("FashionMNIST", BY_FLAG, [f"FashionMNIST/{file}" for file in IDX]),
    "mnist": ("MNIST", BY_FLAG, [f"MNIST/{file}" for file in IDX]),
    "svhn": ("SVHN", BY_NAME, ["train_32x32.mat", "test_32x32.mat"]),
    "stl10": ("STL10", BY_NAME, ["stl10_binary.tar.gz"]),
    "eurosat": ("EuroSAT", {"": {"loader": Path}}, ["eurosat/EuroSAT.zip"]),
    "flowers102": ("Flowers102", AS_FILES, FLOWERS),
}
NAMES = tuple(SETS)


def find(source: str, root: Path, scratch: Path, labels: str) -> Found:
    import torchvision.datasets

    name, splits, files = SETS[source]
    # Unpacked beside links: `root` is a dependency of the stage, and only the downloads stay
    for file in files:
        (scratch / file).parent.mkdir(parents=True, exist_ok=True)
        if (root / file).exists():
            (scratch / file).symlink_to((root / file).resolve())
    try:
        found = {s: getattr(torchvision.datasets, name)(scratch, download=True, **asked) for s, asked in splits.items()}
    except (OSError, RuntimeError, ValueError, AssertionError) as error:  # the last two: a file in a wrong format
        said = f"{source} is not in {root}, or damaged, and cannot be downloaded ({' '.join(str(error).split())})"
        raise UserError(f"{said}: connect to the network, or put {', '.join(files)} into {root} by hand") from None
    for file in files:
        if not (scratch / file).is_symlink():
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(scratch / file, root / file)
    return Found([entry for split, images in found.items() for entry in _entries(scratch, split, images)])


def _entries(scratch: Path, split: str, images: Any) -> Iterator[Entry]:
    """Of one split. Images are files, or PIL's, whose grey is repeated in red, green and blue."""
    names = getattr(images, "classes", None)
    for i in range(len(images)):
        content, number = images[i]
        label = names[number].split(" - ")[0] if names else str(number)  # MNIST's "0 - zero"
        if isinstance(content, Path):
            yield Entry(content.relative_to(scratch).as_posix(), label, split, content)
        else:
            path = f"{split}/{label.replace('/', '-')}/{i:05d}"  # T-shirt/top
            yield Entry(path, label, split, np.array(content.convert("RGB"), dtype=np.uint8))
