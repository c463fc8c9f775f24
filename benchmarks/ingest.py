"""Images per second of the whole of ingest, beside a plain Pillow loop and torchvision's ImageFolder + DataLoader.

    python benchmarks/ingest.py [DIR]     DIR: train/CLASS/* or CLASS/*; default: scikit-learn's digits as PNG files

The others only decode and resize; ours also hashes, measures, writes the array and catches what is broken.
The rounds are interleaved, and the table gives ratios, which a busy machine spoils less than absolute numbers.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.config import Ingest
from pipeline.datasets import find
from pipeline.stages.ingest import ingest

SIZE, ROUNDS = 32, 3


def digits(root: Path) -> Path:
    """The embedded images as files."""
    for entry in find("digits", root, root):
        assert isinstance(entry.content, np.ndarray)
        path = root / entry.label / f"{entry.path.rpartition('/')[2]}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(entry.content).save(path)
    return root


def plain_loop(files: list[Path]) -> None:
    """What a first script does: one process, open, convert, resize."""
    for file in files:
        np.asarray(Image.open(file).convert("RGB").resize((SIZE, SIZE)))


def image_folder(root: Path) -> None:
    """torchvision's ImageFolder through a DataLoader with two workers."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    transform = v2.Compose([v2.Resize((SIZE, SIZE)), v2.PILToTensor()])
    for part in sorted(p for p in root.iterdir() if p.name in ("train", "val", "test")) or [root]:
        for _ in DataLoader(ImageFolder(str(part), transform), batch_size=256, num_workers=2):
            pass


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(sys.argv[1]) if len(sys.argv) > 1 else digits(Path(folder) / "digits")
        files = [entry.content for entry in find("image_folder", root, root) if isinstance(entry.content, Path)]
        config = Ingest(source="image_folder", root=str(root), image_size=SIZE)
        contenders: dict[str, Callable[[], object]] = {
            "ingest (all of it)": lambda: ingest(config, Path(folder) / "images.npy"),
            "plain Pillow loop": lambda: plain_loop(files),
            "ImageFolder + DataLoader": lambda: image_folder(root),
        }
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(ROUNDS):
            for name, contender in contenders.items():
                start = time.perf_counter()
                contender()
                times[name].append(time.perf_counter() - start)
    ours = statistics.median(times["ingest (all of it)"])
    print(f"{len(files):,} files of {root}, {ROUNDS} rounds, medians")
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        print(f"{name:26} {middle:7.2f} s {len(files) / middle:9,.0f} images/s {middle / ours:6.2f} x our time")


if __name__ == "__main__":
    main()
