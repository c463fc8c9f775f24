"""How much memory there is, a container's limit included, and who may take of it."""

from __future__ import annotations

import os
import tempfile
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
        # What torch keeps for its next tensors is free for them
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    return min(int(psutil.virtual_memory().available), *_left_in_cgroups())


def _left_in_cgroups() -> list[int]:
    """Of each control group that this process is in and that has a limit (version 2 and 1); one huge number else."""
    left = [1 << 62]
    membership = Path("/proc/self/cgroup")
    if not membership.exists():  # not Linux
        return left
    for line in membership.read_text(encoding="utf-8").splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        files = (
            ("memory.max", "memory.current") if not controllers else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        # In a container the group's own name may not be visible: then the root is the container's
        for folder in (CGROUPS / controllers / name.lstrip("/"), CGROUPS / controllers):
            limit, used = (folder / f"memory.{file}" for file in files)
            if limit.exists() and used.exists() and limit.read_text(encoding="utf-8").strip().isdigit():
                left.append(int(limit.read_text(encoding="utf-8")) - int(used.read_text(encoding="utf-8")))
                break
    return left
