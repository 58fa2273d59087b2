"""What clients want: the writers and readers of a run.

Each is a `Behaviour` of a `Client`. (Administrators are in admin.py,
vandals and subscribers, who are no behaviours of a `Client`, in files of their own.) A writer's budget is a number of requests; it is finished when they are spent
and answered. Who may send what again is decided here, because it depends on what makes an event recognisable:
a session and a batch number, an id in every event, or (v1) a time in every event.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, NamedTuple

import msgpack

from unimeter.sim import codec
from unimeter.sim.events import Metric
from unimeter.sim.line import AnyResponse
from unimeter.sim.prng import Prng
from unimeter.sim.requests import ACKED, REFUSED, UNKNOWN, EventList, Ingest, Query, Request
from unimeter.sim.space import Space

SESSION_UNKNOWN, SESSION_WINDOW, SESSION_SETTLED, SESSIONS_FULL = 6, 7, 8, 9
SESSION_WINDOW_BATCHES: Final = 64
TURNS_BETWEEN_OPENINGS: Final = 4
STALE, AHEAD = 0.04, 0.03  # how often a session sends a settled batch once more, and a number that is too far ahead


class Part(NamedTuple):
    """What everybody in the cast is given."""

    name: str
    space: Space
    prng: Prng
    number: Callable[[], int]  # of the next request, within the run
    budget: int  # of requests


class Base:
    """A budget of requests."""

    protocol = 2

    def __init__(self, part: Part) -> None:
        self.name = part.name
        self.space = part.space
        self.prng = part.prng
        self.number = part.number
        self.budget = part.budget

    @property
    def finished(self) -> bool:
        return self.budget <= 0

    def hurry(self, budget: int) -> None:
        """Come to an end: want only so much more."""
        self.budget = min(self.budget, budget)

    def next(self, now_ns: int) -> Request | None:
        request = self.make()
        if request is not None:
            self.budget -= 1
        return request

    def make(self) -> Request | None:
        raise NotImplementedError

    def answered(self, request: Request, response: AnyResponse) -> str:
        match request:
            case Ingest():
                request.result = codec.ingested(request, response)
            case Query():
                codec.usage(request, response)
            case EventList():
                request.body = msgpack.unpackb(response.payload)
        return ACKED

    def lost(self, request: Request) -> None:
        return None

    def _metrics(self, request_events: list[Any]) -> list[Metric]:
        codes = {event.ident.metric: None for event in request_events}
        return [metric for metric in self.space.metrics if metric.code in codes and metric.alive]


class Writer(Base):
    """Whoever sends events."""

    def __init__(self, part: Part, batch_events_max: int, asynchronous: float) -> None:
        super().__init__(part)
        self.batch_events_max = batch_events_max
        self.asynchronous = asynchronous


class SessionWriter(Writer):
    """Protocol v2 with a session: every batch has a number, and may be sent again for ever."""

    def __init__(self, part: Part, batch_events_max: int, asynchronous: float) -> None:
        super().__init__(part, batch_events_max, asynchronous)
        self.session = (0, 0)
        self.opened = False
        self.opening = False
        self.batch = 0
        self.unanswered: dict[int, None] = {}
        self._durable: list[Ingest] = []  # batches of this session with a sync answer
        self._jumped: set[int] = set()  # numbers that were too far ahead, or were not: no number stands for two batches
        self._rest = 0  # turns to wait before the next attempt to open a session

    def make(self) -> Request | None:
        if not self.opened:
            if self.opening or self._rest > 0:
                self._rest -= 1
                return None
            self.opening = True
            self.session = (self.prng.u64() | 1, self.prng.u64())
            self.batch, self.unanswered, self._durable, self._jumped = 0, {}, [], set()
            self.budget += 1  # opening is not part of the budget
            return Ingest(self.number(), self.name, 2, [], session=self.session, opens=True)
        lowest = min(self.unanswered, default=self.batch + 1)
        if self.batch + 1 >= lowest + SESSION_WINDOW_BATCHES:
            return None
        if self._durable and self._durable[0].batch < lowest and self.prng.chance(STALE):
            return self._copy(self._durable[0], lowest)
        events = self.space.batch(
            self.prng.between(1, self.batch_events_max), v1=False, ids=self.prng.chance(0.3), session=True
        )
        if not events:
            return None
        number, ahead = self.batch + 1, self.batch + SESSION_WINDOW_BATCHES
        if self.batch and self.prng.chance(AHEAD) and ahead not in self._jumped:
            # the newest batch is in its way, as long as that is not settled
            number, lowest = ahead, min(lowest, self.batch)
            self._jumped.add(ahead)
        else:
            self.batch = number
            self.unanswered[number] = None
        return Ingest(
            self.number(),
            self.name,
            2,
            self._metrics(events),
            events=events,
            sync=not self.prng.chance(self.asynchronous),
            verdicts=self.prng.chance(0.7),
            session=self.session,
            batch=number,
            settled_below=lowest,
        )

    def _copy(self, old: Ingest, lowest: int) -> Ingest:
        """A batch that the network kept back for long: it was answered, and the answer settled."""
        return Ingest(
            self.number(),
            self.name,
            2,
            [],
            events=old.events,
            sync=old.sync,
            verdicts=old.verdicts,
            session=old.session,
            batch=old.batch,
            settled_below=lowest,
            stale=True,
        )

    def answered(self, request: Request, response: AnyResponse) -> str:
        super().answered(request, response)
        assert isinstance(request, Ingest) and request.result is not None
        verdict = request.result.session_verdict
        request.repeated = verdict == 1
        if request.opens:
            self.opening = False
            self.opened = verdict == 0
            self._rest = 0 if self.opened else TURNS_BETWEEN_OPENINGS
            return ACKED
        if not request.stale:
            self.unanswered.pop(request.batch, None)
        if verdict == SESSION_UNKNOWN and request.session == self.session:
            self.opened = False  # evicted: go on in a new session
        if request.stale or verdict in (SESSION_WINDOW, SESSION_SETTLED):
            return REFUSED
        if verdict == SESSION_UNKNOWN:
            return UNKNOWN  # an earlier attempt may have been applied before the eviction
        if request.sync and request.session == self.session:
            self._durable.append(request)
        return ACKED

    def lost(self, request: Request) -> None:
        assert isinstance(request, Ingest)
        if request.opens:
            self.opening = False
        self.unanswered.pop(request.batch, None)


class PlainWriter(Writer):
    """Protocol v2 without a session: safe to send again only when every event has an id."""

    def make(self) -> Request | None:
        events = self.space.batch(self.prng.between(1, self.batch_events_max), v1=False, ids=True)
        if self.prng.chance(0.7):
            events = [event for event in events if event.ident.id]
        if not events:
            return None
        return Ingest(
            self.number(),
            self.name,
            2,
            self._metrics(events),
            resend=all(event.ident.id for event in events),
            events=events,
            sync=not self.prng.chance(self.asynchronous),
            verdicts=self.prng.chance(0.7),
        )


class V1Writer(Writer):
    """A published v1 client: recognised by its events' times, where they have one."""

    protocol = 1

    def make(self) -> Request | None:
        events = self.space.batch(self.prng.between(1, self.batch_events_max), v1=True, ids=False)
        if self.prng.chance(0.7):
            events = [event for event in events if event.timestamp_ns]
        if not events:
            return None
        return Ingest(
            self.number(),
            self.name,
            1,
            self._metrics(events),
            resend=all(event.timestamp_ns for event in events),
            events=events,
            sync=not self.prng.chance(self.asynchronous),
        )


class Reader(Base):
    """Asks for usage, and for lists of events."""

    def __init__(self, part: Part, protocol: int) -> None:
        super().__init__(part)
        self.protocol = protocol
        self._asked: list[Query] = []  # the same questions come again and again

    def make(self) -> Request | None:
        metrics = self.space.usable(passing=self.protocol == 2)
        if not metrics:
            return None
        if self._asked and self.prng.chance(0.3):
            old = self.prng.choice(self._asked)
            if old.metric in metrics:
                return replace(old, number=self.number())
        metric = self.prng.choice(metrics)
        account = self.space.account(self.protocol == 1)
        start, end = self.space.range()
        if self.protocol == 2 and self.prng.chance(0.1):
            return EventList(
                self.number(), self.name, 2, [metric], account=account, since=start, until=end,
                metric_code=metric.code if self.prng.chance(0.5) and not metric.passing else None,
                limit=self.prng.choice([1, 5, 1000]),
            )  # fmt: skip
        query = Query(self.number(), self.name, self.protocol, [metric], account=account, start=start, end=end)
        kind = self.prng.below(8)
        if kind == 0:
            query.start = query.end = None
        elif kind <= 2:
            query.group_by = self.space.group_by(metric)
        if (kind >= 5 or (kind == 2 and self.protocol == 2)) and query.start is not None:
            query.filters = self.space.filters(metric)
        self._asked.append(replace(query))
        return query
