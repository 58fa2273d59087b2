"""Asking until there is an answer: the retry loop that every request goes through.

A request is a frame of fixed bytes with a number, and mostly for one group. It is sent to that group's leader, and
sent again, as it is, when the connection is lost, when the server pushes back or redirects, and when the connection
has gone silent; with growing, randomly shortened waits in between, in which another node is asked who leads; until
its deadline. Every request of this protocol may be sent twice: queries change nothing, changes to metrics are
idempotent, batches are numbered.

A leader that died or hangs is left as soon as another node says that the group has a new one.
"""

from __future__ import annotations

import asyncio
from random import Random

from unimeter.client.connector import Connector
from unimeter.client.link import Link, LinkLost
from unimeter.client.protocol import Response, Status, decode_error, decode_redirect
from unimeter.client.session import Backoff
from unimeter.errors import (
    ConnectionFailed,
    LeaderChanged,
    OutcomeUnknown,
    ProtocolError,
    RequestTimeout,
    ServerError,
    Unavailable,
)

REDIRECTS_FREE = 3  # redirects followed at once; after that each one waits like any other failure
DAMAGED_MAX = 5  # answers in a row that were no protocol: it will not get better
DOUBT_AFTER_SECONDS = 1.0  # without an answer, in a cluster: is the leader still the leader?
DOUBT_AGAIN_SECONDS = 0.1


class Attempt:
    """What is known of one request on its way: read by whoever must judge what a missing answer means."""

    def __init__(self, request_id: int, frame: bytes, group: int | None = None, sends_unanswered: int = 0) -> None:
        self.request_id = request_id
        self.frame = frame
        self.group = group  # whose leader is to be asked; None: any node
        self.sends_unanswered = sends_unanswered
        self.sends = 0


def is_in_doubt(refusal: ServerError) -> bool:
    """What was refused may have been committed all the same."""
    return isinstance(refusal, (LeaderChanged, OutcomeUnknown))


class Exchange:
    def __init__(self, connector: Connector, random: Random, silence_seconds: float) -> None:
        self._connector = connector
        self._random = random
        self._silence_seconds = silence_seconds  # a link that says nothing for so long while asked is given up

    async def ask(self, attempt: Attempt, until: float) -> Response:
        """The ok answer; a refusal is raised as ServerError (Unavailable: all tries were pushed back until loop time
        `until`, so nothing was done). RequestTimeout, with the last trouble as its cause, when time ran out with an
        answer missing; ConnectionFailed when it could not even be sent."""
        backoff = Backoff(self._random)
        trouble: Exception | None = None
        redirects = damaged = 0
        link: Link | None
        loop = asyncio.get_running_loop()
        while True:
            try:
                link = None
                link = await self._connector.link(until, attempt.group)
                response = await self._ask_once(link, attempt, until)
                if response.status == Status.OK:
                    return response
                if response.status == Status.REDIRECT:
                    address, group = decode_redirect(response.payload)
                    self._connector.redirect(address, attempt.group if group is None else group)
                    trouble = ConnectionFailed(f"redirected to {address}")
                    redirects += 1
                    if redirects <= REDIRECTS_FREE:
                        continue
                elif response.status in (Status.ERROR, Status.BACKPRESSURE):
                    trouble = decode_error(response.payload)
                    if is_in_doubt(trouble):
                        attempt.sends_unanswered += 1
                    elif response.status == Status.ERROR and not isinstance(trouble, Unavailable):
                        raise trouble
                else:
                    raise ProtocolError(f"an answer with the unknown status {response.status}")
            except LinkLost as lost:
                trouble = lost.cause or lost
                damaged = damaged + 1 if isinstance(lost.cause, ProtocolError) else 0
                if damaged >= DAMAGED_MAX and lost.cause is not None:
                    raise lost.cause from None
            except ConnectionFailed as failed:
                if attempt.sends == 0 and attempt.sends_unanswered == 0:
                    raise
                trouble = trouble or failed
            except TimeoutError as error:
                raise _timeout(trouble or error) from trouble
            wait_seconds = backoff.wait_seconds()
            if loop.time() + wait_seconds >= until:
                if isinstance(trouble, Unavailable) and not attempt.sends_unanswered:
                    raise trouble
                raise _timeout(trouble) from trouble
            await asyncio.gather(asyncio.sleep(wait_seconds), self._connector.refresh(until, link))

    async def _ask_once(self, link: Link, attempt: Attempt, until: float) -> Response:
        asking = link.start(attempt.request_id, attempt.frame)
        attempt.sends += 1
        attempt.sends_unanswered += 1
        vigil = Vigil(self._connector, link, attempt, asking, until, self._silence_seconds)
        vigil.look()
        try:
            response = await asking
        finally:
            vigil.end()
        attempt.sends_unanswered -= 1
        return response


class Vigil:
    """Looks after a request that waits for its answer, from time to time: it costs a timer, and nothing while all goes well."""

    def __init__(
        self,
        connector: Connector,
        link: Link,
        attempt: Attempt,
        asking: asyncio.Future[Response],
        until: float,
        silence_seconds: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._connector = connector
        self._link = link
        self._attempt = attempt
        self._asking = asking
        self._until = until
        self._silence_seconds = silence_seconds
        self._asked_at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def look(self) -> None:
        """Is there still hope? If not, the request is told why, or its link is given up."""
        if self._asking.done():
            return
        try:
            self._look()
        except Exception as error:  # in a timer nobody else would hear of it
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self._asking.done():
            self._asking.set_exception(error)

    def _look(self) -> None:
        now, link = self._loop.time(), self._link
        quiet_since = max(self._asked_at, link.heard_at)
        look_again_at = quiet_since + self._silence_seconds
        if now >= self._until:
            self._fail(TimeoutError())
            return
        if now >= look_again_at:
            link.abort(ConnectionFailed(f"{link.address} was silent for {self._silence_seconds:g} seconds"))
        elif self._connector.is_cluster:
            doubt_at = self._asked_at + DOUBT_AFTER_SECONDS
            if now >= doubt_at:
                if self._is_left(now >= quiet_since + DOUBT_AFTER_SECONDS):
                    return
                doubt_at = now + DOUBT_AGAIN_SECONDS
            look_again_at = min(look_again_at, doubt_at)
        self._timer = self._loop.call_at(max(now + 0.001, min(self._until, look_again_at)), self.look)

    def _is_left(self, is_silent: bool) -> bool:
        """An answer is overdue: leave, if another node leads the group by now. A link that has other answers to
        give is kept for them."""
        link = self._link
        if not self._connector.suspect(link, self._attempt.group, is_silent):
            return False
        reason = ConnectionFailed(f"{link.address} does not answer, and another node leads its group now")
        if is_silent:
            link.abort(reason)
        self._fail(LinkLost(link.address, reason))
        return True

    def end(self) -> None:
        """Nobody waits any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._asking.cancel()


def _timeout(trouble: Exception | None) -> RequestTimeout:
    if isinstance(trouble, ServerError):
        return RequestTimeout(f"not served in time: {trouble}")
    reason = f": {trouble}" if trouble is not None and str(trouble) else ""
    return RequestTimeout(f"no answer in time{reason}")
