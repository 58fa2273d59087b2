"""Numbers that were seen on a link: what must be done once is not done again when it arrives again.

A connection does not repeat what is sent on it; a proxy or a bug between two nodes might, and an ingest request counted
twice would be nobody's mistake but ours. Senders number what they send, ascending; a number that is not new, or so old that
it cannot be told, is not taken.
"""

from __future__ import annotations

from typing import Final

WINDOW: Final = 4096  # numbers that are remembered per link


class Once:
    """O(1) per number, amortised; at most 2 * WINDOW numbers per link."""

    def __init__(self) -> None:
        self._seen: dict[int, dict[int, None]] = {}  # link -> numbers
        self._floor: dict[int, int] = {}  # link -> numbers up to here are too old

    def is_new(self, link: int, number: int) -> bool:
        """True the first time."""
        seen = self._seen.setdefault(link, {})
        if number in seen or number <= self._floor.get(link, 0):
            return False
        seen[number] = None
        if len(seen) > 2 * WINDOW:
            kept = sorted(seen)[WINDOW:]
            self._floor[link] = kept[0] - 1
            self._seen[link] = dict.fromkeys(kept)
        return True

    def forget(self, link: int) -> None:
        """The link is no more."""
        self._seen.pop(link, None)
        self._floor.pop(link, None)
