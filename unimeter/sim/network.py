"""Connections between hosts: a stream of bytes each way, cut into segments at will.

Like TCP, an open connection delivers bytes in order, without loss. Everything else is left open: how the
bytes are cut into pieces, how long each takes, whether the last of them arrive before a connection breaks,
and whether both ends learn of the break (a half-open connection is one where one end does not, for long).

    client End  --- segments, in order, each with its own delay --->  node End
                <---------------------------------------------------

An `End` is one side. Nodes and clients are both just owners of ends, so links between nodes need nothing new.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from unimeter.kernels.api import Bytes
from unimeter.sim.prng import Prng
from unimeter.sim.trace import brief
from unimeter.sim.world import MS, SECOND, US, World

PIECES = 8  # half of what a large send is cut into at most, on average


@dataclass
class NetworkSettings:
    """How the network behaves now; faults change it, healing puts the defaults back."""

    delay_min_ns: int = 20 * US
    delay_max_ns: int = 300 * US
    fragment_chance: float = 0.0  # a send is cut into pieces
    fragment_bytes_max: int = 400


class End:
    """One side of a connection."""

    __slots__ = ("arrives_ns", "closing", "deaf_after_ns", "link", "on_bytes", "on_close", "open", "peer")

    def __init__(self, link: int) -> None:
        self.link = link
        self.peer: End = self
        self.open = True
        self.closing = False
        self.arrives_ns = 0  # when the last segment towards this end arrives: order is kept
        self.deaf_after_ns: int | None = None  # segments later than this are lost: the connection broke
        self.on_bytes: Callable[[End, bytes], None] = _ignore_bytes
        self.on_close: Callable[[End], None] = _ignore


def _ignore_bytes(_end: End, _data: bytes) -> None:
    return None


def _ignore(_end: End) -> None:
    return None


class Listener(Protocol):
    """Whoever can be reached under an address."""

    def accept(self, end: End, peer: str) -> bool:
        """Take a new connection, or refuse it (nobody is listening now)."""


class Network:
    def __init__(self, world: World, prng: Prng) -> None:
        self._world = world
        self._prng = prng
        self._links = 0
        self._listeners: dict[str, Listener] = {}
        self.settings = NetworkSettings()
        self.ends: dict[int, End] = {}  # open ends of those who dialled, by link

    def listen(self, address: str, listener: Listener) -> None:
        self._listeners[address] = listener

    def connect(self, address: str, peer: str, opened: Callable[[End], None], refused: Callable[[], None]) -> None:
        self._world.after(self._delay_ns(), self._connect, address, peer, opened, refused)

    def _connect(self, address: str, peer: str, opened: Callable[[End], None], refused: Callable[[], None]) -> None:
        self._links += 2
        near, far = End(self._links - 1), End(self._links)
        near.peer, far.peer = far, near
        if not self._listeners[address].accept(far, peer):
            self._world.after(self._delay_ns(), refused)
            return
        self.ends[near.link] = near
        self._world.note(f"net open {near.link}-{far.link} {peer}")
        self._world.after(self._delay_ns(), self._opened, near, opened, refused)

    def _opened(self, near: End, opened: Callable[[End], None], refused: Callable[[], None]) -> None:
        if near.open:
            opened(near)
        else:
            refused()

    def send(self, end: End, data: Bytes) -> None:
        """Bytes from `end` to its peer."""
        if not end.open or end.closing or not len(data):
            return
        settings, prng, peer = self.settings, self._prng, end.peer
        raw = bytes(data)
        offset = 0
        fragment = settings.fragment_chance > 0 and prng.chance(settings.fragment_chance)
        piece_max = max(settings.fragment_bytes_max, len(raw) // PIECES)
        while offset < len(raw):
            size = prng.between(1, piece_max) if fragment else len(raw)
            peer.arrives_ns = max(peer.arrives_ns, self._world.now_ns + self._delay_ns())
            self._world.at(peer.arrives_ns, self._deliver, peer, raw[offset : offset + size])
            offset += size

    def close(self, end: End) -> None:
        """Close after everything sent so far, also by the current event, has been flushed."""
        if end.open and not end.closing:
            self._world.after(0, self._finish, end)

    def _finish(self, end: End) -> None:
        if not end.open or end.closing:
            return
        end.closing = True
        self._forget(end)
        peer = end.peer
        peer.arrives_ns = max(peer.arrives_ns, self._world.now_ns + self._delay_ns())
        self._world.at(peer.arrives_ns, self._lost, peer)
        end.open = False

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
            self._break(end.peer, self._world.now_ns + self._delay_ns())

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

    def _delay_ns(self) -> int:
        settings = self.settings
        return self._prng.between(settings.delay_min_ns, settings.delay_max_ns)
