"""What is kept of a training that is not over: states to go on from, and which run of MLflow it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.training.checkpointing import Vault


class Kept:
    """In `folder`, under a hash of the inputs: nothing goes on with other data, another recipe or other code."""

    def __init__(self, folder: Path | None, seconds: float, inputs: Sequence[Any], files: Sequence[Path]) -> None:
        import torch

        from pipeline.training.checkpointing import fingerprint

        self.folder, self.seconds = folder, seconds
        code = Path(__file__).parent.parent
        self.key = fingerprint(
            [*inputs, torch.__version__, torch.get_num_threads()],
            files,
            [
                code / "training",
                code / "augmentation",
                code / "networks",
                code / "stages" / "train.py",
                code / "stages" / "prune.py",
            ],
        )

    @property
    def memo(self) -> Path | None:
        """Where tracking notes which run it is."""
        from pipeline.tracking import MEMO

        return self.folder / MEMO if self.folder else None

    def vault(self, seed: int) -> Vault:
        from pipeline.training.checkpointing import Vault

        return Vault(self.folder, f"{self.key}-{seed}", self.seconds)

    def clear(self) -> None:
        """The results are written; states of other recipes are of no use any more either."""
        for path in self.folder.glob("*.pt") if self.folder else ():
            path.unlink(missing_ok=True)
