"""Where an interrupted training goes on from: one file a seed, apart from DVC's outputs, which DVC deletes before it
runs a stage. Its name is a hash of all inputs: nothing is resumed with other data, another recipe or other code.
"""

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
    """The states of a training's seeds, in `folder`, at most one every `seconds`."""

    def __init__(self, folder: Path, key: str, seconds: float = 0.0) -> None:
        self.folder, self.key, self.seconds = folder, key, seconds
        self.saved, self.failed = time.monotonic(), False

    def path(self, seed: int) -> Path:
        return self.folder / f"{self.key}-{seed}.pt"

    def load(self, seed: int) -> State | None:
        """Raises UserError for a file that is damaged."""
        try:
            state: State = torch.load(self.path(seed), map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Exception as error:
            reason = str(error).splitlines()[0][:80]
            raise UserError(f"{self.path(seed)} cannot be read ({reason}): remove it to train from the start") from None
        return state

    def due(self) -> bool:
        return time.monotonic() - self.saved >= self.seconds

    def save(self, seed: int, state: State) -> None:
        """Replace the file. The first failure is said; none costs the training or the checkpoint before."""
        content = io.BytesIO()  # torch does not say why it cannot write a file
        torch.save(state, content)
        try:
            write_whole(self.path(seed), content.getbuffer())
        except OSError as error:
            if not self.failed:
                print(f"warning: no checkpoint is written to {self.folder}: {error.strerror}", file=sys.stderr)
            self.failed = True
        self.saved = time.monotonic()

    def clear(self) -> None:
        """Once the results are written; states of other recipes are of no use any more either."""
        for path in self.folder.glob("*.pt"):
            path.unlink(missing_ok=True)


def checkpoints_of(folder: Path, seconds: float, facts: Iterable[object], files: Iterable[Path]) -> Checkpoints:
    """Under a hash of the `facts`' repr, the images' size and time, and the content of the `files` and the code."""
    images, run_by = layout.IMAGES.stat(), (torch.__version__, torch.get_num_threads())
    digest = hashlib.sha256(repr([*facts, images.st_size, images.st_mtime_ns, *run_by]).encode())
    for path in [*files, *sorted(source for pattern in SOURCES for source in CODE.glob(pattern))]:
        digest.update(path.read_bytes())
    return Checkpoints(folder, digest.hexdigest()[:16], seconds)
