"""What a client wants from a node, and what became of it: the facts that the invariants judge.

A request lives until it is answered for good or given up. An ingest request that was given up (its connection
broke, and sending it again could count it twice) is UNKNOWN: it may be in the log or not, and both are right.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from unimeter.sim import wire1, wire2
from unimeter.sim.events import Account, Event, Metric
from unimeter.sim.places import Places

if TYPE_CHECKING:
    from unimeter.sim.line import Line

OPEN, ACKED, REFUSED, UNKNOWN = "open", "acked", "refused", "unknown"


@dataclass(eq=False)
class Request:
    """Common to all. `resend`: sending it again is harmless."""

    number: int  # in the run
    client: str
    protocol: int
    metrics: list[Metric]
    resend: bool = True
    state: str = OPEN
    attempts: int = 0
    first_sent_ns: int = -1
    sent_ns: int = -1  # the latest attempt
    answered_ns: int = -1
    error: str = ""  # code of the refusal
    answers: int = 0
    redirects: int = 0
    to: str = ""  # an address, when only this node is to be asked
    line: Line | None = None  # the latest attempt went over it
    waits_for: Line | None = None  # to be opened, for the next attempt

    def describe(self) -> str:
        return f"{type(self).__name__} #{self.number} of {self.client} (v{self.protocol})"


@dataclass(eq=False)
class Ingest(Request):
    events: list[Event] = field(default_factory=list)
    sync: bool = True
    verdicts: bool = False
    session: tuple[int, int] = (0, 0)
    batch: int = 0  # number in the session
    settled_below: int = 0
    opens: bool = False
    result: wire2.Result | None = None  # v1 answers are brought into this shape
    repeated: bool = False  # the result is the first answer of a session, given again
    stale: bool = False  # a copy of an earlier batch, which must not count whatever it is told

    @property
    def in_session(self) -> bool:
        return self.session != (0, 0)


@dataclass(eq=False)
class Query(Request):
    account: Account = 0
    start: int | None = None  # None: the current period
    end: int | None = None
    filters: dict[str, list[str]] = field(default_factory=dict)
    group_by: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)  # as in protocol v2, whatever was spoken
    index: int = -1
    final: bool = False  # asked when everything had come to rest

    @property
    def metric(self) -> Metric:
        return self.metrics[0]


@dataclass(eq=False)
class EventList(Request):
    account: Account = 0
    since: int = 0
    until: int = 2**63 - 2
    metric_code: str | None = None
    after: int = 0
    limit: int = 1000
    body: dict[str, Any] = field(default_factory=dict)
    final: bool = False


@dataclass(eq=False)
class Control(Request):
    """Anything else: a v2 type with a body, or a v1 type with a payload."""

    type: int = 0
    body: dict[str, Any] = field(default_factory=dict)
    payload: bytes = b""
    answer: Any = None


RETRY_LATER: Final = ("starting", "overloaded", "disk_full", "no_leader")  # nothing of the request was taken
UNSURE: Final = ("leader_changed", "outcome_unknown")  # perhaps it was


def groups_of(request: Request, places: Places) -> list[int]:
    """The groups that an answer needs, ascending."""
    if places.groups == 1:
        return [0]
    match request:
        case Ingest() if request.events:
            return sorted({places.group_of(event.ident.account) for event in request.events})
        case Query() | EventList():
            return [places.group_of(request.account)]
        case Control() if "group" in request.body:
            return [request.body["group"]]
    return list(range(places.groups))


def v1_type(request: Request) -> int:
    match request:
        case Ingest():
            return wire1.INGEST_SYNC if request.sync else wire1.INGEST_ASYNC
        case Query():
            return wire1.BREAKDOWN if request.group_by else wire1.REALTIME if request.start is None else wire1.USAGE
        case Control():
            return request.type
    raise AssertionError(f"{request.describe()} does not exist in v1")
