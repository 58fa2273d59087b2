"""A client session: what makes a retry harmless.

A session is a random 128-bit name under which batches are numbered 1, 2, 3, ... A server remembers, per session, the
numbers it has applied with their results, so a batch that is sent twice counts once and gets its first answer twice.
Server memory is bounded by a window: number N may be sent once N - 64 and everything before it is settled, that is,
has had its final answer here. Each batch carries `settled_below` as it was when the batch got its number.

    open()  -> the OPEN request; numbers are given out once it was answered
    admit() -> a number and a frame for a batch, if the window has room
    settle() -> the batch has its final answer

A session lives in the group that its batches go to: with several groups a client keeps one for each.

A session is never opened twice: if the server has forgotten it, a batch that may have been counted under it must not
be counted again under a fresh one. `retire()` ends a session with batches that stay in doubt; they keep their
frames and may still be sent again, while new batches go to the next session.
"""

from __future__ import annotations

from random import Random

from unimeter.client.batch import Batch
from unimeter.client.protocol import Type, encode_batch, encode_open_session, encode_request
from unimeter.client.results import Verdict
from unimeter.errors import Overloaded, ProtocolError
from unimeter.kernels import protocol as wire
from unimeter.kernels.api import Kernels

WINDOW = wire.SESSION_WINDOW


class Session:
    def __init__(self, kernels: Kernels, id: int, window: int = WINDOW, group: int | None = None) -> None:
        assert 0 < id < 2**128
        assert 0 < window <= WINDOW
        self.id = id
        self.is_open = False
        self.retired = False
        self._kernels = kernels
        self._window = window
        self._group = group  # None: the only one there is
        self._next = 1
        self._settled_below = 1
        self._settled: set[int] = set()  # numbers above settled_below that are settled already

    @property
    def settled_below(self) -> int:
        return self._settled_below

    @property
    def in_flight(self) -> int:
        return self._next - self._settled_below - len(self._settled)

    @property
    def room(self) -> int:
        """How many batches may be admitted now."""
        return self._settled_below + self._window - self._next

    def has_room(self) -> bool:
        return self.room > 0

    def open(self, request_id: int) -> bytes:
        """The request that opens this session."""
        assert not self.is_open
        return encode_request(self._kernels, Type.INGEST, request_id, encode_open_session(self.id), group=self._group)

    def opened(self, verdict: int) -> None:
        """Its request to open was answered. Overloaded, or ProtocolError: with a refusal."""
        if verdict == Verdict.SESSIONS_FULL:
            raise Overloaded("the server has no room for another session", "raise --memory-max, or reuse clients")
        if verdict not in (Verdict.STORED, Verdict.DUPLICATE):
            raise ProtocolError(f"a session could not be opened (verdict {verdict})")
        self.is_open = True

    def admit(self, batch: Batch, request_id: int, sync: bool) -> None:
        """Give the batch its number and its bytes, once."""
        assert self.is_open
        assert not self.retired
        assert self.has_room()
        assert batch.frame is None
        batch.number = self._next
        self._next += 1
        batch.request_id = request_id
        payload = encode_batch(batch, self.id, self._settled_below)
        flags = wire.V2_FLAG_INGEST_VERDICTS | (0 if sync else wire.V2_FLAG_INGEST_ASYNC)
        batch.frame = encode_request(self._kernels, Type.INGEST, request_id, payload, flags, group=self._group)

    def settle(self, number: int) -> None:
        """This number has its final answer."""
        assert self._settled_below <= number < self._next
        assert number not in self._settled
        if number != self._settled_below:
            self._settled.add(number)
            return
        self._settled_below += 1
        while self._settled_below in self._settled:
            self._settled.remove(self._settled_below)
            self._settled_below += 1

    def _check(self) -> None:
        assert self._settled_below <= self._next <= self._settled_below + self._window
        assert all(self._settled_below < number < self._next for number in self._settled)


class Backoff:
    """Waits that double up to a bound, each shortened at random so that many clients do not come back at once."""

    def __init__(self, random: Random, first_seconds: float = 0.02, max_seconds: float = 0.25) -> None:
        self._random = random
        self._next_seconds = first_seconds
        self._max_seconds = max_seconds

    def wait_seconds(self) -> float:
        bound = self._next_seconds
        self._next_seconds = min(bound * 2, self._max_seconds)
        return bound * (0.5 + self._random.random() / 2)
