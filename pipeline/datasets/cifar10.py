"""`cifar10`: 60,000 photographs of 32x32 pixels in 10 classes, through torchvision's loader.

The archive `cifar-10-python.tar.gz` is taken from `root`, or downloaded into it, and its checksum compared.
Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from pipeline.datasets import Entry


def find(source: str, root: Path, scratch: Path, labels: str) -> list[Entry]:
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import download_url, extract_archive

    archive = root / CIFAR10.filename
    try:
        root.mkdir(parents=True, exist_ok=True)
        download_url(CIFAR10.url, str(root), CIFAR10.filename, CIFAR10.tgz_md5)  # does nothing when it is there
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"CIFAR-10 is not at {archive} and cannot be downloaded ({error}): connect to the network, or put "
            f"{CIFAR10.filename} (MD5 {CIFAR10.tgz_md5}) into {root} by hand"
        ) from None
    entries = []
    with tempfile.TemporaryDirectory() as folder:  # `root` is a dependency of the stage: only the archive stays
        extract_archive(str(archive), folder)
        for split in ("train", "test"):
            loaded = CIFAR10(folder, train=split == "train")
            for i, (pixels, target) in enumerate(zip(loaded.data, loaded.targets, strict=True)):
                label = loaded.classes[target]
                entries.append(Entry(f"{split}/{label}/{i:05d}", label, split, pixels))
    return sorted(entries, key=lambda entry: entry.path)
