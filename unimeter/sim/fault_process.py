"""Processes that die, stop, and stand still; clocks that are set."""

from __future__ import annotations

from typing import Final

from unimeter.sim.disk import KILL, POWER_CUT
from unimeter.sim.fault_base import FaultKinds
from unimeter.sim.host import Host
from unimeter.sim.prng import Prng
from unimeter.sim.world import MS, SECOND

DAY_NS: Final = 86_400 * SECOND


class ProcessFaults(FaultKinds):
    kinds = ("kill", "power_cut", "blackout", "stop", "pause", "clock_jump")

    def heal(self) -> None:
        for host in self.cluster.hosts:
            host.paused_until_ns = min(host.paused_until_ns, self.world.now_ns)

    def kill(self, host: Host, luck: Prng) -> bool:
        return self._crash(host, KILL, luck)

    def power_cut(self, host: Host, luck: Prng) -> bool:
        return self._crash(host, POWER_CUT, luck)

    def blackout(self, host: Host, luck: Prng) -> bool:
        """The power fails for everybody at once."""
        if not all(_may_crash(each) for each in self.cluster.members if each.up):
            return False
        return sum([self._crash(each, POWER_CUT, luck) for each in self.cluster.members]) > 0

    def _crash(self, host: Host, kind: str, luck: Prng) -> bool:
        if not host.up or not _may_crash(host):
            return False
        host.crash(kind)
        self.stage.restart_later(host, luck, luck.choice([60, 60, 300]) * MS if self.cluster.replicated else 60 * MS)
        return True

    def stop(self, host: Host, luck: Prng) -> bool:
        if not host.up or not _may_crash(host):
            return False
        host.stop()
        return True

    def pause(self, host: Host, luck: Prng) -> bool:
        host.pause(luck.between(5 * MS, 400 * MS))
        return host.up

    def clock_jump(self, host: Host, luck: Prng) -> bool:
        size = luck.choice([MS, SECOND, 60 * SECOND, 3600 * SECOND, 3 * DAY_NS])
        host.wall.jump(luck.between(-size, size))
        return True


def _may_crash(host: Host) -> bool:
    return not host.disk.fragile and not host.disk.lying
