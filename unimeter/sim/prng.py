"""Chance that is the same on every machine: a chain of hashes, with named streams.

A run has one root; everything that needs luck asks it for a stream by name and draws only from that. So a new
draw in the network leaves the disk's luck as it was, and a shrunk run stays close to the run it came from.
Only integers and exact float comparisons are used: no logarithm, no library that may differ by a last bit.

    name -> blake2b -> 8 numbers -> blake2b -> 8 numbers -> ...

A run draws thousands of numbers. Eight of them for one call of a hash that is C cost a third of what arithmetic in Python costs.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, TypeVar

T = TypeVar("T")

_BLOCK: Final = struct.Struct("<8Q")


class Prng:
    """One stream of chance. All operations are O(1)."""

    __slots__ = ("_ahead", "_digest", "_name")

    def __init__(self, seed: int, name: str = "root") -> None:
        self._name = f"{seed}/{name}"
        self._digest = self._name.encode()
        self._ahead: list[int] = []  # numbers that were made and not drawn yet

    def stream(self, name: str) -> Prng:
        """An independent stream; the same name gives the same stream, however much was drawn before."""
        return Prng(0, f"{self._name}/{name}")

    def _refill(self) -> int:
        self._digest = blake2b(self._digest).digest()
        ahead = self._ahead
        ahead += _BLOCK.unpack(self._digest)
        return ahead.pop()

    def u64(self) -> int:
        ahead = self._ahead
        return ahead.pop() if ahead else self._refill()

    def below(self, limit: int) -> int:
        """A number in [0, limit)."""
        assert limit > 0
        ahead = self._ahead
        return ((ahead.pop() if ahead else self._refill()) * limit) >> 64

    def between(self, low: int, high: int) -> int:
        """A number in [low, high], both included."""
        assert low <= high
        ahead = self._ahead
        return low + (((ahead.pop() if ahead else self._refill()) * (high - low + 1)) >> 64)

    def chance(self, probability: float) -> bool:
        ahead = self._ahead
        return (ahead.pop() if ahead else self._refill()) >> 16 < probability * 281474976710656.0  # 2 ** 48: exact

    def choice(self, items: Sequence[T]) -> T:
        ahead = self._ahead
        return items[((ahead.pop() if ahead else self._refill()) * len(items)) >> 64]

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
