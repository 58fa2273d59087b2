"""A write is committed when some node knows it to be, and everybody may have heard of it by then: a query that is sent afterwards
reflects it, whichever node answers. A leader that was paused or cut off, and has a successor that it does not know of, must
not answer from its past."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unimeter.core.raft.raft import Raft
from unimeter.sim.host import Host
from unimeter.sim.invariant import Invariant
from unimeter.sim.requests import ACKED, Query, Request

if TYPE_CHECKING:
    from unimeter.sim.runner import Run


class Check(Invariant):
    sentence = (
        "For all queries, they always reflect every entry that any node knew to be committed when they were sent."
    )
    canary = "reads_without_asking"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._committed: dict[int, int] = {}  # group -> greatest index that some node knows to be committed
        self._floors: dict[int, int] = {}  # query -> what that was when it was sent first

    def moved(self, host: Host, group: int, raft: Raft, fresh: bool) -> None:
        if raft.commit > self._committed.get(group, 0):
            self._committed[group] = raft.commit

    def sent(self, request: Request) -> None:
        if isinstance(request, Query):
            self._floors[request.number] = self._committed.get(self.run.places.group_of(request.account), 0)

    def settled(self, request: Request) -> None:
        if isinstance(request, Query) and request.state == ACKED and request.index >= 0:
            floor = self._floors[request.number]
            if floor and not self.holds(request.index >= floor):
                self.fail(
                    f"{request.describe()} reflects index {request.index}; when it was sent, {floor} was known to be committed"
                )
