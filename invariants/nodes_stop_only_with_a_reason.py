"""A process ends because it was asked to, because a write failed, or because it names damage that is there. It
never raises, and never stops for something that did not happen."""

from __future__ import annotations

from unimeter.sim.host import Host
from unimeter.sim.invariant import Invariant


class Check(Invariant):
    sentence = "For all processes that end themselves, always the world gave them the reason that they state."
    canary = "stops_without_a_reason"

    def broke(self, host: Host, error: Exception) -> None:
        self.fail(f"the node raised:\n{error}")

    def halted(self, host: Host, reason: str | None) -> None:
        if reason is None:
            self.check(host.stop_asked, "the node stopped cleanly, but nobody had asked it to")
        elif "write to the disk failed" in reason:
            self.check(host.disk.failures > 0, f"{reason!r}, but no write had failed")
        elif "disk is full" in reason:
            self.check(host.disk.refusals > 0, f"{reason!r}, but there was always room")
        elif "divergence" in reason:
            self.check(host.flipped, f"{reason!r}, but its memory is as it was computed")
        else:
            damaged = host.disk.image.tainted()
            self.check(any(name in reason for name in damaged), f"{reason!r}, but damaged are only {damaged}")
