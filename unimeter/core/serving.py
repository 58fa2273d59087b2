"""A node that serves: the order in which its parts have their turn.

   requests, peers' messages      change what is open, and what Raft wants; if the journal is free, a record begins at once
   end of the turn                 apply > seal > save (one journal record for all groups) > forward > reads > send
   the record is durable           Raft is told > the next record > apply > answers
(What waits meanwhile goes into the next record together: that makes records grow with the load, and no timer. Only little of
much that is on its way waits for more, a millisecond at most: lockstep.py.)
"""

from __future__ import annotations

from unimeter.core.group import Group
from unimeter.core.parts import Parts
from unimeter.core.raft import Role
from unimeter.core.sealed import LEADER_CHANGED
from unimeter.core.upkeep import NEVER_NS
from unimeter.kernels import layout
from unimeter.kernels import protocol as wire


class Serving(Parts):
    # ---- once per turn ----

    def turn(self) -> int:
        """Returns when to come again (monotonic ns)."""
        now_ns = self.now.monotonic_ns
        self.replication.tick(now_ns)
        self._apply()
        stopping = self.fitness.stopping
        thorough = self.cluster.look(now_ns) or self._thorough or now_ns >= self._thorough_ns or stopping
        if thorough or self.upkeep.due(now_ns):
            self.upkeep.turn(now_ns)
            self._fitness_ns = self.fitness.turn(now_ns)
            if self.fitness.retired:
                return NEVER_NS
        self._lead()
        self._flush()
        self._order()
        self._run_ahead()
        self._answer_ordered()
        bundles_ns = self.bundles.turn(now_ns)
        self._serve_reads()
        if thorough:
            self._keep_house(now_ns)
        self.cluster.answer()
        self.send()
        if self.topology.epoch != self._epoch_told:
            self._epoch_told = self.topology.epoch
            self._links.tell_watchers(self.door.push_of)
        next_ns = min(bundles_ns, self._thorough_ns, self.replication.deadline_ns())
        until_ns = self.records.held_back_until_ns
        if until_ns:
            next_ns = min(next_ns, until_ns)
            if until_ns != self._held_back_ns:
                self.mark_reached("held_back")
        self._held_back_ns = until_ns
        return min(next_ns, self.fitness.drain(now_ns)) if stopping else next_ns

    def _lead(self) -> None:
        """What a leader owes its groups besides entries of requests."""
        for group in self.groups:
            raft = group.raft
            if raft.role is not Role.LEADER:
                if group.pending_control:
                    for control in group.take_control():
                        control.done(LEADER_CHANGED)
                continue
            if not raft.accepting:
                continue
            self.moves.turn(group)
            if (
                self._limits_proposed.get(group.number) != raft.term
                and raft.own_term_committed
                and group.applied_index >= raft.commit
            ):
                self._limits_proposed[group.number] = raft.term
                if group.state.limits() != self._limits:
                    group.propose(layout.UM_ENTRY_LIMITS, layout.encode_limits(self._limits), lambda _: None)

    def _order(self) -> None:
        """What the journal did not take: give async requests their place all the same, within bounds, and followers their
        work: they write while this node's disk is busy with something else."""
        for group in self.groups:
            if not group.leading:
                continue
            if group.may_seal_for_async():
                group.seal(self.now.monotonic_ns, self.now.wall_ns)
            elif group.may_seal_for_followers():
                self.mark_reached("sent_before_written")
                group.seal(self.now.monotonic_ns, self.now.wall_ns)

    def _run_ahead(self) -> None:
        """What is being written, or waits for the disk: begin to apply it meanwhile."""
        many = self._config.apply_aside_rows
        for group in self.groups:
            if group.next_row - group.applied_row >= many and group.runs_ahead():
                self._links.answer(group.apply_committed())

    def _keep_house(self, now_ns: int) -> None:
        """Gossip, calls to other nodes, the catalog, the coordinator's work."""
        self._thorough = False  # what happens from here on is for the next turn
        self._thorough_ns = min(
            self.cluster.turn(now_ns),
            self.calls.turn(now_ns),
            self.catalogs.turn(now_ns),
            self.coordinator.turn(now_ns),
            self.upkeep.retry_ns,
            self._fitness_ns,
        )

    # ---- at once ----

    def hurry(self) -> None:
        """Requests or messages have arrived: what can be done about them at once is not left to the end of the turn. A
        request that is alone costs a step, and not a turn."""
        written = self._flush()
        if not written and not self.records.idle:
            self._order()
        shadow = written and not self.records.lone
        if not shadow:  # else apply while the disk works, which it does once this step is over
            self._apply()
            self._serve_reads()
        self._answer_ordered()
        self.send()
        if shadow or self._has_more_to_do():
            self._wake()

    def seal_many(self) -> None:
        """More has arrived, and the turn's end sees to it: what is much already gets its place."""
        for group in self.groups:
            if group.leading and group.may_seal_many():
                group.seal(self.now.monotonic_ns, self.now.wall_ns)

    def glance(self, data: bytes) -> bytes | None:
        """Answer a lone read, if its group can be read as it is now."""
        number = 0
        if len(self.groups) > 1:
            account = int.from_bytes(data[wire.V1_REQUEST_HEADER.size : wire.V1_REQUEST_HEADER.size + 8], "little")
            number = self.service.group_of(account)
        if not self.reads[number].at_once():
            return None
        group = self.groups[number]
        return group.state.glance(self.service.catalog.compiled, group.catalog.compiled, data)

    # ---- when the disk or another thread is done ----

    def written(self) -> None:
        """The record in flight is durable."""
        self.records.written(self.now.monotonic_ns)
        busy = self._flush()
        self.send()  # with what the record seals: followers write it while this node does
        if busy:
            self._wake()  # the disk works again: apply in its shadow, at the end of the turn
            return
        self._apply()
        self._serve_reads()
        if self._has_more_to_do():
            self._wake()

    def applied(self, op: int) -> None:
        """Entries that were applied aside are done."""
        group = self._working.pop(op, None)
        if group is not None:
            here = "applied_before_durable" if group.tentative else "applied_aside"
            self.mark_reached(here if group.aside_op == op else "applied_aside_waited_for")
            self._links.answer(group.applied_aside(op))
        self._apply()
        self._answer_ordered()
        self._serve_reads()
        self.send()
        if self._has_more_to_do():
            self._wake()

    # ---- steps of all these ----

    def _flush(self) -> bool:
        return self.records.flush(self.now)

    def _apply(self) -> None:
        many = self._config.apply_aside_rows
        for group in self.groups:
            ahead = group.next_row - group.applied_row >= many and group.runs_ahead()
            if ahead or group.raft.commit > group.applied_index:
                self._links.answer(group.apply_committed())
            if group.aside or not self._links.subscriptions:
                continue
            if self._links.push_alerts(group.number, group.state, group.alert_next):
                self._wake()

    def _serve_reads(self) -> None:
        if not self._reading:
            return
        self._reading = False
        for reads in self.reads:
            if not reads.idle:
                self._serve_reads_of(reads.group)
                self._reading = self._reading or not reads.idle

    def _answer_ordered(self) -> None:
        for group in self.groups:
            if group.has_ordered():
                self._links.answer(group.ordered_replies())

    def send(self) -> None:
        self.replication.fetch()
        self.replication.send()

    def _has_more_to_do(self) -> bool:
        """Is there anything left that only a turn does?"""
        now_ns = self.now.monotonic_ns
        if self.cluster.look(now_ns) or self.upkeep.due(now_ns):
            return True
        if self._thorough or self.fitness.stopping or self.replication.waits or self._links.leaving:
            return True
        held_back_ns = self.records.held_back_until_ns
        if held_back_ns and held_back_ns != self._held_back_ns:
            return True
        for group in self.groups:  # a generator costs as much as what it asks
            if group.has_ordered() or (group.pending_control if held_back_ns else self._has_more_in(group)):
                return True
        return False

    @staticmethod
    def _has_more_in(group: Group) -> bool:
        return group.may_seal() if group.raft.accepting else group.has_work()

    def ready(self) -> bool:
        """Can it serve or redirect, whatever group a request is for?"""
        own = self._config.node_id
        return self.topology.complete() and all(
            group.leading for group in self.groups if self.topology.leader(group.number) == own
        )
