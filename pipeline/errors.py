"""What is said to people."""

import re


class UserError(ValueError):
    """A sentence for a person that names the file or the parameter and the fix. Any other exception is a bug of ours.

    A ValueError, so that pydantic takes it from a validator.
    """


def masked(text: str) -> str:
    """The text without the names and passwords of its URLs."""
    return re.sub(r"(?<=://)[^\s/]+@", "***@", text)
