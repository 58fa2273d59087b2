"""Disks that are slow, full or wrong, or gone; and one bit of memory."""

from __future__ import annotations

from typing import Final

from unimeter.core.effects import Read, Write
from unimeter.core.inputs import DiskError
from unimeter.sim.disk import Operation
from unimeter.sim.fault_base import FaultKinds, Stage
from unimeter.sim.host import Host
from unimeter.sim.prng import Prng
from unimeter.sim.world import MS

ROOM_BYTES: Final = 1 << 40
AT_ONCE: Final = ("failed_sync", "misdirect", "full_disk")  # strike the very operation that they are hooked to


class DiskFaults(FaultKinds):
    kinds = ("slow_disk", "full_disk", "failed_sync", "rot", "misdirect", "wipe", "flip")

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self._next_verdict: dict[str, DiskError] = {}
        self._misdirect_next: dict[str, bool] = {}

    def heal(self) -> None:
        self._misdirect_next.clear()
        self._next_verdict.clear()
        for host in self.cluster.hosts:
            host.disk.settings.slow_factor = 1
            host.disk.settings.capacity_bytes = ROOM_BYTES

    def install(self, host: Host) -> None:
        def verdict(operation: Operation) -> DiskError | None:
            if isinstance(operation, Read) or host.disk.fragile:
                return None
            return self._next_verdict.pop(host.name, None)

        def misdirect(operation: Write) -> bool:
            # never the last write before a stop: nothing would follow it, and nobody could tell it from a torn tail
            if not self._misdirect_next.get(host.name) or host.disk.fragile or host.stop_asked or not host.disk.newest:
                return False
            self._misdirect_next[host.name] = False
            return self.cluster.may_damage(host)

        host.disk.faults.verdict = verdict
        host.disk.faults.misdirect = misdirect

    def slow_disk(self, host: Host, luck: Prng) -> bool:
        host.disk.settings.slow_factor = luck.choice([5, 30, 200])
        self.world.after(luck.between(20 * MS, 500 * MS), self._fast, host)
        return True

    def _fast(self, host: Host) -> None:
        host.disk.settings.slow_factor = 1

    def full_disk(self, host: Host, luck: Prng) -> bool:
        host.disk.settings.capacity_bytes = host.disk.image.used_bytes() + luck.choice([0, 4096, 65536])
        self.world.after(luck.between(20 * MS, 900 * MS), self._room, host)
        return True

    def _room(self, host: Host) -> None:
        host.disk.settings.capacity_bytes = ROOM_BYTES

    def failed_sync(self, host: Host, luck: Prng) -> bool:
        self._next_verdict[host.name] = DiskError.FAILED
        return True

    def rot(self, host: Host, luck: Prng) -> bool:
        if not self.cluster.may_damage(host):
            return False
        where = host.disk.rot()
        if where is not None:
            self.world.note(f"rot in {where} of {host.name}")
        return where is not None

    def misdirect(self, host: Host, luck: Prng) -> bool:
        self._misdirect_next[host.name] = True
        return True

    def wipe(self, host: Host, luck: Prng) -> bool:
        """The machine is replaced by one with an empty disk."""
        if not self.cluster.replicated or not host.replica or not self.cluster.may_damage(host):
            return False
        host.wipe()
        self.stage.restart_later(host, luck)
        return True

    def flip(self, host: Host, luck: Prng) -> bool:
        """One bit of one record in a replica's memory."""
        if not host.up or not host.node.ready or not self.cluster.may_damage(host):
            return False
        groups = [group for group in host.node.groups if group.state.meta().stored > 0]
        if not groups:
            return False
        state = luck.choice(groups).state
        return host.flip(state, luck)
