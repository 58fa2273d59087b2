"""A peer that sends what is no request: noise, broken headers and checksums, bodies that contradict themselves.

Its events carry tags of their own; none of them may ever show up. Whatever is answered must be a refusal, and
nobody else may notice anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from unimeter.kernels.api import Kernels
from unimeter.sim import wire1, wire2
from unimeter.sim.events import Event, Ident
from unimeter.sim.network import End, Network
from unimeter.sim.prng import Prng
from unimeter.sim.space import Space
from unimeter.sim.world import MS, World

PATIENCE_NS: Final = 25 * MS


class Vandal:
    def __init__(
        self,
        name: str,
        protocol: int,
        address: str,
        world: World,
        network: Network,
        kernels: Kernels,
        prng: Prng,
        space: Space,
        budget: int,
        accepted: Callable[[str, bytes], None],
        hung_up: Callable[[], None],
    ) -> None:
        """`accepted` is told when the node says ok to one of these; `hung_up`, when the node ends a connection."""
        self.name = name
        self.protocol = protocol
        self.budget = budget
        self.sent = 0
        self.tags: dict[Ident, None] = {}
        self._address = address
        self._world = world
        self._network = network
        self._kernels = kernels
        self._prng = prng
        self._space = space
        self._accepted = accepted
        self._hung_up = hung_up
        self._busy = False
        self._answer = b""  # on the present connection

    @property
    def finished(self) -> bool:
        return self.budget <= 0 and not self._busy

    def hurry(self) -> None:
        """Enough of it."""
        self.budget = 0

    def waiting_for(self) -> str:
        return f"{self.name}: {self.budget} left"

    def start(self) -> None:
        self._world.after(self._prng.between(1, 40 * MS), self._strike)

    def _strike(self) -> None:
        if self.budget > 0:
            self.budget -= 1
            self._busy = True
            self._network.connect(self._address, self.name, self._opened, self._over)

    def _over(self) -> None:
        self._busy = False
        self._world.after(self._prng.between(MS, 60 * MS), self._strike)

    def _opened(self, end: End) -> None:
        end.on_bytes = self._answered
        end.on_close = lambda _: self._hung_up()
        data, self._answer = self._make(), b""
        if data:
            self.sent += 1
            self._network.send(end, data)
        self._world.after(PATIENCE_NS, self._leave, end)

    def _leave(self, end: End) -> None:
        self._network.close(end)
        self._over()

    def _answered(self, end: End, data: bytes) -> None:
        self._answer += data  # only one is expected: this looks at its first bytes, however they come
        data = self._answer
        good_v2 = len(data) >= 32 and data[:4] == wire2.MAGIC.to_bytes(4, "little") and data[6] == wire2.OK
        good_v1 = self.protocol == 1 and len(data) >= 12 and data[0] in (wire1.OK, wire1.DUPLICATE)
        if good_v1 or good_v2:
            self._accepted(self.name, data)

    def _make(self) -> bytes:
        events = self._space.batch(2, v1=self.protocol == 1, ids=False)
        if not events:
            return b""
        events = [e._replace(ident=e.ident._replace(id="", properties=(("t", self._space.tag()),))) for e in events]
        for event in events:
            self.tags[event.ident] = None
        kind = self._prng.below(6)
        data = self._v1(events, kind) if self.protocol == 1 else self._v2(events, kind)
        end = self._prng.between(1, len(data) - 1) if kind == 5 else len(data)  # it hangs up in mid-frame
        return data[:end]

    def _v2(self, events: list[Event], kind: int) -> bytes:
        payload = bytearray(wire2.ingest_payload(events))
        if kind == 0:
            return bytes(self._prng.below(256) for _ in range(self._prng.between(32, 200)))
        if kind == 1:  # a bit flipped on the way: the checksums tell
            data = bytearray(wire2.frame(self._kernels, wire2.INGEST, 1, bytes(payload)))
            data[self._prng.between(32, len(data) - 1)] ^= 1 << self._prng.below(8)
            return bytes(data)
        if kind == 2:  # one event more than there are
            payload[32] += 1
        elif kind == 3:  # the last row cut off, lengths as before
            del payload[-8:]
        elif kind == 4:  # a dictionary index that is not there
            row = len(payload) - len(wire2.row(events[-1], 0))
            payload[row + 24] = 0xEE
        return wire2.frame(self._kernels, wire2.INGEST, 1, bytes(payload))

    def _v1(self, events: list[Event], kind: int) -> bytes:
        payload = bytearray(wire1.ingest_payload(events))
        if kind == 0:
            return bytes(self._prng.below(256) for _ in range(self._prng.between(16, 200)))
        if kind == 1:
            payload[0] += 1
        elif kind == 2:
            payload += b"\0" * 8
        elif kind == 3:
            payload[8 + 87] = 0xFF  # a value above 2^63 - 1
        elif kind == 4:
            payload[8 + 89] += 1  # a property more than there are
        return wire1.frame(wire1.INGEST_SYNC, 1, bytes(payload))
