"""How much memory there is, a container's limit included, and who may take of it."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil
import torch
from filelock import FileLock

CGROUPS = Path("/sys/fs/cgroup")


def turn(device: torch.device) -> FileLock:
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
