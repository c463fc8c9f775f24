"""Where batches come from: all images on the device, or streamed from the mapped file by a thread that reads ahead."""

import math
import os
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import torch
from filelock import FileLock

from pipeline.artifacts import expect_random_access
from pipeline.config import Train
from pipeline.training.inputs import TrainingInputs

AHEAD = 4  # batches that wait for the network
ROOM = 0.5  # share of the free memory that the images may take: the network needs the rest
CGROUPS = Path("/sys/fs/cgroup")
Batch = tuple[torch.Tensor, torch.Tensor]  # images, uint8 [n, H, W, 3], and labels, int64 [n], on the device


class Resident:
    """Only the rows that are used are held: with `train.limit` that is little, and the test split is never read."""

    waited = 0.0  # seconds that the training has waited for images

    def __init__(self, images_NHWC: np.ndarray, labels: np.ndarray, used: np.ndarray, device: torch.device) -> None:
        self.device = device
        self.images = torch.empty((len(used), *images_NHWC.shape[1:]), dtype=torch.uint8, device=device)
        for start in range(0, len(used), 4096):  # a copy of all of them on the host would need the memory twice
            block = images_NHWC[used[start : start + 4096]]
            self.images[start : start + len(block)] = torch.from_numpy(block).to(device)
        self.labels = torch.from_numpy(labels[used]).to(device)
        self.place = np.zeros(len(images_NHWC), dtype=np.int64)
        self.place[used] = np.arange(len(used))

    def batches(self, parts: Sequence[np.ndarray]) -> Iterator[Batch]:
        """One for each part, which are row numbers."""
        if not parts:
            return
        places = torch.from_numpy(self.place[np.concatenate(parts)]).to(self.device)
        for at in places.split([len(part) for part in parts]):
            yield self.images.index_select(0, at), self.labels.index_select(0, at)


class Streamed:
    """A thread gathers batches from the file and moves them to the device, some ahead of the training."""

    def __init__(self, images_NHWC: np.ndarray, labels: np.ndarray, device: torch.device) -> None:
        expect_random_access(images_NHWC)
        # Each thread has a current GPU of its own
        self.device = torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" else device
        self.images_NHWC, self.labels = images_NHWC, labels
        self.waited = 0.0

    def batches(self, parts: Sequence[np.ndarray]) -> Iterator[Batch]:
        """One for each part, which are row numbers."""
        ahead: deque[Future[Batch]] = deque()
        reader = ThreadPoolExecutor(1)
        try:
            for number in range(len(parts) + AHEAD):
                if number < len(parts):
                    ahead.append(reader.submit(self._gather, parts[number]))
                if ahead and number >= AHEAD:
                    start = time.perf_counter()
                    batch = ahead.popleft().result()
                    self.waited += time.perf_counter() - start
                    yield batch
        finally:
            reader.shutdown(cancel_futures=True)

    def _gather(self, part: np.ndarray) -> Batch:
        images, labels = torch.from_numpy(self.images_NHWC[part]), torch.from_numpy(self.labels[part])
        if self.device.type == "cuda":  # from pinned memory the copy does not stop the host
            torch.cuda.set_device(self.device)
            images, labels = images.pin_memory(), labels.pin_memory()
        return images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)


DataLoader = Resident | Streamed


def data_loader(
    images_NHWC: np.ndarray, labels: np.ndarray, rows: np.ndarray, wanted: str, device: torch.device, sharers: int = 1
) -> DataLoader:
    """`rows`: all that will ever be asked for. `wanted` as in `train.images`; `sharers`: processes on this memory."""
    used = np.unique(rows)
    size = len(used) * images_NHWC[0].nbytes
    with memory_lock(device):
        if wanted == "streamed" or (wanted == "auto" and size > ROOM * free_bytes(device) / sharers):
            return Streamed(images_NHWC, labels, device)
        return Resident(images_NHWC, labels, used, device)


def batches_of(inputs: TrainingInputs, recipe: Train, epoch: int, processes: int = 1) -> list[np.ndarray]:
    """The rows of each batch of an epoch, drawn by the seed and the epoch alone: each once, or with replacement where
    rare classes come more often. All batches are of one size, give or take an image: a small one at the end would move
    the weights, and batch norm, as far as the others do."""
    order, chances, count = np.random.default_rng([recipe.seed, epoch]), inputs.draw_weights, len(inputs.rows)
    if chances is None:
        drawn = order.permutation(inputs.rows)
    else:
        drawn = order.choice(inputs.rows, count, p=chances / chances.sum())
    most = max(1, count // (2 * processes))  # batch norm has no variance over a single image
    return np.array_split(drawn, min(math.ceil(count / recipe.batch_size), most))


def memory_lock(device: torch.device) -> FileLock:
    """Held while one looks at what is free and takes its share: two trainings that start side by side would else both
    count on the same memory."""
    return FileLock(Path(tempfile.gettempdir()) / f"pipeline-{os.getuid()}-{device}.lock".replace(":", "-"))


def free_bytes(device: torch.device) -> int:
    """What a training may still use on the device."""
    if device.type == "cuda":
        # What torch holds for its next tensors is free for them
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    return min(int(psutil.virtual_memory().available), *_left_in_cgroups())


def _left_in_cgroups() -> list[int]:
    """Of each control group that this process is in and that has a limit (version 2 and 1); one huge number else."""
    left = [1 << 62]
    membership = Path("/proc/self/cgroup")  # on Linux
    lines = membership.read_text(encoding="utf-8").splitlines() if membership.exists() else []
    for _, controllers, name in (line.split(":", 2) for line in lines):
        files = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        # In a container the group's own name may not be visible: then the root is the container's
        for folder in (CGROUPS / controllers / name.lstrip("/"), CGROUPS / controllers):
            with suppress(OSError, ValueError):  # no such file, or no limit
                limit, used = (int((folder / file).read_text(encoding="utf-8")) for file in files)
                left.append(limit - used)
                break
    return left
