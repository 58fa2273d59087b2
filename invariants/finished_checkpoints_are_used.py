"""A checkpoint that is finished is durable, and the newest one stays until a newer is finished. So a start goes on from there (or from
a newer one, of which the process had not heard yet), and the time that it takes is bounded by what came since."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unimeter.sim.host import Host
from unimeter.sim.invariant import Invariant

if TYPE_CHECKING:
    from unimeter.sim.runner import Run


class Check(Invariant):
    sentence = "For all starts that meet no damage, a node always goes on from the newest checkpoint that it had finished, or a newer one."
    canary = "cannot_load_what_it_saved"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._newest: dict[tuple[str, int], str] = {}  # (host, its disk) -> file
        self._misread: dict[str, int] = {}  # host -> reads of damage before its process; absent: looked at already

    def booted(self, host: Host) -> None:
        self._misread[host.name] = host.disk.tainted_reads

    def died(self, host: Host, how: str) -> None:
        self._note(host)

    def ending(self, host: Host) -> None:
        self._note(host)

    def _note(self, host: Host) -> None:
        node = host.node
        if node is not None and node.serving is not None:
            self._newest[host.name, node.replica] = node.serving.upkeep.newest_checkpoint

    def applied(self, host: Host, group: int, index: int, digest: int, fresh: bool) -> None:
        misread = self._misread.pop(host.name, None) if fresh else None
        finished = self._newest.get((host.name, host.node.replica), "")
        if misread == host.disk.tainted_reads and finished:  # damage is the affair of rot_is_never_silent
            used = host.node.recovered.checkpoints
            self.check(
                bool(used) and used[-1] >= finished,
                f"{host.name} had finished {finished}, and went on from {used[-1] if used else 'the beginning'}",
            )
