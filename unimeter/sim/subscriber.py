"""Who waits for alerts: one connection, and a cursor that is the number of the last alert it was told of."""

from __future__ import annotations

from typing import Any

import msgpack

from unimeter.kernels.api import Kernels
from unimeter.sim import wire2
from unimeter.sim.network import End, Network
from unimeter.sim.prng import Prng
from unimeter.sim.world import MS, World

BACKOFF_NS = 20 * MS


class Subscriber:
    """Never finishes by itself; `seen` is its cursor, `told` everything it was told, repeats included."""

    def __init__(self, name: str, address: str, world: World, network: Network, kernels: Kernels, prng: Prng) -> None:
        self.name = name
        self.seen = 0
        self.told: list[dict[str, Any]] = []
        self._address = address
        self._world = world
        self._network = network
        self._kernels = kernels
        self._prng = prng
        self._end: End | None = None
        self._buffer = bytearray()

    def start(self) -> None:
        self._network.connect(self._address, self.name, self._opened, self._again)

    def _again(self) -> None:
        self._world.after(self._prng.between(1, 2 * BACKOFF_NS), self.start)

    def _opened(self, end: End) -> None:
        self._end = end
        end.on_bytes, end.on_close = self._on_bytes, self._on_close
        self._buffer.clear()
        self._subscribe(end)

    def _subscribe(self, end: End) -> None:
        if end is self._end:
            body = {"since": self.seen}
            self._network.send(end, wire2.control(self._kernels, wire2.ALERTS_SUBSCRIBE, 1, body))

    def _on_close(self, end: End) -> None:
        self._end = None
        self._again()

    def _on_bytes(self, end: End, data: bytes) -> None:
        self._buffer += data
        for response in wire2.responses(self._kernels, self._buffer):
            if response.type == wire2.ALERT_PUSH and response.request_id == 0:
                alert = msgpack.unpackb(response.payload)
                self._world.note(f"client {self.name} alert {alert['number']}")
                self.told.append(alert)
                self.seen = max(self.seen, alert["number"])
            elif response.status != wire2.OK:  # the node is starting, or overloaded
                self._world.after(self._prng.between(1, 2 * BACKOFF_NS), self._subscribe, end)
