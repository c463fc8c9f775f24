"""The named recipes. The stages that train depend on this file: what changes here trains again."""

from typing import Any

# The plain recipe of the reference comparison; the best validation epoch is kept, as always
RECIPES: dict[str, dict[str, Any]] = {
    "own": {},
    "reference": {
        "epochs": 15, "batch_size": 32, "optimizer": "adam", "learning_rate": 1e-3, "schedule": "step", "warmup": 0.0,
        "step_epochs": 7, "factor": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "decay_all": True,
        "label_smoothing": 0.0, "clip_gradient": 0.0, "ema": 0.0, "patience": 0, "micro_batch": 0,
    },
}  # fmt: skip
