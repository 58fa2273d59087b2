"""A client of the simulated world: many requests in flight, a line to each node it talks to, and it does not give up.

It says what its `Behaviour` wants said, and sends again what may be sent again: after a lost connection, after
a timeout, after a refusal that asks to come back later, and sometimes for no reason at all (`duplicate`). What
must not be sent twice is given up when its connection breaks, and is UNKNOWN from then on.

In a cluster it knows the founders' addresses and asks anyone at first. A redirect tells it who leads the group of the
request; it keeps that in mind for as long as it gets answers there, and now and then asks somebody else all the same.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, Protocol

from unimeter.kernels.api import Kernels
from unimeter.sim import codec
from unimeter.sim.line import AnyResponse, Line
from unimeter.sim.network import Network
from unimeter.sim.places import Places
from unimeter.sim.prng import Prng
from unimeter.sim.requests import OPEN, REFUSED, RETRY_LATER, UNKNOWN, UNSURE, Ingest, Request, groups_of
from unimeter.sim.world import MS, World

ASTRAY: Final = 0.08  # how often a request goes to somebody else than whom its client believes to lead
REDIRECTS_IN_A_ROW: Final = 3  # then it waits a little before it follows the next one


@dataclass(frozen=True)
class Manners:
    """How a client behaves, whatever it wants."""

    window: int = 4  # requests in flight
    think_ns: int = 14 * MS  # mean pause between two new requests
    burst: int = 1  # new requests at once, which leave in one piece
    timeout_ns: int = 400 * MS
    backoff_ns: int = 10 * MS
    duplicate: float = 0.0  # sends a request twice
    impatience: float = (
        0.5  # at a timeout: leaves the old connection half open, so that the request is on its way twice
    )


class Behaviour(Protocol):
    """What a client wants. `next` may return None: nothing now. `finished`: never again anything new."""

    protocol: int

    def next(self, now_ns: int) -> Request | None: ...
    def answered(self, request: Request, response: AnyResponse) -> str:
        """A request was answered for good: fill in what the answer said, and tell the state it ends in."""

    def lost(self, request: Request) -> None:
        """A request was given up."""

    @property
    def finished(self) -> bool: ...


class Witness(Protocol):
    """Whoever keeps the facts."""

    def made(self, request: Request) -> None:
        """It will be sent as soon as there is a connection."""

    def sent(self, request: Request) -> None: ...
    def settled(self, request: Request) -> None: ...
    def answered_again(self, request: Request, response: AnyResponse) -> None: ...
    def put_off(self, request: Request, code: str) -> None:
        """The node asks to come back later, or to go elsewhere."""

    def stray(self, client: str, response: AnyResponse) -> None: ...
    def garbled(self, client: str, why: str) -> None: ...


class Client:
    def __init__(
        self,
        name: str,
        places: Places,
        world: World,
        network: Network,
        kernels: Kernels,
        prng: Prng,
        behaviour: Behaviour,
        witness: Witness,
        manners: Manners,
    ) -> None:
        self.name = name
        self.behaviour = behaviour
        self.manners = manners
        self._places = places
        self._world = world
        self._network = network
        self._kernels = kernels
        self._prng = prng
        self._witness = witness
        self._lines: dict[str, Line] = {}
        self._home = prng.choice(places.addresses)  # where it goes without a better idea
        self._leaders: dict[int, str] = {}  # group -> address, as last told
        self._again: deque[Request] = deque()  # to be sent again
        self._pending: list[Request] = []  # sent or to be sent again, not settled
        self._pumping = False

    @property
    def finished(self) -> bool:
        return self.behaviour.finished and not self._pending

    def waiting_for(self) -> str:
        what = [f"{request.describe()} {request.error}" for request in self._pending[:3]]
        return f"{self.name}: {len(self._pending)} requests unanswered {what}, finished={self.behaviour.finished}"

    def start(self) -> None:
        self._pump_later(self._prng.below(self.manners.think_ns + 1))

    # ---- sending ----

    def _pump_later(self, delay_ns: int) -> None:
        if not self._pumping:
            self._pumping = True
            self._world.after(delay_ns, self._pump)

    def _pump(self) -> None:
        self._pumping = False
        if self.finished:
            return
        if self.manners.burst == 1:
            self._pump_once()
            return
        for line in self._lines.values():
            line.cork()
        self._pump_once()
        for line in self._lines.values():
            line.uncork()

    def _pump_once(self) -> None:
        for _ in range(len(self._again)):
            waiting = self._again.popleft()
            if waiting.waits_for is not None and waiting.waits_for.connecting:
                self._again.append(waiting)
            else:
                self._transmit(waiting)
        for _ in range(self.manners.burst):
            if self.behaviour.finished or len(self._pending) >= self.manners.window:
                return  # the next answer starts it again
            request = self.behaviour.next(self._world.now_ns)
            if request is not None:
                self._pending.append(request)
                self._witness.made(request)
                self._transmit(request)
        self._pump_later(self._prng.between(1, 2 * self.manners.think_ns))

    def _transmit(self, request: Request) -> None:
        line = self._line_for(request)
        request.waits_for = None if line.up else line
        if not line.up:
            self._again.append(request)
            line.open()
            return
        now_ns = self._world.now_ns
        if request.first_sent_ns < 0:
            request.first_sent_ns = now_ns
            self._witness.sent(request)
        request.sent_ns = now_ns
        request.line = line
        copies = 2 if request.resend and self.manners.duplicate and self._prng.chance(self.manners.duplicate) else 1
        for _ in range(copies):
            request.attempts += 1
            line.send(request)
        self._world.after(self.manners.timeout_ns, self._timeout, request, request.attempts)

    def _line_for(self, request: Request) -> Line:
        places = self._places
        address = request.to
        if not address and len(places.addresses) > 1:
            if self._prng.chance(ASTRAY):
                address = self._prng.choice(places.addresses)
            else:
                groups = groups_of(request, places)
                group = groups[0] if len(groups) == 1 else self._prng.choice(groups)
                address = self._leaders.get(group, "")
        address = address or self._home
        line = self._lines.get(address)
        if line is None:
            line = self._lines[address] = Line(self, address, self.behaviour.protocol, self._network, self._kernels)
        return line

    def _doubt(self, address: str) -> None:
        """Nothing good is heard of this address: ask others."""
        for group, leader in list(self._leaders.items()):
            if leader == address:
                del self._leaders[group]
        if self._home == address and len(self._places.addresses) > 1:
            self._home = self._prng.choice(self._places.addresses)

    # ---- what can happen to a line ----

    def line_opened(self, line: Line) -> None:
        self._pump()

    def line_refused(self, line: Line) -> None:
        self._doubt(line.address)
        self._pump_later(self._prng.between(1, 2 * self.manners.backoff_ns))

    def line_lost(self, line: Line) -> None:
        """Nothing more will be heard of what was sent on this connection."""
        self._doubt(line.address)
        for request in [each for each in self._pending if each.line is line]:
            if request in self._again:
                continue
            if request.resend:
                self._again.append(request)
            else:
                self._give_up(request)
        self._pump_later(self._prng.between(1, 2 * self.manners.backoff_ns))

    def line_garbled(self, line: Line, why: str) -> None:
        self._witness.garbled(self.name, why)

    # ---- what can happen to a request ----

    def _timeout(self, request: Request, attempt: int) -> None:
        if request.state != OPEN or request.attempts != attempt or request in self._again:
            return
        line = request.line
        if line is None or not line.up:
            return
        self._world.note(f"client {self.name} gives up on link {line.link}")
        line.leave(self._prng.chance(self.manners.impatience))  # what was sent may still arrive, after its retry
        self.line_lost(line)

    def _give_up(self, request: Request) -> None:
        self._settle(request, UNKNOWN)
        self.behaviour.lost(request)

    def _settle(self, request: Request, state: str) -> None:
        request.state = state
        request.answered_ns = self._world.now_ns
        self._pending.remove(request)
        self._world.note(f"client {self.name} {type(request).__name__} #{request.number} {state} {request.error}")
        self._witness.settled(request)

    # ---- answers ----

    def line_answered(self, line: Line, response: AnyResponse, request: Request | None) -> None:
        if request is None:
            self._witness.stray(self.name, response)
            return
        request.answers += 1
        code = codec.refusal(response)
        if request.state != OPEN or request in self._again:
            self._witness.answered_again(request, response)
            return
        if code == "redirect":
            self._redirected(request, response)
            return
        if code in RETRY_LATER or (code in UNSURE and request.resend):
            self._witness.put_off(request, code)
            request.error = code
            if len(self._places.addresses) > 1:
                self._doubt(line.address)
            self._again_later(request)
            return
        request.error = code
        if code in UNSURE:
            self._give_up(request)
            return
        refused = bool(code) and not (
            isinstance(request, Ingest) and code == "unknown_metric" and request.protocol == 1
        )
        self._settle(request, REFUSED if refused else self.behaviour.answered(request, response))
        if refused:
            self.behaviour.lost(request)
        self._pump_later(self._prng.between(1, 2 * self.manners.think_ns))
        if self.behaviour.finished and not self._pending:
            for other in self._lines.values():
                other.close()

    def _redirected(self, request: Request, response: AnyResponse) -> None:
        """Nothing of it was taken: another node leads the group."""
        self._witness.put_off(request, "redirect")
        request.error = "redirect"
        request.redirects += 1
        address = codec.redirect(response)
        for group in groups_of(request, self._places):
            self._leaders[group] = address
        if request.redirects % REDIRECTS_IN_A_ROW:
            self._come_back(request, request.attempts)
        else:
            self._again_later(request)

    def _again_later(self, request: Request) -> None:
        """The node asks to come back later: nothing of this attempt was taken."""
        self._world.after(
            self._prng.between(1, 2 * self.manners.backoff_ns), self._come_back, request, request.attempts
        )

    def _come_back(self, request: Request, attempt: int) -> None:
        if request.state == OPEN and request.attempts == attempt and request not in self._again:
            self._transmit(request)
