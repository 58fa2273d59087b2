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
ANSWER_AT_HAND_SECONDS = 0.05
SHUN_SECONDS = 1.0  # for so long nothing is tried again that has just failed

Otherwise = Callable[[list[Batch], float], list[Outcome]]


class _Errand:
    """A batch on the short way: its number is one of the session's."""

    __slots__ = ("batch", "link", "outcome", "session")

    def __init__(self, batch: Batch, link: BlockingLink, session: Session) -> None:
        self.batch = batch
        self.link = link
        self.session = session
        self.outcome: Outcome | None = None  # None: not known yet


class Shortcut:
    """`silence_seconds`: a node that has said nothing for so long is not waited for any longer."""

    def __init__(self, kernels: Kernels, connector: Connector, random: Random, silence_seconds: float) -> None:
        self._kernels = kernels
        self._connector = connector
        self._random = random
        self._silence_seconds = silence_seconds
        # threads: a signal's handler that calls goes the loop's way, as it may have interrupted anything
        self._inside: set[int] = set()
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
        thread = threading.get_ident()
        if thread in self._inside:
            return None
        self._inside.add(thread)
        try:
            link = self._take(self._connector.reached_at(group), seconds)
            if link is None:
                return None
            request_id = self._connector.request_id()
            frame = encode_request(self._kernels, type, request_id, payload)
            try:
                response = link.ask(request_id, frame, self._limit(seconds))
            finally:
                self._give(link)
            return response if response.status == Status.OK else None
        except LinkLost:
            return None
        finally:
            self._inside.discard(thread)

    def send(self, batches: list[Batch], sync: bool, seconds: float, otherwise: Otherwise) -> list[Outcome]:
        """See batches through, at most one of each group; all are on their way at the same time. `otherwise` is the loop's way, for
        those that have no bytes yet or go on with those that they were given here. It is told how many seconds are left."""
        thread = threading.get_ident()
        if thread in self._inside:
            return otherwise(batches, seconds)
        self._inside.add(thread)
        until = time.monotonic() + seconds
        errands: list[_Errand] = []
        try:
            rest = self._try(batches, errands, sync, seconds)
            return self._finish(errands, rest, until, otherwise)
        except BaseException:  # interrupted: their numbers may never be settled
            for errand in errands:
                errand.session.retired = True
            raise
        finally:
            self._inside.discard(thread)

    def _try(self, batches: list[Batch], errands: list[_Errand], sync: bool, seconds: float) -> list[Batch]:
        """Ask once. Returns those for which this is no way, which have no bytes yet."""
        links: dict[str, BlockingLink] = {}
        rest: list[Batch] = []
        try:
            for batch in batches:
                errand = self._start(batch, links, sync, seconds)
                if errand is None:
                    rest.append(batch)
                else:
                    errands.append(errand)
            self._ask_all(errands, self._limit(seconds))
        finally:
            for link in links.values():
                self._give(link)
        return rest

    def _limit(self, seconds: float) -> float:
        limit = ANSWER_IN_A_CLUSTER_SECONDS_MAX if self._connector.is_cluster else self._silence_seconds
        return min(limit, seconds)

    def _start(self, batch: Batch, links: dict[str, BlockingLink], sync: bool, seconds: float) -> _Errand | None:
        """None: there is no link to its leader, or no session with room. `links`: those that the call has, by address."""
        address = self._connector.reached_at(batch.group)
        if address is None:
            return None
        link = links.get(address)
        if link is None:
            link = self._take(address, seconds)
            if link is None:
                return None
            links[address] = link
        session = self._admit(link, batch, sync, seconds) if link.clean else None
        return _Errand(batch, link, session) if session is not None else None

    def _ask_all(self, errands: list[_Errand], seconds: float) -> None:
        """All are sent before the first answer is waited for. What becomes of a batch that has no outcome then is for the
        loop's way to find out; the batch says whether it may have been counted."""
        until = time.monotonic() + seconds
        by_link: dict[BlockingLink, list[Batch]] = {}
        for errand in errands:
            by_link.setdefault(errand.link, []).append(errand.batch)
        asked: list[tuple[BlockingLink, set[int]]] = []
        for link, batches in by_link.items():
            for batch in batches:
                batch.sends_unanswered += 1
            try:
                link.send(b"".join([batch.frame or b"" for batch in batches]), seconds)
            except LinkLost:
                continue
            asked.append((link, {batch.request_id for batch in batches}))
        answers: dict[int, Response] = {}
        for link, ids in asked:
            try:
                link.receive(ids, answers, seconds)
            except LinkLost:  # the others were asked at the same time: they are not waited for as long again
                seconds = max(until - time.monotonic(), ANSWER_AT_HAND_SECONDS)
        for errand in errands:
            response = answers.get(errand.batch.request_id)
            if response is not None:
                errand.outcome = _judge(errand.batch, response)

    def _finish(self, errands: list[_Errand], rest: list[Batch], until: float, otherwise: Otherwise) -> list[Outcome]:
        unknown = [errand for errand in errands if errand.outcome is None]
        outcomes: list[Outcome] = []
        if unknown or rest:
            outcomes = _go_on([*(errand.batch for errand in unknown), *rest], until, otherwise)
            for errand, outcome in zip(unknown, outcomes, strict=False):
                errand.outcome = outcome
            del outcomes[: len(unknown)]
        again: list[Batch] = []
        with self._lock:
            for errand in errands:
                assert errand.outcome is not None
                final = settle(errand.session, errand.batch, errand.outcome)
                if final is None:
                    again.append(errand.batch)
                else:
                    outcomes.append(final)
        return outcomes + _go_on(again, until, otherwise) if again else outcomes

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
            response = link.ask(request_id, session.open(request_id), self._limit(seconds))
            if response.status == Status.OK:
                session.opened(decode_ingest(response.payload, 0).session_verdict)
                opened = session
        except (LinkLost, Overloaded, ProtocolError):
            pass  # the loop's way has a session, or says why there is none
        finally:
            with self._lock:
                self._opening.discard(group)
                if opened is not None:
                    self._sessions[group] = opened
                else:
                    self._shunned[group] = time.monotonic() + SHUN_SECONDS
        return opened

    # ---- links ----

    def _take(self, address: str | None, seconds: float) -> BlockingLink | None:
        """A link that nobody else uses."""
        with self._lock:
            self._calls += 1
            if address is None or self._closed or self._calls <= CALLS_FIRST or seconds <= 0:
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
            return None
        finally:
            if not link.clean:
                self._give(link)

    def _give(self, link: BlockingLink) -> None:
        """Back. One that was lost is dropped, with the others to that address that nobody uses: they will be no better."""
        with self._lock:
            free = self._free.setdefault(link.address, [])
            if link.clean and not self._closed:
                free.append(link)
                return
            self._shunned[link.address] = time.monotonic() + SHUN_SECONDS
            dropped = [link, *free]
            free.clear()
            self._links[link.address].difference_update(dropped)
        for lost in dropped:
            lost.close()

    def close(self) -> None:
        """Whoever waits on a link is told that it is lost."""
        with self._lock:
            self._closed = True
            links = [link for at_address in self._links.values() for link in at_address]
            for free in self._free.values():
                for link in free:
                    link.close()
                free.clear()
        for link in links:
            link.shut()


def _go_on(batches: list[Batch], until: float, otherwise: Otherwise) -> list[Outcome]:
    try:
        return otherwise(batches, until - time.monotonic())
    except UnimeterError as error:  # the client was closed meanwhile
        return [Outcome(batch, error=error, finished=False) for batch in batches]


def _judge(batch: Batch, response: Response) -> Outcome | None:
    """None: the answer is not final. It is said in `batch` whether it may have been counted."""
    try:
        if response.status == Status.OK:
            outcome = Outcome(batch, decode_answer(response.payload, batch))
            batch.sends_unanswered -= 1
            return outcome
        if response.status == Status.REDIRECT or not is_in_doubt(decode_error(response.payload)):
            batch.sends_unanswered -= 1
    except ProtocolError:
        pass  # an answer that cannot be read is none
    return None
