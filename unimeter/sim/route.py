"""A route: what the network does to bytes on their way from one place to another, now.

A place is a node, or `CLIENTS` for everybody else. Between nodes each direction has a route of its own, so a
partition may be one-way. A connection keeps the route that leads to each of its ends and asks it for every send.

    blocked     nothing arrives: what is sent stalls until the route is open again, or vanishes
    slow        every send takes longer (a clogged link)
    loss        between nodes only: a whole send is dropped, repeated, or delayed past later ones. TCP does not do so,
                but a node must not depend on it: each send carries whole frames, so the stream of frames stays well-formed
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

CLIENTS: Final = "clients"


@dataclass
class Route:
    """One direction between two places; faults change it, `reset` puts the defaults back."""

    blocked: bool = False
    vanish: bool = False  # while blocked: bytes are lost, otherwise they wait
    slow_min_ns: int = 0
    slow_max_ns: int = 0
    drop: float = 0.0
    repeat: float = 0.0
    reorder: float = 0.0
    stalled: list[Callable[[], None]] = field(default_factory=list)  # sends that wait for the route to open
    plain: bool = True  # nothing of the above: the short way

    def settle(self) -> None:
        """After a change: is this an ordinary route?"""
        self.plain = not (self.blocked or self.slow_max_ns or self.drop or self.repeat or self.reorder)

    def block(self, vanish: bool) -> None:
        self.blocked, self.vanish = True, vanish
        self.settle()

    def open(self) -> None:
        """What stalled goes on its way now, in its order."""
        self.blocked = False
        self.settle()
        stalled, self.stalled = self.stalled, []
        for send in stalled:
            send()

    def reset(self) -> None:
        self.slow_min_ns = self.slow_max_ns = 0
        self.drop = self.repeat = self.reorder = 0.0
        self.open()
