"""A client of the simulated world: one connection at a time, many requests in flight, and it does not give up.

It says what its `Behaviour` wants said, and sends again what may be sent again: after a lost connection, after
a timeout, after a refusal that asks to come back later, and sometimes for no reason at all (`duplicate`). What
must not be sent twice is given up when its connection breaks, and is UNKNOWN from then on.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from unimeter.kernels.api import Kernels
from unimeter.sim import codec, wire1, wire2
from unimeter.sim.network import End, Network
from unimeter.sim.prng import Prng
from unimeter.sim.requests import OPEN, REFUSED, RETRY_LATER, UNKNOWN, Ingest, Request
from unimeter.sim.world import MS, World

AnyResponse = wire1.Response | wire2.Response


@dataclass(frozen=True)
class Manners:
    """How a client behaves, whatever it wants."""

    window: int = 4  # requests in flight
    think_ns: int = 14 * MS  # mean pause between two new requests
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

    def sent(self, request: Request) -> None: ...
    def settled(self, request: Request) -> None: ...
    def answered_again(self, request: Request, response: AnyResponse) -> None: ...
    def put_off(self, request: Request, code: str) -> None:
        """The node asks to come back later."""

    def stray(self, client: str, response: AnyResponse) -> None: ...
    def garbled(self, client: str, why: str) -> None: ...


class Client:
    def __init__(
        self,
        name: str,
        address: str,
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
        self._address = address
        self._world = world
        self._network = network
        self._kernels = kernels
        self._prng = prng
        self._witness = witness
        self._end: End | None = None
        self._connecting = False
        self._buffer = bytearray()
        self._next_id = 1
        self._by_id: dict[int, Request] = {}  # on the present connection
        self._sent_here: dict[int, Request] = {}  # every id ever used on it: a second answer to one is a fault
        self._again: deque[Request] = deque()  # to be sent again
        self._pending: list[Request] = []  # sent or to be sent again, not settled
        self._pumping = False

    @property
    def finished(self) -> bool:
        return self.behaviour.finished and not self._pending

    def waiting_for(self) -> str:
        return f"{self.name}: {len(self._pending)} requests unanswered, finished={self.behaviour.finished}"

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
        if self._end is None:
            self._connect()
            return
        while self._again:
            self._transmit(self._again.popleft())
        if self.behaviour.finished or len(self._pending) >= self.manners.window:
            return  # the next answer starts it again
        request = self.behaviour.next(self._world.now_ns)
        if request is not None:
            self._pending.append(request)
            self._transmit(request)
        self._pump_later(self._prng.between(1, 2 * self.manners.think_ns))

    def _transmit(self, request: Request) -> None:
        if self._end is None:
            self._again.append(request)
            return
        now_ns = self._world.now_ns
        if request.first_sent_ns < 0:
            request.first_sent_ns = now_ns
            self._witness.sent(request)
        request.sent_ns = now_ns
        copies = 2 if request.resend and self._prng.chance(self.manners.duplicate) else 1
        for _ in range(copies):
            request.attempts += 1
            request_id, self._next_id = self._next_id, self._next_id + 1
            self._by_id[request_id] = self._sent_here[request_id] = request
            self._network.send(self._end, codec.encode(self._kernels, request, request_id))
        self._world.after(self.manners.timeout_ns, self._timeout, request, request.attempts)

    def _connect(self) -> None:
        if not self._connecting:
            self._connecting = True
            self._network.connect(self._address, self.name, self._opened, self._refused)

    def _opened(self, end: End) -> None:
        self._connecting = False
        self._end = end
        end.on_bytes = self._on_bytes
        end.on_close = self._on_close
        self._buffer.clear()
        self._by_id.clear()
        self._sent_here.clear()
        self._pump()

    def _refused(self) -> None:
        self._connecting = False
        self._pump_later(self._prng.between(1, 2 * self.manners.backoff_ns))

    # ---- what can happen to a request ----

    def _on_close(self, end: End) -> None:
        if end is self._end:
            self._end = None
            self._disconnected()

    def _disconnected(self) -> None:
        """Nothing more will be heard of what was sent on this connection."""
        self._by_id.clear()
        for request in list(self._pending):
            if request not in self._again:
                self._unanswered(request)
        self._pump_later(self._prng.between(1, 2 * self.manners.backoff_ns))

    def _unanswered(self, request: Request) -> None:
        if request.resend:
            self._again.append(request)
        else:
            self._settle(request, UNKNOWN)
            self.behaviour.lost(request)

    def _timeout(self, request: Request, attempt: int) -> None:
        if request.state != OPEN or request.attempts != attempt or self._end is None or request in self._again:
            return
        end, self._end = self._end, None
        self._world.note(f"client {self.name} gives up on link {end.link}")
        if self._prng.chance(self.manners.impatience):
            self._network.half_open(end)  # what was sent may still arrive, after its retry
        else:
            self._network.cut(end)
        self._disconnected()

    def _settle(self, request: Request, state: str) -> None:
        request.state = state
        request.answered_ns = self._world.now_ns
        self._pending.remove(request)
        self._world.note(f"client {self.name} {type(request).__name__} #{request.number} {state} {request.error}")
        self._witness.settled(request)

    # ---- answers ----

    def _on_bytes(self, end: End, data: bytes) -> None:
        if end is not self._end:
            return
        self._buffer += data
        try:
            if self.behaviour.protocol == 2:
                for response in wire2.responses(self._kernels, self._buffer):
                    self._answer(response)
            else:
                for answer in wire1.responses(self._buffer):
                    self._answer(answer)
        except ValueError as error:
            self._witness.garbled(self.name, str(error))

    def _answer(self, response: AnyResponse) -> None:
        request = self._by_id.pop(response.request_id, None)
        if request is None:
            self._witness.stray(self.name, response)
            return
        request.answers += 1
        code = codec.refusal(response)
        if request.state != OPEN or request in self._again:
            self._witness.answered_again(request, response)
            return
        if code in RETRY_LATER:
            self._witness.put_off(request, code)
            self._again_later(request)
            return
        request.error = code
        refused = bool(code) and not (
            isinstance(request, Ingest) and code == "unknown_metric" and request.protocol == 1
        )
        self._settle(request, REFUSED if refused else self.behaviour.answered(request, response))
        if refused:
            self.behaviour.lost(request)
        self._pump_later(self._prng.between(1, 2 * self.manners.think_ns))
        if self.behaviour.finished and not self._pending and self._end is not None:
            self._network.close(self._end)
            self._end = None

    def _again_later(self, request: Request) -> None:
        """The node asks to come back later: nothing of this attempt was taken."""
        self._world.after(
            self._prng.between(1, 2 * self.manners.backoff_ns), self._come_back, request, request.attempts
        )

    def _come_back(self, request: Request, attempt: int) -> None:
        if request.state == OPEN and request.attempts == attempt and request not in self._again:
            self._transmit(request)
