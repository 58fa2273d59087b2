"""The facts of a run: what was asked and answered, and, at its end, the log as the node itself lists it.

Nothing here looks inside a node. The order of the log is known from the sequence numbers in the answers and in
the event lists; what a query had to see and could not have seen follows from when things were sent and answered:

    floor    every event up to the greatest sequence number that anyone had been told of when the query was sent
    ceiling  no event that was sent after the query was answered

A query is right if it equals the oracle at some place of the log between the two.

Each group has a log of its own, with sequence numbers of its own. Here an event's `seq` is its *place* (places.py):
group and sequence number in one, so that everything below speaks of one log where it compares, and of all where it counts.
An answer's offset is a sequence number only in a cluster of one group; with several it is a stamp, and what was stored
where follows from the lists alone.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Final

from unimeter.sim.events import NO_SUCH_METRIC, OPERATION_NAMES, Account, Event, Ident, Metric, Stored
from unimeter.sim.places import Places, group_at, place
from unimeter.sim.requests import ACKED, EventList, Ingest, Query, Request

NEVER_NS: Final = 1 << 62


class Ledger:
    def __init__(self, places: Places) -> None:
        self.places = places
        self.requests: list[Request] = []
        self.ingests: list[Ingest] = []
        self.queries: list[Query] = []
        self.event_lists: list[EventList] = []
        self.by_ident: dict[Ident, list[Ingest]] = {}
        self.forbidden: dict[Ident, None] = {}  # events of malformed requests
        self.log: list[Stored] = []
        self.owner: dict[int, Ingest] = {}  # sequence number -> the request that most likely put it there
        self._stored_from_ns: dict[
            int, int
        ] = {}  # sequence number -> when its request was first sent, where that is sure
        self.alerts: list[dict[str, Any]] = []
        self.definitions: list[list[dict[str, Any]]] = []  # the metric lists that were given at the end
        self._order: Order | None = None  # of this log
        self._logged: dict[int, int] = {}  # request -> how many of its events get a place, if they are stored
        self.pushed: dict[str, list[dict[str, Any]]] = {}  # subscriber -> the alerts that it was told of

    def sent(self, request: Request) -> None:
        self.requests.append(request)
        if isinstance(request, Ingest):
            self.ingests.append(request)
            for event in () if request.stale else request.events:  # a copy is no reason for anything to be in the log
                owners = self.by_ident.setdefault(event.ident, [])
                if request not in owners:
                    owners.append(request)
        elif isinstance(request, Query):
            self.queries.append(request)
        elif isinstance(request, EventList):
            self.event_lists.append(request)

    # ---- the end of the run ----

    def set_log(self, listed: dict[Account, list[dict[str, Any]]]) -> None:
        """Put the event lists of all accounts together."""
        log = [self.stored(row) for rows in listed.values() for row in rows]
        self.log = sorted(log)
        self.owner, self._stored_from_ns, self._order = {}, {}, None
        for event in self.log:
            owner = self._owner(event)
            if owner is not None:
                self.owner[event.seq] = owner
                if self.took(owner, event.seq):
                    self._stored_from_ns[event.seq] = owner.first_sent_ns

    def stored(self, row: dict[str, Any]) -> Stored:
        """An event of a v2 event list."""
        ident = Ident(
            row["account"],
            row["metric"],
            row["value"],
            OPERATION_NAMES.index(row["operation"]),
            row["id"] or "",
            tuple(sorted(row["properties"].items())),
        )
        return Stored(place(self.places.group_of(ident.account), row["seq"]), row["timestamp"], ident)

    def took(self, request: Ingest, where: int) -> bool:
        """Is this one of the places that the request was told to have? (Nobody is told with several groups.)"""
        low, high = self.span(request)
        return low < where <= high

    def span(self, request: Ingest) -> tuple[int, int]:
        """The sequence numbers that an answered request took: (after, up to)."""
        if request.state != ACKED or request.result is None or self.places.groups > 1:
            return 0, 0
        logged = self._logged.get(request.number)
        if logged is None:
            logged = sum(event.ident.metric != NO_SUCH_METRIC for event in request.events)
            self._logged[request.number] = logged
        return request.result.last_offset - logged, request.result.last_offset

    def _owner(self, event: Stored) -> Ingest | None:
        candidates = self.by_ident.get(event.ident, [])
        for request in candidates:
            if self.took(request, event.seq):
                return request
        doubtful = [request for request in candidates if request.state != ACKED or not request.sync]
        return doubtful[0] if doubtful else candidates[0] if candidates else None

    def first_sent_ns(self, event: Stored) -> int:
        """When it was sent for the first time; NEVER for an event that nobody sent."""
        return min((request.first_sent_ns for request in self.by_ident.get(event.ident, [])), default=NEVER_NS)

    def stored_from_ns(self, event: Stored) -> int:
        """When the request was first sent that most likely put it there (the same event may have been sent before)."""
        known = self._stored_from_ns.get(event.seq)
        return self.first_sent_ns(event) if known is None else known

    def order(self) -> Order:
        """At the end of the run, when nothing is answered any more."""
        if self._order is None:
            self._order = Order(self)
        return self._order


def surely_stored(request: Ingest) -> bool:
    """Was its sender told, once for all, that every event of it is in the log?"""
    told = request.result
    return request.state == ACKED and request.sync and told is not None and not told.refused and not told.conflicts


class Order:
    """When things became known, turned into places in the logs."""

    def __init__(self, ledger: Ledger) -> None:
        acked: dict[int, list[tuple[int, int]]] = {group: [] for group in range(ledger.places.groups)}
        sent: dict[int, list[tuple[int, int]]] = {group: [] for group in range(ledger.places.groups)}
        if ledger.places.groups == 1:
            for request in ledger.ingests:
                if request.state == ACKED and request.result is not None and request.sync:
                    acked[0].append((request.answered_ns, request.result.last_offset))
        else:
            seen: set[Ident] = set()
            for event in ledger.log:
                if event.ident not in seen:  # the first of several equal ones is what an acknowledged request speaks of
                    seen.add(event.ident)
                    told = [r.answered_ns for r in ledger.by_ident.get(event.ident, []) if surely_stored(r)]
                    if told:
                        acked[group_at(event.seq)].append((min(told), event.seq))
        for event in ledger.log:
            candidates = ledger.by_ident.get(event.ident, [])
            # an async answer is no promise, but if the batch got the place that it was told ... (of several nodes, another
            # leader may have given it that place, later)
            sole = len(candidates) == 1 and len(ledger.places.addresses) == 1
            if sole and not candidates[0].sync and ledger.took(candidates[0], event.seq):
                acked[0].append((candidates[0].answered_ns, event.seq))
            if candidates:
                sent[group_at(event.seq)].append((-ledger.first_sent_ns(event), -event.seq))
        self._acked = {group: running_max(points) for group, points in acked.items()}
        self._sent = {group: running_max(points) for group, points in sent.items()}

    def floor(self, group: int, sent_ns: int) -> int:
        """Greatest place in a group's log that was known to someone before this time."""
        times, places = self._acked[group]
        at = bisect_left(times, sent_ns)
        return places[at - 1] if at else 0

    def ceiling(self, group: int, answered_ns: int) -> int:
        """Greatest place of a group's log below all events that were sent after this time."""
        times, places = self._sent[group]
        at = bisect_left(times, -answered_ns)
        return -places[at - 1] - 1 if at else NEVER_NS


def running_max(points: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Sorted times, and the greatest number up to each."""
    points.sort()
    times, numbers, best = [], [], -NEVER_NS
    for time_ns, number in points:
        best = max(best, number)
        times.append(time_ns)
        numbers.append(best)
    return times, numbers


def may_be_stored(ledger: Ledger, ident: Ident) -> int:
    """How often an event may be in the log at most, whatever was sent how often."""
    times = 0
    for request in ledger.by_ident.get(ident, []):
        here = sum(event.ident == ident for event in request.events)
        if ident.id:
            times = 1
        elif request.protocol == 1 and all(e.timestamp_ns for e in request.events if e.ident == ident):
            times = max(times, here)  # a resent v1 event is recognised, two in one request are two
        else:
            times += here
    return times


class Series:
    """The log by account and metric. A code that was deleted and created anew is another metric: nobody used it
    meanwhile, so the time at which an event was sent tells in which life it was counted."""

    def __init__(self, ledger: Ledger, metrics: list[Metric]) -> None:
        self._ledger = ledger
        self._by_code: dict[tuple[Account, str], list[Stored]] = {}
        for event in ledger.log:
            self._by_code.setdefault((event.ident.account, event.ident.metric), []).append(event)
        self.keys: list[tuple[Account, Metric]] = []
        for account, code in sorted(self._by_code, key=str):
            self.keys += [(account, m) for m in metrics if m.code == code and m.known and self.of(account, m)]

    def of(self, account: Account, metric: Metric) -> list[Stored]:
        events = self._by_code.get((account, metric.code), [])
        if not metric.passing:
            return events
        until_ns = NEVER_NS if metric.died_ns is None else metric.died_ns
        return [event for event in events if metric.born_ns <= self._ledger.stored_from_ns(event) < until_ns]


def tagged(events: list[Event]) -> list[Ident]:
    return [event.ident for event in events]


def place_of(metric: Metric, time_ns: int, ledger: Ledger, group: int) -> int:
    """The place in a group's log from which on a change of a metric counts that was sent at this time: nobody used the
    metric meanwhile, so all of its events before were sent earlier."""
    if time_ns < 0:
        return 0
    earlier = (
        event.seq
        for event in ledger.log
        if event.ident.metric == metric.code and group_at(event.seq) == group and ledger.stored_from_ns(event) < time_ns
    )
    return max(earlier, default=0) + 1


def added_at(metric: Metric, ledger: Ledger, group: int) -> dict[str, int]:
    """From which place on each dimension counts that was added later."""
    return {key: place_of(metric, time_ns, ledger, group) for key, time_ns in metric.added_dimension_at.items()}
