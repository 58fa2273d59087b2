"""Memory and queues are bounded by named limits, on every step and not only on average."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from unimeter.core.effects import Effect
from unimeter.core.group import Group
from unimeter.core.inputs import FramesArrived, Input
from unimeter.kernels.api import GroupState
from unimeter.sim.host import Host
from unimeter.sim.invariant import Invariant
from unimeter.sim.requests import EventList, Query, Request
from unimeter.sim.scenario import REGIONS

if TYPE_CHECKING:
    from unimeter.sim.runner import Run

EVERY_STEPS: Final = 64
CHECKPOINTS_MAX: Final = 3  # two kept and one being written


class Check(Invariant):
    sentence = (
        "For all nodes at all times, tables, queues, entries, files and answers stay within their limits, always."
    )
    canary = "keeps_every_checkpoint"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._steps = 0

    def stepped(self, host: Host, event: Input, effects: list[Effect]) -> None:
        self._steps += 1
        if isinstance(event, FramesArrived):  # nothing else makes an entry grow
            most = host.setup.config.entry_bytes_max
            groups: list[Group] = host.node.groups
            for group in groups:
                if group.open.used_bytes > most:
                    self.fail(f"the open entry has {group.open.used_bytes} bytes, entry_bytes_max is {most}")
        if self._steps % EVERY_STEPS == 0:
            self._tables(host)

    def died(self, host: Host, how: str) -> None:
        checkpoints = [name for name in host.disk.image.files if name.startswith("checkpoint/")]
        self.check(len(checkpoints) <= CHECKPOINTS_MAX, f"{len(checkpoints)} checkpoints on disk: {checkpoints}")

    def about_to_restart(self, host: Host) -> None:
        self._tables(host)

    def _tables(self, host: Host) -> None:
        for group in host.node.groups:
            self._table(group.state)

    def _table(self, state: GroupState) -> None:
        limits = self.run.scenario.limits
        if not self.holds(state.limits() == limits):
            self.fail(f"the state's limits are {state.limits()}")
        for name, used, most in zip(REGIONS, state.region_counts(), limits.records_max, strict=True):
            if used * 10 > most * 8 and most > 1:
                self.run.tables_filled = True
            if used > most:
                self.fail(f"table {name} has {used} records, its limit is {most}")

    def settled(self, request: Request) -> None:
        config = self.run.config
        if isinstance(request, Query) and request.rows:
            self.check(
                len(request.rows) <= config.query_groups_max, f"{request.describe()} has {len(request.rows)} rows"
            )
        elif isinstance(request, EventList) and request.body:
            most = min(config.events_list_max, request.limit)
            self.check(
                len(request.body["events"]) <= most, f"{request.describe()} lists {len(request.body['events'])} events"
            )
