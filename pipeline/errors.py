"""What is said to people."""

from __future__ import annotations


class UserError(ValueError):
    """A sentence for a person that names the file or the parameter and the fix. Any other exception is a bug of ours.

    A ValueError, so that pydantic takes it from a validator.
    """
