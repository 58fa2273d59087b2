"""Everything that Unimeter raises on purpose.

    UnimeterError
    ├── InvalidArgument (also ValueError)      refused here, before anything was sent
    ├── ConnectionFailed (also ConnectionError) no server could be reached in time
    ├── RequestTimeout (also TimeoutError)     a query or metric request without an answer in time
    ├── ProtocolError                          the other side does not speak the protocol
    ├── ClientClosed                           the client was closed while, or before, it was asked
    ├── IngestError                            an ingest call that did not store everything
    │   ├── EventsRefused                      every event has its verdict, some are not stored
    │   ├── IngestIncomplete (also TimeoutError) time ran out; `client.retry(error)` finishes it, exactly once
    │   └── SessionLost                        the server no longer knows the session: batches are in doubt
    └── ServerError                            the server said no: `code`, `message`, `fix`
        ├── BadRequest                         bad_request
        ├── UnknownMetric                      unknown_metric
        ├── MetricConflict                     metric_conflict
        ├── UnknownDimension                   unknown_dimension
        ├── TooLarge                           too_large
        ├── Unsupported                        unsupported
        ├── InternalError                      internal
        ├── OutcomeUnknown                     outcome_unknown
        ├── NotMember                          not_member
        └── Unavailable                        try again later (the clients do, until their timeout)
            ├── Overloaded                     overloaded
            ├── DiskFull                       disk_full
            ├── Starting                       starting
            ├── NoLeader                       no_leader
            └── LeaderChanged                  leader_changed

A duplicate is not an error: it is counted in the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unimeter.client.batch import Batch
    from unimeter.client.results import IngestResult, Refusal


class UnimeterError(Exception):
    """Everything below."""


class InvalidArgument(UnimeterError, ValueError):
    """What was asked for cannot be right, whatever the server says. Nothing was sent."""


class ConnectionFailed(UnimeterError, ConnectionError):
    """No server could be reached in time. Nothing of this request was sent."""


class RequestTimeout(UnimeterError, TimeoutError):
    """No answer in time. Queries may be repeated freely; so may changes to metrics (the same change again is fine)."""


class ProtocolError(UnimeterError):
    """What arrived is not the protocol, version 2: another kind of server, or damaged bytes."""


class ClientClosed(UnimeterError):
    """The client was closed."""


class IngestError(UnimeterError):
    """An ingest call that did not store everything.

    `result` counts what is known; `refusals` names the events that were refused, by their place in the call;
    `unfinished` holds the batches without a final answer, as they were sent.
    """

    def __init__(
        self,
        message: str,
        result: IngestResult,
        refusals: Sequence[Refusal] = (),
        unfinished: Sequence[Batch] = (),
    ) -> None:
        super().__init__(message)
        self.result = result
        self.refusals = tuple(refusals)
        self.unfinished = tuple(unfinished)


class EventsRefused(IngestError):
    """Some events are not stored and will not be, as they are. All others are stored."""


class IngestIncomplete(IngestError, TimeoutError):
    """Time ran out before every batch had its answer. `client.retry(error)` sends the unfinished batches again as
    the same bytes, so that nothing counts twice; calling `ingest` again with events without ids might."""


class SessionLost(IngestError):
    """The server no longer knows this client's session (it was idle too long, or its table was full), so it cannot
    tell whether the unfinished batches were counted before. Compare with a query, or use event ids."""


class ServerError(UnimeterError):
    """The server said no. `code` is stable, `message` says what is wrong, `fix` what to do about it."""

    code = "internal"

    def __init__(self, message: str, fix: str = "", code: str | None = None) -> None:
        super().__init__(f"{message} ({fix})" if fix else message)
        self.message = message
        self.fix = fix
        if code is not None:
            self.code = code


class BadRequest(ServerError):
    code = "bad_request"


class UnknownMetric(ServerError):
    code = "unknown_metric"


class MetricConflict(ServerError):
    code = "metric_conflict"


class UnknownDimension(ServerError):
    code = "unknown_dimension"


class TooLarge(ServerError):
    code = "too_large"


class Unsupported(ServerError):
    code = "unsupported"


class InternalError(ServerError):
    code = "internal"


class OutcomeUnknown(ServerError):
    """The answer of the group's leader is missing: events may be stored, or may not. Batches of the SDK are numbered and
    are simply sent again, so that none of them ends like this."""

    code = "outcome_unknown"


class NotMember(ServerError):
    """The node that is named, or was asked, does not belong to the cluster."""

    code = "not_member"


class Unavailable(ServerError):
    """Nothing is wrong with the request; it may be repeated later."""

    code = "unavailable"


class Overloaded(Unavailable):
    code = "overloaded"


class DiskFull(Unavailable):
    code = "disk_full"


class Starting(Unavailable):
    code = "starting"


class NoLeader(Unavailable):
    """The group has no leader now: an election is running, or too few of its nodes can reach each other."""

    code = "no_leader"


class LeaderChanged(Unavailable):
    """The group's leader changed before the request was committed. It may or may not be done; a numbered batch, or a
    change of a metric, is simply sent again."""

    code = "leader_changed"


_BY_CODE: dict[str, type[ServerError]] = {
    kind.code: kind
    for kind in (
        BadRequest, UnknownMetric, MetricConflict, UnknownDimension, TooLarge, Unsupported, InternalError,
        OutcomeUnknown, NotMember, Overloaded, DiskFull, Starting, NoLeader, LeaderChanged,
    )
}  # fmt: skip


def server_error(code: str, message: str, fix: str = "") -> ServerError:
    """The exception for an error answer; an unknown code is a plain ServerError that carries it."""
    return _BY_CODE.get(code, ServerError)(message, fix, code)
