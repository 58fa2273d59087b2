"""Liveness: once everything is healed, every client gets its answers, every process gets ready and every clean stop
ends, within a bound of virtual time."""

from __future__ import annotations

from unimeter.sim.host import Host
from unimeter.sim.invariant import Invariant


class Check(Invariant):
    sentence = "For all runs, once the faults are healed, everybody who waits is served within the bound, always."
    canary = "loses_a_completion"

    def calmed(self, in_time: bool, waiting: list[str]) -> None:
        nodes = [f"{host.name}: {_state(host)}" for host in self.run.hosts]
        self.check(in_time, f"after {self.run.scenario.calm_ms} ms of calm still waiting: {waiting}; nodes: {nodes}")


def _state(host: Host) -> str:
    if host.node is None:
        return "down"
    return "ready" if host.node.ready else f"starting ({host.node.progress})"
