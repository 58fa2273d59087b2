"""A peer that is none: it connects to the port where nodes hear each other, and sends noise, broken frames, frames of clients, or
sound frames that say nothing sensible. The node hangs up, and nothing else happens."""

from __future__ import annotations

from unimeter.sim import wire2
from unimeter.sim.network import End
from unimeter.sim.vandal import Vandal

PEER_TYPE_MIN, PEER_TYPE_MAX = 0x60, 0x6F  # core/peer_wire.py: the first of them says hello


class PeerVandal(Vandal):
    def _answered(self, end: End, data: bytes) -> None:
        """The node may say hello; it does not say more to a stranger."""

    def _make(self) -> bytes:
        luck = self._prng
        kind = luck.below(4)
        noise = bytes(luck.below(256) for _ in range(luck.between(32, 160)))
        if kind == 0:
            return noise
        if kind == 1:  # of a client, at the wrong door
            return self._v2(self._space.batch(2, v1=False, ids=False), 2)
        data = bytearray(wire2.frame(self._kernels, luck.between(PEER_TYPE_MIN, PEER_TYPE_MAX), 1, noise))
        if kind == 2:  # a bit flipped on the way
            data[luck.below(len(data))] ^= 1 << luck.below(8)
        return bytes(data)
