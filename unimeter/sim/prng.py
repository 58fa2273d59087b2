"""Chance that is the same on every machine: splitmix64, with named streams.

A run has one root; everything that needs luck asks it for a stream by name and draws only from that. So a new
draw in the network leaves the disk's luck as it was, and a shrunk run stays close to the run it came from.
Only integers and exact float comparisons are used: no logarithm, no library that may differ by a last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

T = TypeVar("T")

MASK = 0xFFFFFFFFFFFFFFFF
GOLDEN = 0x9E3779B97F4A7C15


class Prng:
    """One stream of chance. All operations are O(1)."""

    __slots__ = ("_name", "_state")

    def __init__(self, seed: int, name: str = "root") -> None:
        digest = blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
        self._state = int.from_bytes(digest, "little")
        self._name = f"{seed}/{name}"

    def stream(self, name: str) -> Prng:
        """An independent stream; the same name gives the same stream, however much was drawn before."""
        return Prng(0, f"{self._name}/{name}")

    def u64(self) -> int:
        self._state = state = (self._state + GOLDEN) & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        return state ^ (state >> 31)

    def below(self, limit: int) -> int:
        """A number in [0, limit)."""
        assert limit > 0
        return (self.u64() * limit) >> 64

    def between(self, low: int, high: int) -> int:
        """A number in [low, high], both included."""
        assert low <= high
        return low + ((self.u64() * (high - low + 1)) >> 64)

    def chance(self, probability: float) -> bool:
        return self.u64() < int(probability * 18446744073709551616.0)

    def choice(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def weighted(self, weights: Sequence[tuple[T, int]]) -> T:
        """One of the items, by integer weights."""
        at = self.below(sum(weight for _, weight in weights))
        for item, weight in weights:
            if at < weight:
                return item
            at -= weight
        raise AssertionError("weights do not add up")

    def shuffle(self, items: list[T]) -> None:
        u64 = self.u64
        for last in range(len(items) - 1, 0, -1):
            other = (u64() * (last + 1)) >> 64
            items[last], items[other] = items[other], items[last]
