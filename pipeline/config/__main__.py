"""`python -m pipeline.config`: check params.yaml. DVC runs it before each command that a model's name is written into,
because it hands that command to a shell as it stands; no quotes help against a name that holds one."""

import sys
from pathlib import Path

from pipeline.config import load

if __name__ == "__main__":
    try:
        load(Path("params.yaml"))
    except ValueError as error:
        sys.exit(f"error: {' '.join(str(error).split())}".encode("ascii", "backslashreplace").decode())
