"""What is said to people."""

import re
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path

from pipeline.layout import ARTIFACTS


class UserError(ValueError):
    """A sentence for a person that names the file or the parameter and the fix. Any other exception is a bug of ours.

    A ValueError, so that pydantic takes it from a validator.
    """


def said(error: UserError | OSError) -> str:
    """What a person should read of an error; nothing of a bug."""
    if isinstance(error, UserError):
        return " ".join(masked(str(error)).split())
    if isinstance(error, FileNotFoundError) and ARTIFACTS in Path(str(error.filename)).parents:
        return f"{error.filename} does not exist: run `dvc repro` first"
    full = error.errno in (ENOSPC, EDQUOT, EFBIG)
    fix = "free some space, or raise the limit" if full else "check the path and its permissions"
    return f"{error.filename or 'the disk'}: {error.strerror}: {fix}" if full or error.filename is not None else ""


def masked(text: str) -> str:
    """The text without the names and passwords of its URLs."""
    return re.sub(r"(?<=://)[^\s/]+@", "***@", text)
