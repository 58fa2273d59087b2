"""The short way of a blocking call: the thread that calls sends its request, and waits for the answer, on a connection of its own.

The loop's way costs two wake-ups of a thread, a task and half a dozen futures for each request: three times what all the
rest of a call costs. It is needed for what may go wrong, which is rare. So a request is tried here, once, where everything
is in place: a connection to the node that is to be asked and, for events, a session with room. Whatever else comes, the
loop's way takes over with the same bytes, which counts nothing twice, and with what is known of their fate.

    links      up to LINKS_PER_NODE_MAX for each node, one request at a time on each; who finds none free goes the loop's way
    sessions   one for each group, apart from the loop's: any thread gets a number from it, under the lock

A client that is asked little needs no second connection: its first CALLS_FIRST calls go the loop's way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from random import Random

from unimeter.client.batch import Batch
from unimeter.client.blocking import BlockingLink
from unimeter.client.connector import Connector
from unimeter.client.exchange import DOUBT_AFTER_SECONDS, is_in_doubt
from unimeter.client.ingest import Outcome, decode_answer, fresh_session, settle
from unimeter.client.link import LinkLost
from unimeter.client.protocol import Response, Status, Type, decode_error, decode_ingest, encode_request
from unimeter.client.session import Session
from unimeter.errors import Overloaded, ProtocolError, UnimeterError
from unimeter.kernels.api import Kernels

CALLS_FIRST = 8
LINKS_PER_NODE_MAX = 8
CONNECT_SECONDS_MAX = 0.25
ANSWER_IN_A_CLUSTER_SECONDS_MAX = DOUBT_AFTER_SECONDS / 2  # another node may lead by now: the loop's way finds out
SHUN_SECONDS = 1.0  # for so long nothing is tried again that has just failed

Otherwise = Callable[[Batch, float], Outcome]


class Shortcut:
    """`silence_seconds`: a node that has said nothing for so long is not waited for any longer."""

    def __init__(self, kernels: Kernels, connector: Connector, random: Random, silence_seconds: float) -> None:
        self._kernels = kernels
        self._connector = connector
        self._random = random
        self._silence_seconds = silence_seconds
        self._lock = threading.Lock()  # of all that follows; nobody waits for anything else while holding it
        self._closed = False
        self._calls = 0
        self._links: dict[str, set[BlockingLink]] = {}  # by address: all there are
        self._free: dict[str, list[BlockingLink]] = {}  # by address: those that nobody uses
        self._sessions: dict[int, Session] = {}
        self._shunned: dict[str | int, float] = {}  # address, or group whose session was refused -> until when
        self._opening: set[int] = set()  # groups whose session is being opened

    def ask(self, type: Type, payload: bytes, group: int | None, seconds: float) -> Response | None:
        """The ok answer to a request that changes nothing. None: there is none this way."""
        link = self._take(group, seconds)
        if link is None:
            return None
        request_id = self._connector.request_id()
        try:
            response = self._once(link, request_id, encode_request(self._kernels, type, request_id, payload), seconds)
        finally:
            self._give(link)
        return response if response is not None and response.status == Status.OK else None

    def send(self, batch: Batch, sync: bool, seconds: float, otherwise: Otherwise) -> Outcome:
        """See one batch through. `otherwise` is the loop's way: for a batch that has no bytes yet, or goes on with those
        that it was given here. It is told how many seconds are left."""
        until = time.monotonic() + seconds
        link = self._take(batch.group, seconds)
        session = None
        if link is not None:
            try:
                session = self._admit(link, batch, sync, seconds)
                outcome = self._try(link, batch, seconds) if session is not None else None
            except BaseException:  # interrupted: its number will never be settled
                self._retire(session)
                raise
            finally:
                self._give(link)
        if session is None:
            return otherwise(batch, until - time.monotonic())
        if outcome is None:
            outcome = self._see_through(session, batch, until, otherwise)
        with self._lock:
            final = settle(session, batch, outcome)
        return final if final is not None else otherwise(batch, until - time.monotonic())

    def _try(self, link: BlockingLink, batch: Batch, seconds: float) -> Outcome | None:
        """None: it is for the loop's way to find out what becomes of it; `batch` says whether it may have been counted."""
        assert batch.frame is not None
        batch.sends_unanswered += 1
        response = self._once(link, batch.request_id, batch.frame, seconds)
        outcome = None
        if response is not None:
            try:
                if response.status == Status.OK:
                    outcome = Outcome(batch, decode_answer(response.payload, batch))
                elif response.status != Status.REDIRECT and is_in_doubt(decode_error(response.payload)):
                    return None
                batch.sends_unanswered -= 1
            except ProtocolError:
                pass  # an answer that cannot be read is none
        return outcome

    def _see_through(self, session: Session, batch: Batch, until: float, otherwise: Otherwise) -> Outcome:
        try:
            return otherwise(batch, until - time.monotonic())
        except UnimeterError as error:  # the client was closed meanwhile
            return Outcome(batch, error=error, finished=False)
        except BaseException:
            self._retire(session)
            raise

    def _once(self, link: BlockingLink, request_id: int, frame: bytes, seconds: float) -> Response | None:
        """Ask. None: the link was lost, and with it the others to that address that nobody uses."""
        limit = ANSWER_IN_A_CLUSTER_SECONDS_MAX if self._connector.is_cluster else self._silence_seconds
        try:
            return link.ask(request_id, frame, min(limit, seconds))
        except LinkLost:
            with self._lock:
                self._shunned[link.address] = time.monotonic() + SHUN_SECONDS
                idle = self._free.pop(link.address, [])
            for lost in (link, *idle):
                self._drop(lost)
            return None
        except BaseException:
            self._drop(link)
            raise

    # ---- sessions ----

    def _admit(self, link: BlockingLink, batch: Batch, sync: bool, seconds: float) -> Session | None:
        """The session in which the batch has got its number and bytes. None: there is none with room now."""
        session = self._sessions.get(batch.group)
        if session is None or session.retired:
            session = self._open(link, batch.group, seconds)
        with self._lock:
            if session is None or session.retired or not session.has_room():
                return None
            session.admit(batch, self._connector.request_id(), sync)
            return session

    def _open(self, link: BlockingLink, group: int, seconds: float) -> Session | None:
        with self._lock:
            if group in self._opening or time.monotonic() < self._shunned.get(group, 0.0):
                return None
            self._opening.add(group)
        opened = None
        try:
            session = fresh_session(self._kernels, self._connector, self._random, group)
            request_id = self._connector.request_id()
            response = self._once(link, request_id, session.open(request_id), seconds)
            if response is not None and response.status == Status.OK:
                session.opened(decode_ingest(response.payload, 0).session_verdict)
                opened = session
        except (Overloaded, ProtocolError):
            pass  # the loop's way has a session, or says why there is none
        finally:
            with self._lock:
                self._opening.discard(group)
                if opened is not None:
                    self._sessions[group] = opened
                else:
                    self._shunned[group] = time.monotonic() + SHUN_SECONDS
        return opened

    def _retire(self, session: Session | None) -> None:
        if session is not None:
            session.retired = True

    # ---- links ----

    def _take(self, group: int | None, seconds: float) -> BlockingLink | None:
        """A link that nobody else uses, to the node that is to be asked."""
        address = self._connector.reached_at(group)
        with self._lock:
            self._calls += 1
            if address is None or self._closed or self._calls <= CALLS_FIRST:
                return None
            free = self._free.get(address)
            if free:
                return free.pop()
            links = self._links.setdefault(address, set())
            if len(links) >= LINKS_PER_NODE_MAX or time.monotonic() < self._shunned.get(address, 0.0):
                return None
            link = BlockingLink(self._kernels, address)
            links.add(link)
        try:
            link.connect(self._connector.request_id(), min(CONNECT_SECONDS_MAX, seconds))
            return link
        except LinkLost:
            with self._lock:
                self._shunned[address] = time.monotonic() + SHUN_SECONDS
            self._drop(link)
            return None
        except BaseException:
            self._drop(link)
            raise

    def _give(self, link: BlockingLink) -> None:
        """Back, unless it was dropped."""
        with self._lock:
            if not self._closed:
                if link in self._links.get(link.address, ()):
                    self._free.setdefault(link.address, []).append(link)
                return
        self._drop(link)

    def _drop(self, link: BlockingLink) -> None:
        with self._lock:
            self._links.get(link.address, set()).discard(link)
        link.close()

    def close(self) -> None:
        """Whoever waits on a link is told that it is lost."""
        with self._lock:
            self._closed = True
            links = [link for at_address in self._links.values() for link in at_address]
            free = [link for at_address in self._free.values() for link in at_address]
            self._free.clear()
        for link in links:
            link.shut()
        for link in free:
            self._drop(link)
