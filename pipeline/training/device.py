"""Where and in which number format training runs."""

import copy
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pipeline.artifacts import read_json, write_json
from pipeline.config import Train
from pipeline.errors import UserError

PROBE_STEPS, PROBE_IMAGES = 5, 32
# bfloat16 must win clearly: a probe that tips over with the machine's load would not be reproducible
PROBE_MARGIN = 1.35


@dataclass(frozen=True)
class Placement:
    """`device` and the autocast `dtype` (None: float32 throughout); `reason` is one line for the log."""

    device: torch.device
    dtype: torch.dtype | None
    reason: str

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None)


def choose_device(wanted: str) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("train.device is cuda, but torch finds no usable GPU here: set it to auto or cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def place(recipe: Train, network: nn.Module, size: int, classes: int, record: Path | None = None) -> Placement:
    """Choose device and precision for a network, perhaps by a few probing steps on a copy of it. What these found is
    read from `record` the next time: measured again, it might tip over, and give other weights."""
    device = choose_device(recipe.device)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    torch.backends.cudnn.deterministic = True
    if recipe.precision != "auto":
        dtype = torch.bfloat16 if recipe.precision == "bfloat16" else None
        return Placement(device, dtype, f"{recipe.precision}, as configured")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Placement(device, torch.bfloat16, "bfloat16, which this GPU has in hardware")
        return Placement(device, None, "float32: this GPU has no bfloat16")
    probed = {"circumstances": f"{torch.__version__}, {size} pixels, {network}"}
    found: dict[str, Any] = {}
    with suppress(OSError, UserError):
        found = read_json(record) if record else {}
    if found.get("circumstances") != probed["circumstances"]:
        found = probed | {"bfloat16_over_float32": round(_probe(network, size, classes), 2)}
        if record:
            with suppress(OSError):  # a full disk costs the record, not the training
                write_json(record, found)
    ratio = found["bfloat16_over_float32"]
    if ratio > PROBE_MARGIN:
        return Placement(device, torch.bfloat16, f"bfloat16, {ratio:.1f} x as fast as float32 in a probe")
    return Placement(device, None, f"float32: bfloat16 was {ratio:.1f} x as fast in a probe, {PROBE_MARGIN} x is asked")


def _probe(network: nn.Module, size: int, classes: int) -> float:
    """How many times as fast bfloat16 is in training steps on the CPU: by the seconds that one thread computes, as the
    clock would decide by chance beside busy neighbours."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            trial = copy.deepcopy(network).train().to(memory_format=torch.channels_last)
            images = torch.randn(PROBE_IMAGES, 3, size, size).to(memory_format=torch.channels_last)
            labels = torch.randint(classes, (PROBE_IMAGES,))
            times: dict[bool, list[float]] = {False: [], True: []}
            for low in [False, True] * PROBE_STEPS:
                start = time.thread_time()
                with torch.autocast("cpu", torch.bfloat16, enabled=low):
                    loss = cross_entropy(trial(images).float(), labels)
                loss.backward()
                times[low].append(time.thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    return min(times[False][1:]) / min(times[True][1:])
