"""The only package that speaks to MLflow's tracking server (registry.py: to its registry).

One run per trained model, found by a tag with the SHA-256 of its checkpoint. Whatever is sent twice is there once, and
what a stage could not send, the next call of `sync` sends.
"""

from pipeline.tracking.live import LiveRun, live_run
from pipeline.tracking.runs import CHECKPOINT_TAG, EPOCH_METRICS, data_lineage, lineage
from pipeline.tracking.server import connect, explained
from pipeline.tracking.sync import sync, sync_or_warn

__all__ = [
    "CHECKPOINT_TAG", "EPOCH_METRICS", "LiveRun", "connect", "data_lineage", "explained", "lineage", "live_run", "sync",
    "sync_or_warn",
]  # fmt: skip
