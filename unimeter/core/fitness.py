"""Should this node lead? And how it stops, or gives up what it cannot read.

    disk full      leads nothing while that is so, if anybody else can
    unreadable     durable records cannot be read: lets others lead, condemns its directory, retires (rejoin.py)
    stopping       hands over, ends what is under way, writes a last checkpoint, halts

Leadership is handed over, not dropped: writes stand still for a round trip and not for an election.
"""

from __future__ import annotations

from collections.abc import Callable

from unimeter.config import NodeConfig
from unimeter.core.cluster import Cluster
from unimeter.core.group import Group
from unimeter.core.journal import Journal
from unimeter.core.moves import Moves
from unimeter.core.raft import Role
from unimeter.core.records import Records
from unimeter.core.upkeep import NEVER_NS, Upkeep


class Fitness:
    """`condemn`: a flow that marks the directory as not to be believed.
    `halt(None)` ends the process cleanly. `retired`: nothing is under way, nothing led; the node may end, for that reason."""

    def __init__(
        self,
        config: NodeConfig,
        groups: list[Group],
        cluster: Cluster,
        moves: Moves,
        upkeep: Upkeep,
        journal: Journal,
        records: Records,
        halt: Callable[[str | None], None],
    ) -> None:
        self._config = config
        self._groups = groups
        self._cluster = cluster
        self._moves = moves
        self._upkeep = upkeep
        self._journal = journal
        self._records = records
        self._halt = halt
        self.stopping = False
        self._stop_by_ns = NEVER_NS
        self._unreadable = ""  # why this node should begin anew
        self._again_ns = 0  # not before: try again to let others lead
        self.retired = ""
        self.notice: Callable[[str], None] = lambda _line: None
        self.mark_reached: Callable[[str], None] = lambda _situation: None
        self.condemn: Callable[[], None] = lambda: None

    @property
    def no_room(self) -> bool:
        """The disk is full, and not even the next segment is there."""
        return self._upkeep.disk_full and not self._journal.next_segment_ready

    def turn(self, now_ns: int) -> int:
        """A node that can take nothing in, or cannot read what it has, lets others lead while that is so. Returns when
        to come again."""
        self._cluster.unfit = self.no_room or self.stopping or bool(self._unreadable)
        if not self._cluster.unfit:
            return NEVER_NS
        if now_ns >= self._again_ns:
            self._again_ns = now_ns + self._config.election_min_ns
            if self._hand_over(now_ns) and self._unreadable and self._records.idle and not self._upkeep.busy:
                self.retired = self._unreadable
        return self._again_ns

    def _hand_over(self, now_ns: int) -> bool:
        """Let others lead what this node leads. True: it leads nothing."""
        leads_nothing = True
        for group in self._groups:
            if group.raft.role is Role.LEADER:
                leads_nothing = False
                heir = self._moves.heir(now_ns, group, self._may_lead)
                if heir:
                    group.raft.transfer(now_ns, heir)
        return leads_nothing

    def _may_lead(self, replica: int) -> bool:
        return self._cluster.may_lead(self._cluster.node_of(replica))

    # ---- what cannot be read ----

    def found_unreadable(self, why: str) -> None:
        """Durable records cannot be read. Where there are others who have them, this node begins anew (rejoin.py)."""
        if self._unreadable:
            return
        self.notice(f"the journal cannot be read: {why}")
        if any(len(group.raft.conf.electorate()) > 1 for group in self._groups):
            self._unreadable = why
            self.mark_reached("found_unreadable")
            self._cluster.mute = True
            self.condemn()

    # ---- stopping ----

    def stop(self, now_ns: int) -> None:
        """Hand over what this node leads, finish what is under way, write a checkpoint, halt."""
        self.stopping = True
        self._stop_by_ns = now_ns + 2 * self._config.election_max_ns
        self._cluster.unfit = True
        self._hand_over(now_ns)

    def drain(self, now_ns: int) -> int:
        """Stopping: once nothing is under way (or nothing more can be had), write a last checkpoint, then halt cleanly.
        Returns when to come again."""
        in_time = now_ns < self._stop_by_ns
        next_ns = self._stop_by_ns if in_time else NEVER_NS  # afterwards only the disk is waited for
        if not self._records.idle or self._upkeep.checkpointing:
            return next_ns
        busy = any(g.has_work() or g.waits() or (g.raft.heir and g.raft.role is Role.LEADER) for g in self._groups)
        if busy and in_time:
            return next_ns
        unsaved = self._upkeep.bytes_since_checkpoint() > 0 and not self._upkeep.disk_full
        if not unsaved or not self._upkeep.begin_checkpoint(now_ns):
            self._halt(None)
        return next_ns
