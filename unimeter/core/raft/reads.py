"""Linearizable reads without writing: ReadIndex (Ongaro's thesis, section 6.4).

    read -> [waiting] -> a round begins: note the commit index, ask everybody -> a quorum answers -> confirmed at it

A leader that was deposed without knowing it would answer from the past. So it notes its commit index, and then asks
whether it still leads: when a quorum answers a heartbeat of its term that was sent afterwards, nobody else can have
committed anything beyond that index before the read began. One round serves all reads that wait when it begins; those
that come while it is on its way wait for the next one. A lost answer costs nothing: every heartbeat repeats the
round's number.
"""

from __future__ import annotations


class Reads:
    """Computes and answers; `replication` sends. Rounds count from 1 within a term."""

    def __init__(self) -> None:
        self.round = 0  # newest that was begun
        self.index = 0  # commit index when it began
        self.asked: list[int] = []  # tokens in that round; empty: none is on its way
        self.waiting: list[int] = []
        self.done: list[tuple[int, int]] = []
        self.failed: list[int] = []

    def begin(self, commit: int) -> bool:
        """Begin a round if there are reads for one and none is on its way."""
        if self.asked or not self.waiting:
            return False
        self.asked, self.waiting = self.waiting, []
        self.index = commit
        self.round += 1
        return True

    def confirm(self) -> None:
        """The round on its way has its quorum."""
        self.done += [(token, self.index) for token in self.asked]
        self.asked = []

    def fail(self) -> None:
        """Leadership is lost: nobody knows what these should see."""
        self.failed += self.asked + self.waiting
        self.asked, self.waiting = [], []
        self.round = 0

    def take(self) -> tuple[list[tuple[int, int]], list[int]]:
        done, failed = self.done, self.failed
        self.done, self.failed = [], []
        return done, failed
