"""What this machine is called."""

import platform
import re
from pathlib import Path


def processor() -> str:
    """The processor's name, as people know it, and the number of its cores."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    names = re.findall(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return f"{names[0]} x {len(names)}" if names else platform.processor() or platform.machine()
