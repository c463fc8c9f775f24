"""Child processes: stream what they print, and stop them with all that they started when the flow stops."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.errors import masked

# The signals that stop a child, and how many seconds each has to work. First SIGINT, to the whole group: DVC
# ignores it, waits for its command, tidies up and exits, where SIGTERM would leave its locks behind.
# The sum is less than the 30 s after which Prefect kills a flow that it cancels.
STOP_STEPS = ((signal.SIGINT, 10.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))

# A flow killed by SIGKILL stops nothing, so a shell in a session of its own waits at a pipe from it.
# (PR_SET_PDEATHSIG would run Python between fork and exec, unsafe with threads, and would reach DVC alone.)
GUARD = """
read -r finished && exit
kill -s INT -- "-$1"
for second in 1 2 3 4 5 6 7 8 9 10; do sleep 1; kill -s 0 -- "-$1" || exit; done
kill -s KILL -- "-$1"
"""

LAST_LINES = 200  # that are remembered of a child


class Stopped(RuntimeError):
    """The flow is stopping: the child was stopped, or not started."""


@dataclass(frozen=True)
class Finished:
    """How a child ended: its exit code and the last lines that it printed."""

    code: int
    lines: tuple[str, ...]


def child_environment(side_by_side: int) -> dict[str, str]:
    """Of one of so many children: its `python` is the one running here, and prints each line at once. Each has its
    share of the cores: together, more threads than cores make every stage slower."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    env = os.environ | {"PATH": path, "PYTHONUNBUFFERED": "1"}
    if side_by_side > 1:
        # Linux may give a process, as in a container, fewer cores than there are; macOS cannot tell
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        env.setdefault("OMP_NUM_THREADS", str(max(1, cores // side_by_side)))
    return env


def read_lines(stream: IO[bytes]) -> Iterator[str]:
    """The lines that say something, without passwords in URLs. Of a progress bar, which rewrites its line, only the
    last state."""
    for raw in stream:
        if line := raw.decode(errors="replace").rstrip().rpartition("\r")[2]:
            yield masked(line)


class Children:
    """The child processes of one flow run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self.stopping = threading.Event()

    def run(
        self, command: Sequence[str], cwd: Path, env: Mapping[str, str], on_line: Callable[[str], None]
    ) -> Finished:
        """Run one child in its own session until it ends, and give each line that it prints to `on_line`."""
        with self._lock:  # so that no child starts after `stop` has looked at what runs
            if self.stopping.is_set():
                raise Stopped("not started, because the flow stopped")
            child = subprocess.Popen(
                command, cwd=cwd, env=env, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            self._running.add(child)
        lines: deque[str] = deque(maxlen=LAST_LINES)
        try:
            with child, _guard(child):
                assert child.stdout is not None
                threading.Thread(target=_stop_orphans, args=[child], daemon=True).start()
                for line in read_lines(child.stdout):
                    lines.append(line)
                    on_line(line)
                code = child.wait()
        finally:
            with self._lock:
                self._running.remove(child)
        if self.stopping.is_set() and code != 0:
            raise Stopped("stopped with the flow")
        return Finished(code, tuple(lines))

    def stop(self) -> None:
        """Start no more children, and end those that run."""
        with self._lock:
            self.stopping.set()
            running = list(self._running)
        _stop_groups(running)


def _stop_orphans(child: subprocess.Popen[bytes]) -> None:
    """A DVC that is killed, or whose shell is, leaves its command behind: unseen, and our pipe open."""
    child.wait()
    _stop_groups([child])


@contextmanager
def _guard(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """See to it that the child does not outlive this block, nor this process."""
    command = ["/bin/sh", "-c", GUARD, "guard", str(child.pid)]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield
    except BaseException:
        _stop_groups([child])
        raise
    finally:
        guard.communicate(b"finished\n")


def _stop_groups(children: Sequence[subprocess.Popen[bytes]]) -> None:
    for signal_number, patience in STOP_STEPS:
        left = [child for child in children if _signal_group(child, signal_number)]
        deadline = time.monotonic() + patience
        while left and time.monotonic() < deadline:
            time.sleep(0.05)
            left = [child for child in left if _signal_group(child, 0)]
        if not left:
            return


def _signal_group(child: subprocess.Popen[bytes], signal_number: int) -> bool:
    """Signal the process group of a child; False if nothing is left of it."""
    child.poll()  # a dead leader that nobody has waited for would count as alive
    try:
        os.killpg(child.pid, signal_number)
    except ProcessLookupError:
        return False
    return True
