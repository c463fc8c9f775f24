"""What people see of a training while it goes on: a line per epoch, and how the GPU is."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def say(row: Mapping[str, float], cost: Mapping[str, float], left: float) -> None:
    """A plain line for an epoch; `left`: seconds to go, about."""
    minutes, seconds = divmod(round(left), 60)
    print(
        f"epoch {row['epoch']:3.0f}  loss {row['train_loss']:.4f}  accuracy {row['train_accuracy']:.4f}  "
        f"val loss {row['val_loss']:.4f}  val accuracy {row['val_accuracy']:.4f}  "
        f"{cost['images_per_second']:,.0f} images/s  {minutes}:{seconds:02d} to go",
        flush=True,
    )


def device_health(device: torch.device) -> dict[str, float]:
    """Of a GPU, what it tells: memory in use at the most since the last call (MB), utilization (%), temperature (C)."""
    if device.type != "cuda":
        return {}
    import pynvml

    health = {"gpu_memory_mb": torch.cuda.max_memory_allocated(device) / 1e6}
    torch.cuda.reset_peak_memory_stats(device)
    # Parts of a GPU, and containers without the driver's tools, do not say: no reason to stop a training
    try:
        health["gpu_temperature_c"] = float(torch.cuda.temperature(device))
        health["gpu_utilization_percent"] = float(torch.cuda.utilization(device))
    except (RuntimeError, ModuleNotFoundError, pynvml.NVMLError):
        pass
    return health
