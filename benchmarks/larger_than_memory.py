"""Ingest, validate, split, augment and one training epoch of more images than fit into the memory they may use.

    python benchmarks/larger_than_memory.py [IMAGES] [LIMIT_MB]     default: 60,000 of 96 pixels (1.7 GB) in 1,200 MB

The limit is a cgroup's, page cache included, as a container's would be; making one needs root.
"""

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from pipeline import layout
from pipeline.cli.init import filled
from pipeline.config import Ingest, as_yaml

SIDE, CLASSES = 96, 4
V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
STAGES = ["ingest", "validate", "split", "augment", "train simple_cnn"]


def write(folder: Path, first: int, count: int) -> None:
    """`count` pictures with soft shapes and a tint that depends on the class."""
    for number in range(first, first + count):
        draw = np.random.default_rng(number)
        label = number % CLASSES
        coarse = draw.integers(0, 200, (5, 5, 3), dtype=np.uint8)
        coarse[..., label % 3] //= 2 + label // 3
        picture = np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        path = folder / f"class-{label}" / f"{number:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality=80))


class Limited:
    """A control group whose processes together may use `megabytes`, of either version of cgroups."""

    def __init__(self, megabytes: int) -> None:
        base, limit, self.peak_file = (
            (V1, "memory.limit_in_bytes", "memory.max_usage_in_bytes")
            if V1.is_dir()
            else (V2, "memory.max", "memory.peak")
        )
        self.path = base / f"pipeline-benchmark-{os.getpid()}"
        try:
            self.path.mkdir()
            (self.path / limit).write_text(str(megabytes * 1_000_000))
        except OSError as error:
            sys.exit(
                f"error: {self.path} cannot be made ({error.strerror}): run this as root, where cgroups can be made"
            )

    def run(self, command: list[str], folder: Path) -> None:
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
        subprocess.run(command, cwd=folder, env=env, check=True, preexec_fn=self._enter)

    def _enter(self) -> None:
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def peak(self) -> float:
        """In MB: the limit itself, where the page cache filled what was left."""
        return int((self.path / self.peak_file).read_text()) / 1e6


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 60_000
    limit = int(sys.argv[2]) if len(sys.argv) > 2 else 1_200
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        step = 2_000
        with ProcessPoolExecutor() as pool:
            list(
                pool.map(write, [folder / "images"] * (count // step), range(0, count, step), [step] * (count // step))
            )
        source = Ingest(source="image_folder", root=str(folder / "images"), image_size=SIDE)
        values = filled("benchmark", source, 0.3, {"train": {"epochs": 1, "batch_size": 32}})
        (folder / "params.yaml").write_text(as_yaml(values))
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
        group = Limited(limit)
        for stage in STAGES:
            start = time.perf_counter()
            group.run([sys.executable, "-m", "pipeline", *stage.split()], folder)
            print(f"-- {stage}: {time.perf_counter() - start:.0f} s", flush=True)
        array = (folder / layout.IMAGES).stat().st_size / 1e6
        print(
            f"array of {array:,.0f} MB; limit {limit:,} MB for all processes and the page cache; "
            f"peak {group.peak():,.0f} MB"
        )
        group.path.rmdir()


if __name__ == "__main__":
    main()
