"""A node that comes back to its cluster starts gently: at a lower priority, for SECONDS_MAX or until it is ready.

Its start is a second of work that nobody waits for: the others serve. Where they run on the same machine that second was
what clients noticed most of a node that came back. Only where the priority can be raised again afterwards: with
CAP_SYS_NICE, or RLIMIT_NICE high enough (setpriority(2)); elsewhere nothing is done.

Priorities are those of threads, and new threads have their creator's: all there are are set.
"""

from __future__ import annotations

import os
import resource
import threading
from contextlib import suppress
from pathlib import Path

SECONDS_MAX = 2.0  # somebody may wait for it after all: a majority is needed
NICER = 10
NICE_MAX = 19
TASKS = Path("/proc/self/task")
STATUS = Path("/proc/self/status")
CAP_SYS_NICE = 23


class Gentle:
    def __init__(self, seconds_max: float = SECONDS_MAX) -> None:
        self._lock = threading.Lock()
        self._before: int | None = None  # while the priority is lowered
        self._timer = threading.Timer(seconds_max, self.end)
        self._timer.daemon = True

    def begin(self) -> None:
        before = os.getpriority(os.PRIO_PROCESS, 0)
        if not TASKS.is_dir() or not may_raise_to(before):
            return
        self._before = before
        set_all(min(before + NICER, NICE_MAX))
        self._timer.start()

    def end(self) -> None:
        """Any number of times, from any thread."""
        with self._lock:
            before, self._before = self._before, None
            if before is not None:
                set_all(before)
                self._timer.cancel()

    def wait(self) -> None:
        """Until the time is over."""
        self._timer.join()


def may_raise_to(nice: int) -> bool:
    soft, _ = resource.getrlimit(resource.RLIMIT_NICE)
    if soft == resource.RLIM_INFINITY or soft >= 20 - nice:
        return True
    with suppress(OSError, ValueError, IndexError):
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("CapEff:"))
        return bool(int(line.split()[1], 16) >> CAP_SYS_NICE & 1)
    return False


def set_all(nice: int) -> None:
    for task in TASKS.iterdir():
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.setpriority(os.PRIO_PROCESS, int(task.name), nice)
