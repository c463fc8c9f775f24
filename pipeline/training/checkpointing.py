"""Where an interrupted training goes on from: one file a seed, replaced as a whole, never half written.

Apart from DVC's outputs, which DVC deletes before it runs a stage. Each file is named after a hash of all inputs of its
training, so that nothing is resumed with other data, another recipe or other code.
"""

from __future__ import annotations

import hashlib
import io
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from pipeline import layout
from pipeline.artifacts import write_whole
from pipeline.errors import UserError

State = dict[str, Any]
CODE = Path(__file__).parent.parent
SOURCES = ("training/*.py", "augmentation/*.py", "networks/**/*.py", "stages/train.py", "stages/prune.py")


class Checkpoints:
    """The states of a training's seeds, in `folder`, at most one every `seconds`; without a folder there are none."""

    def __init__(self, folder: Path | None, key: str = "", seconds: float = 0.0) -> None:
        self.folder, self.key, self.seconds = folder, key, seconds
        self.saved = time.monotonic()
        self.failure = ""

    def path(self, seed: int) -> Path | None:
        return self.folder / f"{self.key}-{seed}.pt" if self.folder else None

    def load(self, seed: int) -> State | None:
        """Raises UserError for a file that is damaged."""
        path = self.path(seed)
        if path is None or not path.exists():
            return None
        try:
            state: State = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            reason = str(error).splitlines()[0][:80]
            raise UserError(f"{path} cannot be read ({reason}): remove it to train from the start") from None
        return state

    def due(self) -> bool:
        return self.folder is not None and time.monotonic() - self.saved >= self.seconds

    def save(self, seed: int, state: State) -> None:
        """Replace the file. Where that fails it is said, and costs neither the training nor the checkpoint before."""
        path = self.path(seed)
        if path is None:
            return
        content, failure = io.BytesIO(), ""  # torch does not say why it cannot write a file
        torch.save(state, content)
        try:
            write_whole(path, content.getbuffer())
        except OSError as error:
            failure = f"no checkpoint is written to {path.parent}: {error.strerror}"
        if failure != self.failure:
            print(f"warning: {failure or 'checkpoints are written again'}", file=sys.stderr, flush=True)
        self.failure, self.saved = failure, time.monotonic()

    def clear(self) -> None:
        """Once the results are written; states of other recipes are of no use any more either."""
        for path in self.folder.glob("*.pt") if self.folder else ():
            path.unlink(missing_ok=True)


NOWHERE = Checkpoints(None)


def checkpoints_of(folder: Path, seconds: float, facts: Iterable[object], files: Iterable[Path]) -> Checkpoints:
    """Under a hash of `facts`, by what they say of themselves, of the images, by size and time, and of the `files` and
    the code, by content."""
    images = layout.IMAGES.stat()
    threads = torch.get_num_threads()
    digest = hashlib.sha256(repr([*facts, images.st_size, images.st_mtime_ns, torch.__version__, threads]).encode())
    for path in [*files, *sorted(source for pattern in SOURCES for source in CODE.glob(pattern))]:
        digest.update(path.read_bytes())
    return Checkpoints(folder, digest.hexdigest()[:16], seconds)
