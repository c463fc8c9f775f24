"""What people see of a training while it goes on: a bar on a terminal, a plain line per epoch."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType

import torch
from tqdm import tqdm


@dataclass(frozen=True)
class Epoch:
    """One line of the history (`row`); its `cost` (seconds, images a second, share of the time that the training waited
    for images, the GPU's health), which stays out of DVC's outputs; `left`: seconds to go, about."""

    row: dict[str, float]
    cost: dict[str, float]
    left: float


def say(epoch: Epoch) -> None:
    """A plain line per epoch, for people and logs."""
    row, cost = epoch.row, epoch.cost
    print(
        f"epoch {row['epoch']:3.0f}  loss {row['train_loss']:.4f}  accuracy {row['train_accuracy']:.4f}  "
        f"val loss {row['val_loss']:.4f}  val accuracy {row['val_accuracy']:.4f}  "
        f"{cost['images_per_second']:,.0f} images/s  {_clock(epoch.left)} to go",
        flush=True,
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


class Progress:
    """The bar of one epoch, over images; none where nobody watches."""

    def __init__(self, epoch: int, epochs: int, images: int, visible: bool) -> None:
        self.bar = tqdm(
            total=images, desc=f"epoch {epoch}/{epochs}", unit=" images", leave=False, disable=None if visible else True
        )
        self.shown = time.monotonic()

    def moved(self, images: int) -> float:
        """Seconds since the sums were shown."""
        self.bar.update(images)
        return time.monotonic() - self.shown

    def show(self, tally: dict[str, float]) -> None:
        now = time.monotonic()
        if now - self.shown < 1:
            return
        self.shown = now
        self.bar.set_postfix_str(
            f"loss {tally['loss'] / tally['seen']:.3f}, accuracy {tally['correct'] / tally['seen']:.3f}"
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()


def device_health(device: torch.device) -> dict[str, float]:
    """Of a GPU, what it tells: memory in use at the most since the last call (MB), utilization (%), temperature (C)."""
    if device.type != "cuda":
        return {}
    import pynvml

    peak = torch.cuda.max_memory_allocated(device) / 1e6
    torch.cuda.reset_peak_memory_stats(device)
    health = {"gpu_memory_mb": peak}
    for name, look in (
        ("gpu_utilization_percent", torch.cuda.utilization),
        ("gpu_temperature_c", torch.cuda.temperature),
    ):
        try:
            health[name] = float(look(device))
        # Parts of a GPU, and containers without the driver's tools, do not say: no reason to stop a training
        except (RuntimeError, ModuleNotFoundError, pynvml.NVMLError):
            continue
    return health
