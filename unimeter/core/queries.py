"""Reads: usage queries and event lists, in the order of the log.

A read reflects every write that was acknowledged before it: it waits until everything that was answered when
it arrived is applied (in a calm moment that is already so). Whole hours come from the state at that instant; if
the range cuts an hour in which there were events, the journal is read for the cut part, bounded to the rows
that the state had at that instant, so the answer is one consistent cut however long the reading takes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from unimeter.config import NodeConfig
from unimeter.core.archive import Stripe
from unimeter.core.flow import Corrupt, Flow, ReadFailed, ReadFile
from unimeter.core.group import Group
from unimeter.core.journal import block_ceil, block_floor, segment_file
from unimeter.core.refusal import Refused
from unimeter.kernels import layout
from unimeter.kernels.api import Event, Kernels, QuerySpec, Row, TooManyGroups


@dataclass
class Answer:
    """Rows of a usage query with the place in the log that they reflect."""

    rows: list[Row]
    index: int


Done = Callable[[Flow[None]], None]


class Reads:
    """Reads of one group that wait for their turn. `Node` runs the flows that start() hands out."""

    def __init__(self, group: Group, kernels: Kernels, config: NodeConfig) -> None:
        self._group = group
        self._kernels = kernels
        self._config = config
        self._waiting: deque[tuple[int, Callable[[], Flow[None] | None]]] = deque()
        self._scans: deque[Flow[None]] = deque()
        self.scans_active = 0

    def admit(self, run: Callable[[], Flow[None] | None]) -> None:
        """Call `run` once all that was answered by now is applied. Raises Refused when too many reads wait."""
        if len(self._waiting) + len(self._scans) >= self._config.queries_waiting_max:
            raise Refused("overloaded", "too many queries are waiting", "try again shortly, with fewer queries at once")
        self._waiting.append((self._group.answered_index, run))

    def due(self) -> list[Flow[None]]:
        """Run the reads whose time has come. Returns the journal scans to start now."""
        while self._waiting and self._waiting[0][0] <= self._group.applied_index:
            _, run = self._waiting.popleft()
            scan = run()
            if scan is not None:
                self._scans.append(scan)
        started: list[Flow[None]] = []
        while self._scans and self.scans_active < self._config.query_scans_max:
            self.scans_active += 1
            started.append(self._scans.popleft())
        return started

    def scan_ended(self) -> None:
        self.scans_active -= 1

    def usage(
        self, spec: QuerySpec, answer: Callable[[Answer], None], fail: Callable[[Refused], None]
    ) -> Flow[None] | None:
        """Answer a usage query: at once, or through the flow that is returned."""
        group, index = self._group, self._group.applied_index
        try:
            query = group.state.query(group.catalog.compiled, spec, self._config.query_groups_max)
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
                    query.scan((yield from self._records(stripe)))
                answer(Answer(query.rows(), index))
            except TooManyGroups:
                fail(too_many_groups(self._config.query_groups_max))
            except (Corrupt, ReadFailed) as error:
                fail(unreadable(error))

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
        group = self._group
        end_row = group.state.meta().next_seq
        scan = group.state.events(account, since, until, after, end_row, metric)
        stripes = list(group.archive.select(((since, until + 1),), after + 1, end_row))

        def run() -> Flow[None]:
            found: list[Event] = []
            try:
                for stripe in stripes:
                    found += scan.scan((yield from self._records(stripe)), limit - len(found))
                    if len(found) >= limit:
                        break
                answer(found)
            except (Corrupt, ReadFailed) as error:
                fail(unreadable(error))

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


def start_all(flows: Iterable[Flow[None]], run: Callable[[Flow[None]], None]) -> None:
    for flow in flows:
        run(flow)
