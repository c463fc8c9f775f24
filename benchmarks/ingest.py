"""Images per second of the whole of ingest, beside a plain Pillow loop and torchvision's ImageFolder + DataLoader.

    python benchmarks/ingest.py [DIR]     DIR: train/CLASS/* or CLASS/*; default: scikit-learn's digits as PNG files

The others only decode and resize; ours also hashes, measures, writes the array and catches what is broken. The rounds
are interleaved, and the table gives ratios, which a busy machine spoils less than absolute numbers. At the end the
peak memory of our processes, from a run of its own.
"""

import os
import resource
import statistics
import subprocess
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

SIZE, ROUNDS = 32, 5
OURS = "ingest (all of it)"
ALONE = "--memory-of"  # how this script calls itself, to measure the memory of ingest and nothing else


def digits(root: Path) -> Path:
    """The embedded images as files."""
    for entry in find("digits", root, root).entries:
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


def ours(root: Path, folder: Path) -> None:
    ingest(Ingest(source="image_folder", root=str(root), image_size=SIZE), folder / "images.npy")


def memory(root: Path, folder: Path) -> None:
    """Peak resident memory in MB of this process and of its largest worker, printed."""
    ours(root, folder)
    # getrusage would report the peak of the process that started this one, which it inherits
    status = Path("/proc/self/status").read_text()
    own = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1e3
    worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
    print(f"peak memory of ingest: {own:,.0f} MB, and {worker:,.0f} MB for the largest of {os.cpu_count()} workers")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(sys.argv[1]) if len(sys.argv) > 1 else digits(Path(folder) / "digits")
        files = [e.content for e in find("image_folder", root, Path(folder)).entries if isinstance(e.content, Path)]
        contenders: dict[str, Callable[[], object]] = {
            OURS: lambda: ours(root, Path(folder)),
            "plain Pillow loop": lambda: plain_loop(files),
            "ImageFolder + DataLoader": lambda: image_folder(root),
        }
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(ROUNDS):
            for name, contender in contenders.items():
                start = time.perf_counter()
                contender()
                times[name].append(time.perf_counter() - start)
        print(f"{len(files):,} files of {root}, {ROUNDS} rounds, medians (least and most)")
        middle = statistics.median(times[OURS])
        for name, seconds in times.items():
            mine = statistics.median(seconds)
            print(
                f"{name:26} {mine:7.2f} s ({min(seconds):.2f} to {max(seconds):.2f}) "
                f"{len(files) / mine:9,.0f} images/s {mine / middle:6.2f} x our time"
            )
        sys.stdout.flush()
        subprocess.run([sys.executable, __file__, ALONE, str(root), folder], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == [ALONE]:
        memory(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
