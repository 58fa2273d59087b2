"""Who waits for alerts: one connection, and for each group a cursor: the number of the last alert it was told of.

In a cluster it moves on to another node now and then, with its cursors, as it does when a connection breaks.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

from unimeter.kernels.api import Kernels
from unimeter.sim import wire2
from unimeter.sim.network import End, Network
from unimeter.sim.places import Places
from unimeter.sim.prng import Prng
from unimeter.sim.world import MS, World

BACKOFF_NS: Final = 20 * MS
STAY_NS: Final = 400 * MS  # with one node, on average


class Subscriber:
    """Never finishes by itself; `seen` are its cursors, `told` everything it was told, repeats included."""

    def __init__(self, name: str, places: Places, world: World, network: Network, kernels: Kernels, prng: Prng) -> None:
        self.name = name
        self.seen = [0] * places.groups
        self.told: list[dict[str, Any]] = []
        self._places = places
        self._world = world
        self._network = network
        self._kernels = kernels
        self._prng = prng
        self._end: End | None = None
        self._buffer = bytearray()

    def start(self) -> None:
        address = (
            self._prng.choice(self._places.addresses) if len(self._places.addresses) > 1 else self._places.addresses[0]
        )
        self._network.connect(address, self.name, self._opened, self._again)

    def _again(self) -> None:
        self._world.after(self._prng.between(1, 2 * BACKOFF_NS), self.start)

    def _opened(self, end: End) -> None:
        self._end = end
        end.on_bytes, end.on_close = self._on_bytes, self._on_close
        self._buffer.clear()
        self._subscribe(end)
        if len(self._places.addresses) > 1:
            self._world.after(self._prng.between(1, 2 * STAY_NS), self._move_on, end)

    def _move_on(self, end: End) -> None:
        if end is self._end:
            self._network.close(end)
            self._on_close(end)

    def _subscribe(self, end: End) -> None:
        if end is self._end:
            body: dict[str, Any] = {"since": self.seen[0]} if len(self.seen) == 1 else {"cursors": self.seen}
            self._network.send(end, wire2.control(self._kernels, wire2.ALERTS_SUBSCRIBE, 1, body))

    def _on_close(self, end: End) -> None:
        if end is self._end:
            self._end = None
            self._again()

    def _on_bytes(self, end: End, data: bytes) -> None:
        if end is not self._end:
            return
        self._buffer += data
        for response in wire2.responses(self._kernels, self._buffer):
            if response.type == wire2.ALERT_PUSH and response.request_id == 0:
                alert = msgpack.unpackb(response.payload)
                group = alert.get("group", 0)
                self._world.note(f"client {self.name} alert {group}.{alert['number']}")
                self.told.append(alert)
                self.seen[group] = max(self.seen[group], alert["number"])
            elif response.status != wire2.OK:  # the node is starting, or overloaded
                self._world.after(self._prng.between(1, 2 * BACKOFF_NS), self._subscribe, end)
