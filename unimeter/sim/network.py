"""Connections between places: a stream of bytes each way, cut into segments at will.

Like TCP, an open connection delivers bytes in order, without loss. Everything else is left open: how the
bytes are cut into pieces, how long each takes, whether the last of them arrive before a connection breaks,
and whether both ends learn of the break (a half-open connection is one where one end does not, for long).

    client End  --- segments, in order, each with its own delay --->  node End
                <---------------------------------------------------

An `End` is one side. Nodes and clients are both just owners of ends. What the way between two places does to bytes
(partitions, clogged links, and between nodes also loss) is said by its `Route`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from unimeter.kernels.api import Bytes
from unimeter.sim.prng import Prng
from unimeter.sim.route import CLIENTS, Route
from unimeter.sim.trace import brief
from unimeter.sim.world import MS, SECOND, US, World

PIECES: Final = 8  # half of what a large send is cut into at most, on average
SYN_NS: Final = 150 * MS  # after so long without an answer a dial fails, on average
LATE_NS: Final = 30 * MS  # a delayed send arrives up to so much later than it should have


@dataclass
class NetworkSettings:
    """How the network behaves now; faults change it, healing puts the defaults back."""

    delay_min_ns: int = 20 * US
    delay_max_ns: int = 300 * US
    fragment_chance: float = 0.0  # a send is cut into pieces
    fragment_bytes_max: int = 400


class End:
    """One side of a connection."""

    __slots__ = (
        "arrives_ns", "closing", "deaf_after_ns", "late_until_ns", "link", "on_bytes", "on_close", "open", "peer", "route",
    )  # fmt: skip

    def __init__(self, link: int, route: Route) -> None:
        self.link = link
        self.route = route  # towards this end
        self.peer: End = self
        self.open = True
        self.closing = False
        self.arrives_ns = 0  # when the last segment towards this end arrives: order is kept
        self.late_until_ns = 0  # a send out of its order may arrive until then: no other may come in pieces
        self.deaf_after_ns: int | None = None  # segments later than this are lost: the connection broke
        self.on_bytes: Callable[[End, bytes], None] = _ignore_bytes
        self.on_close: Callable[[End], None] = _ignore


def _ignore_bytes(_end: End, _data: bytes) -> None:
    return None


def _ignore(_end: End) -> None:
    return None


class Listener(Protocol):
    """Whoever can be reached under an address."""

    name: str  # the place it is at

    def accept(self, end: End, peer: str, inner: bool) -> bool:
        """Take a new connection, or refuse it (nobody is listening now). `inner`: on the peer port."""


class Network:
    def __init__(self, world: World, prng: Prng) -> None:
        self._world = world
        self._prng = prng
        self._luck = prng.stream("routes")
        self._links = 0
        self._listeners: dict[str, tuple[Listener, bool]] = {}
        self._routes: dict[tuple[str, str], Route] = {}
        self.settings = NetworkSettings()
        self.ends: dict[int, End] = {}  # open ends of clients, by link
        self.inner: dict[int, End] = {}  # open ends of nodes that dialled a node, by link

    def listen(self, address: str, listener: Listener, inner: bool = False) -> None:
        self._listeners[address] = (listener, inner)

    def route(self, source: str, target: str) -> Route:
        key = (source, target)
        found = self._routes.get(key)
        if found is None:
            found = self._routes[key] = Route()
        return found

    def heal(self) -> None:
        """Everything is as it should be, from now on."""
        self.settings = NetworkSettings()
        for route in self._routes.values():
            route.reset()

    # ---- connecting ----

    def connect(
        self,
        address: str,
        peer: str,
        opened: Callable[[End], None],
        refused: Callable[[], None],
        source: str = CLIENTS,
    ) -> None:
        self._world.after(self._delay_ns(), self._connect, address, peer, opened, refused, source)

    def _connect(
        self, address: str, peer: str, opened: Callable[[End], None], refused: Callable[[], None], source: str
    ) -> None:
        listener, inner = self._listeners[address]
        there, back = self.route(source, listener.name), self.route(listener.name, source)
        if there.blocked or back.blocked:
            self._world.after(self._prng.between(1, 2 * SYN_NS), refused)
            return
        self._links += 2
        near, far = End(self._links - 1, back), End(self._links, there)
        near.peer, far.peer = far, near
        if not listener.accept(far, peer, inner):
            self._world.after(self._delay_ns(), refused)
            return
        (self.inner if inner else self.ends)[near.link] = near
        self._world.note(f"net open {near.link}-{far.link} {peer}")
        near.arrives_ns = self._world.now_ns + self._delay_ns()  # nothing arrives before it is open
        self._world.at(near.arrives_ns, self._opened, near, opened, refused)

    def _opened(self, near: End, opened: Callable[[End], None], refused: Callable[[], None]) -> None:
        if near.open:
            opened(near)
        else:
            refused()

    # ---- sending ----

    def send(self, end: End, data: Bytes) -> None:
        """Bytes from `end` to its peer."""
        if not end.open or end.closing or not len(data):
            return
        peer = end.peer
        if not peer.route.plain:
            self._send_over(peer.route, peer, bytes(data))
            return
        settings, world = self.settings, self._world
        if settings.fragment_chance and peer.late_until_ns < world.now_ns:
            self._send_in_pieces(peer, bytes(data))
            return
        due_ns = world.now_ns + self._prng.between(settings.delay_min_ns, settings.delay_max_ns)
        peer.arrives_ns = due_ns = max(peer.arrives_ns, due_ns)
        world.at(due_ns, self._deliver, peer, bytes(data))

    def _send_in_pieces(self, peer: End, raw: bytes) -> None:
        settings, prng = self.settings, self._prng
        fragment = prng.chance(settings.fragment_chance)
        piece_max = max(settings.fragment_bytes_max, len(raw) // PIECES)
        offset = 0
        while offset < len(raw):
            size = prng.between(1, piece_max) if fragment else len(raw)
            self._hand_over(peer, raw[offset : offset + size], 0)
            offset += size

    def _hand_over(self, peer: End, raw: bytes, more_ns: int) -> None:
        peer.arrives_ns = max(peer.arrives_ns, self._world.now_ns + self._delay_ns() + more_ns)
        self._world.at(peer.arrives_ns, self._deliver, peer, raw)

    def _send_over(self, route: Route, peer: End, raw: bytes) -> None:
        """Over a route on which something is wrong."""
        luck = self._luck
        if route.blocked:
            if not route.vanish:
                route.stalled.append(lambda: self._hand_over(peer, raw, 0))
            return
        if route.drop and luck.chance(route.drop):
            self._world.note(f"net dropped >{peer.link} {brief(raw)}")
            return
        more_ns = luck.between(route.slow_min_ns, route.slow_max_ns) if route.slow_max_ns else 0
        if route.reorder and luck.chance(route.reorder):
            late_ns = max(peer.arrives_ns, self._world.now_ns) + luck.between(1, LATE_NS)
            peer.late_until_ns = max(peer.late_until_ns, late_ns)
            self._world.at(late_ns, self._deliver, peer, raw)
        else:
            self._hand_over(peer, raw, more_ns)
        if route.repeat and luck.chance(route.repeat):
            self._hand_over(peer, raw, more_ns)

    # ---- ending ----

    def close(self, end: End) -> None:
        """Close after everything sent so far, also by the current event, has been flushed."""
        if end.open and not end.closing:
            self._world.after(0, self._finish, end)

    def _finish(self, end: End) -> None:
        if not end.open or end.closing:
            return
        end.closing = True
        self._forget(end)
        end.open = False
        self._break_over(end.peer, self._delay_ns())

    def cut(self, end: End) -> None:
        """Break the connection: both ends learn of it, some of the bytes on their way do not arrive."""
        for side in (end, end.peer):
            self._break(side, self._world.now_ns + self._prng.below(2 * MS))

    def half_open(self, end: End) -> None:
        """Break the connection so that only one side learns of it soon; the bytes on their way arrive."""
        self._break(end, self._world.now_ns)
        self._break(end.peer, self._world.now_ns + self._prng.between(100 * MS, 3 * SECOND))

    def abandon(self, end: End) -> None:
        """The process of this end died with the power: the peer hears of it late."""
        if end.open:
            self._forget(end)
            end.open = False
            self._break(end.peer, self._world.now_ns + self._prng.between(MS, 400 * MS))

    def reset(self, end: End) -> None:
        """The process of this end died: its kernel tells the peer."""
        if end.open:
            self._forget(end)
            end.open = False
            if end.peer.route.blocked:
                self._break_over(end.peer, 0)
            else:
                self._break(end.peer, self._world.now_ns + self._delay_ns())

    def _break_over(self, peer: End, delay_ns: int) -> None:
        """The end of the stream, behind everything that was sent: it goes the way of the bytes."""
        if peer.route.blocked:
            peer.route.stalled.append(lambda: self._break_over(peer, delay_ns))
            return
        peer.arrives_ns = max(peer.arrives_ns, self._world.now_ns + delay_ns)
        self._world.at(peer.arrives_ns, self._lost, peer)

    def _break(self, end: End, at_ns: int) -> None:
        if end.open:
            end.deaf_after_ns = at_ns
            self._world.at(at_ns, self._lost, end)

    def _lost(self, end: End) -> None:
        if end.open:
            end.open = False
            self._forget(end)
            self._world.note(f"net lost {end.link}")
            end.on_close(end)

    def _deliver(self, end: End, data: bytes) -> None:
        if not end.open or (end.deaf_after_ns is not None and self._world.now_ns > end.deaf_after_ns):
            return
        self._world.note(f"net {end.peer.link}>{end.link} {brief(data)}")
        end.on_bytes(end, data)

    def _forget(self, end: End) -> None:
        self.ends.pop(end.link, None)
        self.inner.pop(end.link, None)

    def _delay_ns(self) -> int:
        settings = self.settings
        return self._prng.between(settings.delay_min_ns, settings.delay_max_ns)
