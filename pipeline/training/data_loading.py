"""Where batches come from: all images on the device, or streamed from the mapped file by a thread that reads ahead."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from pipeline.artifacts import expect_random_access
from pipeline.training.memory import free_bytes, turn

AHEAD = 4  # batches that wait for the network
ROOM = 0.5  # share of the free memory that the images may take: the network needs the rest


class Feed(Protocol):
    """`waited`: seconds that the training has waited for images."""

    name: str
    waited: float

    def batches(self, parts: Sequence[np.ndarray]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """For each part (row numbers) its images, uint8 [n, H, W, 3], and labels, int64 [n], on the device."""
        ...


def feed(
    images_NHWC: np.ndarray, labels: np.ndarray, rows: np.ndarray, wanted: str, device: torch.device, sharers: int = 1
) -> Feed:
    """`rows`: all that will ever be asked for. `wanted` as in `train.images`; `sharers`: processes on this memory."""
    used = np.unique(rows)
    size = len(used) * int(np.prod(images_NHWC.shape[1:]))
    with turn(device):
        if wanted == "streamed" or (wanted == "auto" and size > ROOM * free_bytes(device) / sharers):
            return Streamed(images_NHWC, labels, device)
        return Resident(images_NHWC, labels, used, device)


class Resident:
    """Only the rows that are used are held: with `train.limit` that is little, and the test split is never read."""

    name = "resident"
    waited = 0.0

    def __init__(self, images_NHWC: np.ndarray, labels: np.ndarray, used: np.ndarray, device: torch.device) -> None:
        self.device = device
        self.images = torch.empty((len(used), *images_NHWC.shape[1:]), dtype=torch.uint8, device=device)
        for start in range(0, len(used), 4096):  # a copy of all of them on the host would need the memory twice
            block = images_NHWC[used[start : start + 4096]]
            self.images[start : start + len(block)] = torch.from_numpy(block).to(device)
        self.labels = torch.from_numpy(labels[used]).to(device)
        self.place = np.zeros(len(images_NHWC), dtype=np.int64)
        self.place[used] = np.arange(len(used))

    def batches(self, parts: Sequence[np.ndarray]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if not parts:
            return
        places = torch.from_numpy(self.place[np.concatenate(parts)]).to(self.device)
        for at in places.split([len(part) for part in parts]):
            yield self.images.index_select(0, at), self.labels.index_select(0, at)


class Streamed:
    """A thread gathers batches from the file and moves them to the device, some ahead of the training."""

    name = "streamed"

    def __init__(self, images_NHWC: np.ndarray, labels: np.ndarray, device: torch.device) -> None:
        expect_random_access(images_NHWC)
        # Each thread has a current GPU of its own
        self.device = torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" else device
        self.images_NHWC, self.labels = images_NHWC, labels
        self.waited = 0.0

    def batches(self, parts: Sequence[np.ndarray]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        ready: queue.Queue[tuple[torch.Tensor, torch.Tensor] | BaseException] = queue.Queue(AHEAD)
        finished = threading.Event()

        def read() -> None:
            try:
                if self.device.type == "cuda":
                    torch.cuda.set_device(self.device)
                for part in parts:
                    if finished.is_set():
                        return
                    ready.put(self._gather(part))
            except BaseException as error:  # for the training to raise: it waits for this thread
                ready.put(error)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            for _ in parts:
                start = time.perf_counter()
                batch = ready.get()
                self.waited += time.perf_counter() - start
                if isinstance(batch, BaseException):
                    raise batch
                yield batch
        finally:
            finished.set()
            while reader.is_alive():  # it may be about to put a batch that nobody will take
                while not ready.empty():
                    ready.get_nowait()
                reader.join(0.01)

    def _gather(self, part: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = torch.from_numpy(self.images_NHWC[part]), torch.from_numpy(self.labels[part])
        if self.device.type == "cuda":  # from pinned memory the copy does not stop the host
            images, labels = images.pin_memory(), labels.pin_memory()
        return images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
