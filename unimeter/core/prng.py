"""The node's own chance: splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).

Seeded from outside, so that a run can be had again; used for election timeouts and for new identities, never for secrets.
"""

from __future__ import annotations

from typing import Final

_MASK: Final = 2**64 - 1


class Prng:
    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def u64(self) -> int:
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def below(self, bound: int) -> int:
        """0 <= result < bound. The bias is below 2^-32 for bounds below 2^32."""
        assert bound > 0
        return self.u64() % bound
