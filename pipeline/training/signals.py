"""SIGTERM and Ctrl-C, taken note of while a training runs, so that it ends between two steps."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """A training was stopped by a signal, and can go on later. No `Exception`: nobody should take it for a failure."""

    def __init__(self, signal_number: int, where: str) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name} {where}")
        self.exit_code = 128 + signal_number


class Stop:
    """`signal_number` is 0 until a signal has come."""

    signal_number = 0


@contextmanager
def immediate_signals() -> Iterator[None]:
    """SIGTERM as an Interrupted, as Ctrl-C is a KeyboardInterrupt, before and after the steps of a training."""

    def end(signal_number: int, frame: FrameType | None) -> None:
        raise Interrupted(signal_number, "before or after the steps of the training")

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def deferred_signals() -> Iterator[Stop]:
    """The first signal is noted; a second one does what it always does, so that nobody has to wait."""
    stop = Stop()

    def note(signal_number: int, frame: FrameType | None) -> None:
        stop.signal_number = signal_number
        signal.signal(signal_number, before[signal.Signals(signal_number)])

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
