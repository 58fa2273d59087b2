"""Reads: usage queries and event lists, in the order of the log.

A read reflects every write that was acknowledged before it, by whichever node: the group's leader makes sure that
it still is the leader (a round of heartbeats serves all reads that wait for one; alone it need not ask), and waits
until everything that was committed or answered when the read arrived is applied. Whole hours come from the state at that instant; if
the range cuts an hour in which there were events, the journal is read for the cut part, bounded to the rows
that the state had at that instant, so the answer is one consistent cut however long the reading takes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from unimeter.config import NodeConfig
from unimeter.core.archive import Stripe
from unimeter.core.flow import Corrupt, Flow, ReadFailed, ReadFile
from unimeter.core.group import Group
from unimeter.core.journal import block_ceil, block_floor, segment_file
from unimeter.core.raft.state import Role
from unimeter.core.refusal import Refused
from unimeter.kernels import layout
from unimeter.kernels.api import Event, Kernels, QuerySpec, Row, TooManyGroups

JOBS_IN_TURN: Final = 16  # after a read had to wait so many jobs are begun with the next one in mind: it comes soon

LEADER_CHANGED_READ: Final = Refused("leader_changed", "the group's leader changed meanwhile", "ask again")


class Answer:
    """Rows of a usage query with the place in the log that they reflect."""

    __slots__ = ("index", "rows")

    def __init__(self, rows: list[Row], index: int) -> None:
        self.rows = rows
        self.index = index


Run = Callable[[], Flow[None] | None]
Fail = Callable[[Refused], None]


class Reads:
    """Reads of one group that wait for their turn. `Node` runs the flows that start() hands out."""

    def __init__(self, group: Group, kernels: Kernels, config: NodeConfig) -> None:
        self.group = group
        self._kernels = kernels
        self._config = config
        self._asked: list[tuple[int, Run, Fail]] = []  # since the last turn, with the index they must reflect
        self._rounds: dict[int, list[tuple[int, Run, Fail]]] = {}  # by token: waiting for Raft
        self._rounds_count = 0
        self._next_token = 1
        self._waiting: deque[tuple[int, Run, Fail]] = deque()  # waiting for apply
        self._scans: deque[Flow[None]] = deque()
        self.unreadable: Callable[[str], None] = lambda _why: None  # told when a scan finds damage
        self.on_waiting: Callable[[], None] = lambda: None  # it is not idle any more
        self.scans_active = 0
        self.scans_started = 0

    def admit(self, run: Run, fail: Fail) -> None:
        """Call `run` once all that was answered by now, by whomever, is applied here; or `fail`. Raises Refused when too
        many reads wait."""
        if self.at_once():
            scan = run()
            if scan is not None:
                self._scans.append(scan)
                self.on_waiting()
            return
        waiting = len(self._asked) + self._rounds_count + len(self._waiting) + len(self._scans)
        if waiting >= self._config.queries_waiting_max:
            raise Refused("overloaded", "too many queries are waiting", "try again shortly, with fewer queries at once")
        least = min(self.group.answered_index, self.group.raft.log.last_index)  # what was cut off will never be applied
        self._asked.append((least, run, fail))
        self.on_waiting()
        self.group.asked = JOBS_IN_TURN

    def at_once(self) -> bool:
        """Is there nobody to be asked, and nothing to be waited for?"""
        group = self.group
        raft = group.raft
        return (
            not (self._waiting or self._rounds or self._asked or self._scans or group.aside)
            and group.applied_index >= raft.commit
            and group.applied_index >= group.answered_index
            and raft.alone
        )

    def turn(self, now_ns: int) -> None:
        """Once per turn: one question to Raft for all reads since the last, and its answers."""
        raft = self.group.raft
        if self._asked:
            token, self._next_token = self._next_token, self._next_token + 1
            self._rounds[token], self._asked = self._asked, []
            self._rounds_count += len(self._rounds[token])
            raft.read(now_ns, token)
        if self._waiting and raft.role is not Role.LEADER:
            # what they wait for may be gone from the log: the new leader knows
            waiting, self._waiting = self._waiting, deque()
            for _, _, fail in waiting:
                fail(LEADER_CHANGED_READ)
        if not self._rounds:
            return
        confirmed, failed = raft.take_reads()
        for token, index in confirmed:
            for least, run, fail in self._end_round(token):
                self._waiting.append((max(index, least), run, fail))
        for token in failed:
            for _, _, fail in self._end_round(token):
                fail(LEADER_CHANGED_READ)

    @property
    def idle(self) -> bool:
        """Does nobody wait for anything that a turn could bring?"""
        return not (self._asked or self._rounds or self._waiting or self._scans)

    def _end_round(self, token: int) -> list[tuple[int, Run, Fail]]:
        ended = self._rounds.pop(token)
        self._rounds_count -= len(ended)
        return ended

    def due(self) -> list[Flow[None]]:
        """Run the reads whose time has come. Returns the journal scans to start now."""
        while self._waiting and self._waiting[0][0] <= self.group.applied_index:
            _, run, _ = self._waiting.popleft()
            scan = run()
            if scan is not None:
                self._scans.append(scan)
        started: list[Flow[None]] = []
        while self._scans and self.scans_active < self._config.query_scans_max:
            self.scans_active += 1
            self.scans_started += 1
            started.append(self._scans.popleft())
        return started

    def scan_ended(self) -> None:
        self.scans_active -= 1

    def usage(
        self, spec: QuerySpec, answer: Callable[[Answer], None], fail: Callable[[Refused], None]
    ) -> Flow[None] | None:
        """Answer a usage query: at once, or through the flow that is returned."""
        group, index = self.group, self.group.applied_index
        try:
            query = group.state.query(group.catalog.compiled, spec, self._config.query_groups_max, group.number)
            if not query.needs_scan:
                answer(Answer(query.rows(), index))
                return None
        except TooManyGroups:
            fail(too_many_groups(self._config.query_groups_max))
            return None
        stripes = list(group.archive.select(query.edges, query.first_seq, query.end_seq))

        def scan() -> Flow[None]:
            try:
                for stripe in stripes:
                    records = yield from self._records(stripe)
                    group.settle()
                    query.scan(records, stripe.first_row, stripe.end_row)
                answer(Answer(query.rows(), index))
            except TooManyGroups:
                fail(too_many_groups(self._config.query_groups_max))
            except (Corrupt, ReadFailed) as error:
                fail(unreadable(error))
                self.unreadable(str(error))

        return scan()

    def events(
        self,
        account: int | bytes,
        since: int,
        until: int,
        metric: int | None,
        after: int,
        limit: int,
        answer: Callable[[list[Event]], None],
        fail: Callable[[Refused], None],
    ) -> Flow[None]:
        """List stored events of an account with since <= time <= until, in log order, at most `limit`."""
        group = self.group
        end_row = group.state.meta().next_seq
        scan = group.state.events(account, since, until, after, end_row, metric, group.number)
        stripes = list(group.archive.select(((since, until + 1),), after + 1, end_row))

        def run() -> Flow[None]:
            found: list[Event] = []
            try:
                for stripe in stripes:
                    records = yield from self._records(stripe)
                    group.settle()
                    found += scan.scan(records, limit - len(found), stripe.first_row, stripe.end_row)
                    if len(found) >= limit:
                        break
                answer(found)
            except (Corrupt, ReadFailed) as error:
                fail(unreadable(error))
                self.unreadable(str(error))

        return run()

    def _records(self, stripe: Stripe) -> Flow[bytes]:
        """The verified records of a stripe."""
        start = block_floor(stripe.offset)
        lead = stripe.offset - start
        data = yield ReadFile(segment_file(stripe.segment), start, block_ceil(lead + stripe.length))
        records = data[lead : lead + stripe.length]
        scan = self._kernels.journal_verify(records, stripe.seq, stripe.chain)
        if scan.stop != layout.UM_J_END or scan.consumed != stripe.length:
            place = f"file {segment_file(stripe.segment)}, offset {stripe.offset + scan.consumed}"
            raise Corrupt(
                f"{place}: the journal cannot be read there; run unimeter inspect, restore the file from a backup"
            )
        return records


def too_many_groups(limit: int) -> Refused:
    return Refused("too_large", f"the answer has more than {limit} rows", "group by fewer dimensions, or filter")


def unreadable(error: Exception) -> Refused:
    return Refused("internal", f"the event journal could not be read: {error}", "look at the node's disk")
