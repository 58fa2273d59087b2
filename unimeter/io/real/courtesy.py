"""A node that starts beside others on one machine gives way to them until it has caught up, or leads.

A restart costs a second of CPU and more: imports, the checkpoint, the journal, what it missed. While its fellows serve,
nobody waits for it; so where several nodes share a machine (`unimeter dev`, the chaos tests) it takes less than an equal
share. A process cannot do that with its own niceness, which an ordinary user may raise but never lower again. The kernel's
autogroups (sched(7)) can be turned both ways: each session's processes share one weight, and one niceness that goes with
it. That is the whole session's, so only a node that leads a session of its own touches it.

Only relative weight changes: a CPU that nobody else wants is used in full, and nodes that all start together are equals.
Where there are no autogroups, or the CPU is divided up otherwise (containers, systemd units), nothing happens at all:
such a node has a machine, or a share, to itself.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

NICE = 5  # a third of the weight of others
AUTOGROUP = Path("/proc/self/autogroup")


class Courtesy:
    """Whether this process gives way now. Ends once; call `end` again until it is True."""

    def __init__(self) -> None:
        self._giving_way = False

    def begin(self) -> None:
        if os.getsid(0) == os.getpid() and _is_ordinary():
            with suppress(OSError):
                AUTOGROUP.write_text(f"{NICE}\n")
                self._giving_way = True

    def end(self) -> bool:
        """As important as everybody from now on."""
        if self._giving_way:
            try:
                AUTOGROUP.write_text("0\n")
            except BlockingIOError:
                return False  # it may be changed ten times a second
            except OSError:
                pass  # it cannot be helped, and must not keep the node from serving
            self._giving_way = False
        return True


def _is_ordinary() -> bool:
    """Has nobody chosen another niceness for this session?"""
    try:
        return AUTOGROUP.read_text().split()[-2:] == ["nice", "0"]
    except OSError:
        return False


COURTESY = Courtesy()  # there is one session
