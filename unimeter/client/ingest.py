"""Batches on their way: numbered within a session, many in flight, each until its final answer.

Every group has a lane, which owns its current session. A batch waits for a place in the window, gets its number and bytes, and goes
through the exchange. What comes of it is an `Outcome`; `conclude` makes of all the outcomes of a call one result, or
one exception that says everything.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from unimeter.client.batch import Batch
from unimeter.client.connector import Connector
from unimeter.client.exchange import Attempt, Exchange
from unimeter.client.protocol import IngestAnswer, decode_ingest
from unimeter.client.results import VERDICT_SENTENCES, IngestResult, Refusal, Verdict
from unimeter.client.session import WINDOW, Session
from unimeter.errors import (
    EventsRefused,
    IngestIncomplete,
    ProtocolError,
    ServerError,
    SessionLost,
    Unavailable,
    UnimeterError,
)
from unimeter.kernels import protocol as wire
from unimeter.kernels.api import Kernels

_SESSION_UNKNOWN = IngestAnswer(0, 0, 0, 0, 0, Verdict.SESSION_UNKNOWN, ())
_NOTHING = IngestResult()
SESSION_TRIES_MAX = 3  # fresh sessions for one batch that was surely not counted


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one batch: an answer, or an error. `finished`: nothing more will come of it."""

    batch: Batch
    answer: IngestAnswer | None = None
    error: UnimeterError | None = None
    finished: bool = True

    def refusals(self) -> list[Refusal]:
        """Its events that were refused, by their place in the call."""
        if self.answer is None:
            return []
        return [
            Refusal(self.batch.place(index), Verdict(verdict))
            for index, verdict in self.answer.exceptions
            if verdict in VERDICT_SENTENCES
        ]


def decode_answer(payload: bytes, batch: Batch) -> IngestAnswer:
    """What a server says of a batch. ProtocolError: nothing that can be believed."""
    answer = decode_ingest(payload, batch.count)
    if answer.session_verdict == Verdict.SESSION_WINDOW:
        raise ProtocolError("the server's session window is not where it should be")
    return answer


def fresh_session(kernels: Kernels, connector: Connector, random: Random, group: int) -> Session:
    """Not yet opened."""
    window = min(WINDOW, connector.info.session_window) if connector.info else WINDOW
    return Session(kernels, random.getrandbits(128) or 1, window, group if connector.groups > 1 else None)


def settle(session: Session, batch: Batch, outcome: Outcome) -> Outcome | None:
    """What is final of a batch that was sent under a session, which ends if the batch stays in doubt. None: it was refused on its
    only way there, as the session is not known, so it was surely not counted, and a fresh session may take it."""
    unknown = outcome.answer is not None and outcome.answer.session_verdict == Verdict.SESSION_UNKNOWN
    if outcome.finished and not unknown:
        session.settle(batch.number)
        return outcome
    session.retired = True
    if not unknown:
        return outcome
    if batch.sends_unanswered:
        return _lost(batch)
    batch.frame = None
    return None


class Lane:
    """The way of all batches to one group."""

    def __init__(
        self, kernels: Kernels, connector: Connector, exchange: Exchange, random: Random, group: int = 0
    ) -> None:
        self._group = group
        self._kernels = kernels
        self._connector = connector
        self._exchange = exchange
        self._random = random
        self._session: Session | None = None
        self._opening = asyncio.Lock()
        self._waiting: deque[asyncio.Future[None]] = deque()  # batches without a place in the window, oldest first

    async def send(self, batch: Batch, sync: bool, timeout_seconds: float) -> Outcome:
        """See one batch through. Never raises but for ConnectionFailed, or a refused session, before it was sent."""
        for _ in range(SESSION_TRIES_MAX):
            session = await self._admit(batch, sync, timeout_seconds)
            try:
                outcome = await self.see_through(batch, timeout_seconds)
            except BaseException:  # cancelled: its number will never be settled, so the window would jam
                session.retired = True  # new batches go to a fresh one; those of this one keep their numbers and bytes
                self._wake(session)
                raise
            final = settle(session, batch, outcome)
            self._wake(session)
            if final is not None:
                return final
        return _lost(batch)

    async def resend(self, batch: Batch, timeout_seconds: float) -> Outcome:
        """The same bytes again, for a batch that was left unfinished."""
        outcome = await self.see_through(batch, timeout_seconds)
        if outcome.answer and outcome.answer.session_verdict == Verdict.SESSION_UNKNOWN:
            return _lost(batch)
        return outcome

    async def see_through(self, batch: Batch, timeout_seconds: float) -> Outcome:
        """Ask with the bytes it has until there is an answer, whatever that says. Raises nothing."""
        assert batch.frame is not None
        until = asyncio.get_running_loop().time() + timeout_seconds
        attempt = Attempt(batch.request_id, batch.frame, self._group, batch.sends_unanswered)
        try:
            response = await self._exchange.ask(attempt, until)
            attempt.sends_unanswered += 1  # an answer that cannot be read is none
            answer = decode_answer(response.payload, batch)
            attempt.sends_unanswered -= 1
            return Outcome(batch, answer)
        except ServerError as error:
            if error.code == wire.ERROR_SESSION_UNKNOWN:
                return Outcome(batch, _SESSION_UNKNOWN)
            return Outcome(batch, error=error, finished=not isinstance(error, Unavailable))
        except UnimeterError as error:
            return Outcome(batch, error=error, finished=False)
        finally:
            batch.sends_unanswered = attempt.sends_unanswered

    async def _admit(self, batch: Batch, sync: bool, timeout_seconds: float) -> Session:
        """Wait for a place in the window of an open session, and take it."""
        while True:
            session = await self._open_session(timeout_seconds)
            if session.has_room():
                session.admit(batch, self._connector.request_id(), sync)
                return session
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except BaseException:
                self._wake(session)  # the place that it may have been woken for is another's
                raise

    async def _open_session(self, timeout_seconds: float) -> Session:
        session = self._session
        if session is not None and not session.retired:
            return session
        async with self._opening:
            if self._session is not None and not self._session.retired:
                return self._session
            until = asyncio.get_running_loop().time() + timeout_seconds
            await self._connector.link(until)
            session = fresh_session(self._kernels, self._connector, self._random, self._group)
            request_id = self._connector.request_id()
            attempt = Attempt(request_id, session.open(request_id), self._group)
            response = await self._exchange.ask(attempt, until)
            session.opened(decode_ingest(response.payload, 0).session_verdict)
            self._session = session
            return session

    def _wake(self, session: Session) -> None:
        """As many of the waiting as there are places (all, if the session has ended): each looks for itself."""
        places = len(self._waiting) if session.retired else session.room
        while places > 0 and self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                places -= 1


def _lost(batch: Batch) -> Outcome:
    text = "the server no longer knows this session, so it cannot tell whether the batch was counted before"
    return Outcome(batch, error=SessionLost(text, IngestResult(), (), (batch,)), finished=False)


def conclude(outcomes: Sequence[Outcome], unsent: Sequence[Batch] = ()) -> IngestResult:
    """One result of all outcomes of a call, or the exception that says what is missing."""
    result = _NOTHING
    refusals: list[Refusal] = []
    unfinished = [*unsent]
    first_error: UnimeterError | None = None
    is_lost = False
    for outcome in outcomes:
        if outcome.answer is not None and outcome.finished:
            counts = IngestResult(*outcome.answer[:5])
            result = counts if result is _NOTHING else result + counts
            refusals += outcome.refusals()
            continue
        first_error = first_error or outcome.error
        is_lost = is_lost or isinstance(outcome.error, SessionLost)
        if outcome.finished:
            result += IngestResult(refused=outcome.batch.count)
        else:
            unfinished.append(outcome.batch)
    refusals.sort()
    if is_lost:
        text = "the server no longer knows this session, so it cannot tell whether the batches in doubt were counted"
        raise SessionLost(f"{text} ({_events(unfinished)})", result, refusals, unfinished) from first_error
    if unfinished and first_error and result == _NOTHING and not any(b.sends_unanswered for b in unfinished):
        raise first_error  # nothing of the whole call was counted
    if unfinished:
        raise IngestIncomplete(
            f"{_events(unfinished)} without a final answer; client.retry(error) finishes them without counting twice"
            + (f" ({first_error})" if first_error else ""),
            result, refusals, unfinished,
        ) from first_error  # fmt: skip
    if isinstance(first_error, ServerError):
        if len(outcomes) == 1:
            raise first_error
        raise EventsRefused(f"{result.refused} events were refused: {first_error}", result, refusals) from first_error
    if result.conflicts or result.refused:
        raise EventsRefused(describe(result, refusals), result, refusals)
    return result


def describe(result: IngestResult, refusals: Sequence[Refusal]) -> str:
    """Why events were refused: the counts, and the first few by name."""
    total = result.conflicts + result.refused
    named = "; ".join(map(str, refusals[:3])) or "which ones is not known, their answer was lost on the way"
    more = f"; and {len(refusals) - 3} more" if len(refusals) > 3 else ""
    return f"{total} of {total + result.stored + result.duplicates} events were refused: {named}{more}"


def _events(batches: Sequence[Batch]) -> str:
    return f"{sum(batch.count for batch in batches)} events"


__all__ = ["Lane", "Outcome", "conclude", "decode_answer", "describe", "fresh_session", "settle"]
