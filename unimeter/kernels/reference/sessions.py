"""Exactly once per session: numbered batches, and the first answer to each of the last 64.

A client says which numbers it will never ask for again (`settled_below`); of the others a session remembers
the answers in 64 slots, number modulo 64. A batch whose slot still holds an unsettled older number is refused
(the client has more than 64 batches in flight), as is one of a session that is not known.
"""

from __future__ import annotations

from unimeter.kernels import layout as lay
from unimeter.kernels.layout import BatchHead
from unimeter.kernels.reference.records import Result, Session
from unimeter.kernels.reference.state import State


def open_session(state: State, batch: BatchHead, stamp_ns: int) -> int:
    """Returns 0, or UM_V_SESSIONS_FULL."""
    key = batch.session_hi, batch.session_lo
    number = state.session_numbers.get(key)
    if number is not None:
        state.sessions[number].last_stamp_ns = stamp_ns
        return 0
    session = Session(*key, settled_below=1, last_stamp_ns=stamp_ns)
    if state.room(lay.UM_R_SESSIONS):
        number = len(state.sessions)
        state.sessions.append(session)
    else:
        number = _idle(state, stamp_ns)
        if number is None:
            return lay.UM_V_SESSIONS_FULL
        old = state.sessions[number]
        del state.session_numbers[old.id_hi, old.id_lo]
        state.sessions[number] = session
        state.meta.sessions_evicted += 1
    state.session_numbers[key] = number
    state.meta.sessions_opened += 1
    return 0


def _idle(state: State, stamp_ns: int) -> int | None:
    """The session that has been idle longest, if any has been for long enough."""
    idle = [
        (session.last_stamp_ns, number)
        for number, session in enumerate(state.sessions)
        if stamp_ns - session.last_stamp_ns > state.limits.session_idle_ns
    ]
    return min(idle)[1] if idle else None


class Numbered:
    """What a session says about one of its batches."""

    def __init__(self, state: State, batch: BatchHead, stamp_ns: int) -> None:
        self.batch = batch
        self.first: Result | None = None  # the first answer, when verdict is UM_V_DUPLICATE
        number = state.session_numbers.get((batch.session_hi, batch.session_lo))
        self.session = None if number is None else state.sessions[number]
        self.verdict = self._verdict(stamp_ns)

    def _verdict(self, stamp_ns: int) -> int:
        """0 for a batch that is to be applied now, else UM_V_*."""
        if self.session is None:
            return lay.UM_V_SESSION_UNKNOWN
        number, settled_before = self.batch.number, self.session.settled_below
        self.session.settled_below = max(settled_before, self.batch.settled_below)
        self.session.last_stamp_ns = stamp_ns
        if number < settled_before:
            return lay.UM_V_SESSION_SETTLED
        slot = self.session.results[number % lay.UM_SESSION_WINDOW]
        if slot.number == number:
            self.first = slot
            return lay.UM_V_DUPLICATE
        if slot.number > number or (slot.number and slot.number >= self.session.settled_below):
            return lay.UM_V_SESSION_WINDOW
        return 0

    def remember(self, result: Result) -> None:
        assert self.session is not None
        self.session.results[self.batch.number % lay.UM_SESSION_WINDOW] = result
        self.session.highest = max(self.session.highest, self.batch.number)
