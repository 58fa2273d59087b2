"""How fast followers that are far behind are served from the journal, so that clients hardly notice.

While this node's journal grows (clients are writing), catching up may use `base` bytes a second, and as much again as the
groups grow by that this node leads: so a follower gains on the leader by `base`, whatever the load. While the journal stands
still, nobody is disturbed, and there is no limit. A bucket that holds BURST_BYTES.
"""

from __future__ import annotations

from typing import Final

from unimeter.config import SECOND_NS

BURST_BYTES: Final = 2 * 1024 * 1024
CALM_NS: Final = SECOND_NS // 5  # a journal that did not grow for so long stands still


class Pace:
    def __init__(self, base_bytes_per_second: int) -> None:
        self._base = base_bytes_per_second
        self._tokens = BURST_BYTES
        self._at_ns = 0
        self._journal_bytes = 0
        self._led_bytes = 0
        self._grew_ns = -CALM_NS

    def wait_ns(self, now_ns: int, journal_bytes: int, led_bytes: int) -> int:
        """0: reading may begin; else how long to wait. `journal_bytes`: written by this process so far; `led_bytes`: of
        entries that it made as leader."""
        if journal_bytes != self._journal_bytes:
            self._grew_ns = now_ns
        refill = led_bytes - self._led_bytes + (now_ns - self._at_ns) * self._base // SECOND_NS
        self._tokens = min(BURST_BYTES, self._tokens + refill)
        self._at_ns, self._journal_bytes, self._led_bytes = now_ns, journal_bytes, led_bytes
        if self._tokens > 0 or now_ns - self._grew_ns >= CALM_NS:
            return 0
        return -self._tokens * SECOND_NS // self._base + 1

    def took(self, size_bytes: int) -> None:
        self._tokens = max(-2 * BURST_BYTES, self._tokens - size_bytes)
