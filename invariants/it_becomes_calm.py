"""Liveness: once everything is healed, every client gets its answers, every process gets ready and every clean stop
ends, within a bound of virtual time. In a cluster: every group has a leader, nobody counts on a replica that is gone, and
leaders are spread evenly."""

from __future__ import annotations

from unimeter.sim.invariant import Invariant


class Check(Invariant):
    sentence = "For all runs, once the faults are healed, everybody who waits is served within the bound, always."
    canary = "loses_a_completion"

    def calmed(self, in_time: bool, waiting: list[str]) -> None:
        self.check(
            in_time,
            f"after {self.run.scenario.calm_ms} ms of calm still waiting: {waiting}; nodes: {self.run.cluster.describe()}",
        )
