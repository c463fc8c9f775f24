"""Where an interrupted training goes on from: one file a training, replaced as a whole, never half written.

Apart from DVC's outputs, which DVC deletes before it runs a stage. Each file is named after a hash of all inputs of its
training, so that nothing is resumed with other data, another recipe or other code.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.artifacts import write_whole
from pipeline.errors import UserError

State = dict[str, Any]
DIGITS = 16  # of the hash


class Vault:
    """The state of one training in `folder`, saved at most every `seconds`; without a folder nothing is kept."""

    def __init__(self, folder: Path | None, fingerprint: str = "", seconds: float = 0.0) -> None:
        self.folder = folder
        self.path = folder / f"{fingerprint}.pt" if folder else None
        self.seconds = seconds
        self.saved = time.monotonic()

    def load(self) -> State | None:
        """Raises UserError for a file that is damaged."""
        if self.path is None or not self.path.exists():
            return None
        try:
            state: State = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:
            reason = str(error).splitlines()[0][:80]
            raise UserError(f"{self.path} cannot be read ({reason}): remove it to train from the start") from None
        return state

    def due(self) -> bool:
        return self.path is not None and time.monotonic() - self.saved >= self.seconds

    def save(self, state: State) -> str:
        """Replace the file; what is wrong if that is not possible, which costs this checkpoint, but never the training
        and never the checkpoint before."""
        if self.path is None:
            return ""
        content = io.BytesIO()  # torch does not say why it cannot write a file
        torch.save(state, content)
        try:
            write_whole(self.path, content.getbuffer())
        except OSError as error:
            return f"no checkpoint is written to {self.path.parent}: {error.strerror}"
        finally:
            self.saved = time.monotonic()
        return ""


NOWHERE = Vault(None)


def fingerprint(inputs: Sequence[Any], files: Iterable[Path], code: Iterable[Path]) -> str:
    """Of `inputs`, by what they say of themselves, of large files, by size and time, and of code, by content."""
    digest = hashlib.sha256(repr(inputs).encode())
    for file in files:
        facts = file.stat()
        digest.update(f"{facts.st_size} {facts.st_mtime_ns}".encode())
    for source in [path for place in code for path in (sorted(place.rglob("*.py")) if place.is_dir() else [place])]:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:DIGITS]
