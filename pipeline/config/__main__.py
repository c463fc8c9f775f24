"""`python -m pipeline.config`: check params.yaml, before DVC hands a command with a model's name in it to a shell."""

import sys

from pipeline.config import load
from pipeline.errors import UserError, said

if __name__ == "__main__":
    try:
        load()
    except (UserError, OSError) as error:
        sys.exit(f"error: {said(error) or error}".encode("ascii", "backslashreplace").decode())
