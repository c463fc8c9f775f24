"""`python -m pipeline.config`: check params.yaml. DVC runs it before each command that a model's name is written into,
because it hands that command to a shell as it stands; no quotes help against a name that holds one."""

import sys

from pipeline.config import load
from pipeline.errors import UserError

if __name__ == "__main__":
    try:
        load()
    except UserError as error:
        sys.exit(f"error: {' '.join(str(error).split())}".encode("ascii", "backslashreplace").decode())
