"""The parts of a node that serves, put together, and what they need of each other.

Each part knows its own business and as little as possible of the others: whom it must tell or ask is given to it here.
`Serving` (serving.py) adds the order in which they have their turn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from unimeter.config import NodeConfig
from unimeter.core import figures, identity, registry
from unimeter.core.bundles import Bundles
from unimeter.core.callee import Callee
from unimeter.core.calls import Calls, Done
from unimeter.core.catalog_sync import CatalogSync
from unimeter.core.cluster import Cluster
from unimeter.core.coordinator import Coordinator
from unimeter.core.divergence import Divergence
from unimeter.core.door import Door
from unimeter.core.entry import ENTRY_BYTES, head_in
from unimeter.core.fitness import Fitness
from unimeter.core.flow import Flow
from unimeter.core.flows import Flows
from unimeter.core.front_v1 import FrontV1
from unimeter.core.front_v2 import FrontV2
from unimeter.core.group import Group
from unimeter.core.inputs import Now
from unimeter.core.journal import Journal
from unimeter.core.links import Links, Mark
from unimeter.core.moves import Moves
from unimeter.core.outbox import Outbox
from unimeter.core.peers import Peers
from unimeter.core.prng import Prng
from unimeter.core.queries import Reads
from unimeter.core.raft import Raft, Settings
from unimeter.core.records import Records
from unimeter.core.recovery import Recovered
from unimeter.core.refusal import Refused
from unimeter.core.replication import Replication
from unimeter.core.service import Service, Status
from unimeter.core.topology import Topology
from unimeter.core.upkeep import NEVER_NS, Upkeep
from unimeter.kernels import layout
from unimeter.kernels.api import Job, Kernels, Limits

STOPPING: Final = Refused("overloaded", "the node is stopping", "try again when it is back")
LEAVING: Final = Refused("no_leader", "the node is stopping", "ask another node of the cluster")
DISK_FULL: Final = Refused(
    "disk_full", "the node's disk is full", "free space on the data directory's disk; it goes on by itself"
)


class Parts:
    def __init__(
        self,
        kernels: Kernels,
        config: NodeConfig,
        limits: Limits,
        found: Recovered,
        prng: Prng,
        out: Outbox,
        links: Links,
        flows: Flows,
        peers: Peers,
        now: Now,
        wake: Callable[[], None],
        halt: Callable[[str | None], None],
        notice: Callable[[str], None],
        marks: dict[str, int],
    ) -> None:
        self.now = now
        self.recovered = found
        self.groups = found.groups
        self.cluster_id = found.founding.cluster_id
        self.marks = marks
        self._kernels = kernels
        self._config = config
        self._limits = limits
        self._out = out
        self._links = links
        self._flows = flows
        self._peers = peers
        self._wake = wake
        self._halt = halt
        self._notice = notice
        self._started_ns = now.monotonic_ns
        self._thorough = True  # more than requests and records has happened: the next turn looks at everything
        self._fitness_ns = NEVER_NS
        self._thorough_ns = 0  # when a turn looks at everything at the latest
        self._epoch_told = 0
        self._reading = False  # somebody waits for an answer to a read, or did at the last look
        self._held_back_ns = 0  # until when something is held back, as of the last turn
        self._working: dict[int, Group] = {}  # operation -> whose entries it applies
        self._limits_proposed: dict[int, int] = {}  # group -> term in which this node proposed its limits
        self._attach(found, prng)
        self.journal = Journal(kernels, config, self.cluster_id, found.position, found.tail)
        self.journal.next_segment_ready = found.next_segment_ready
        self._log_marks = found.marks
        self.topology = Topology(config.node_id, len(self.groups), found.founding.registry())
        self._hear_of_nodes()
        peers.learn_registry(self.topology.registry)
        self.upkeep = Upkeep(kernels, config, self.journal, self.groups, self._log_marks, found, flows, wake)
        self.records = Records(kernels, config, self.groups, self.journal, self._log_marks, out)
        self.reads = [Reads(group, kernels, config) for group in self.groups]
        self.service = Service(self.groups, self.reads, self.topology, kernels, config)
        self._front_v1 = FrontV1(self.service)
        self._front_v2 = FrontV2(self.service, kernels, self.cluster_id)
        self.replication = Replication(kernels, config, self.groups, peers, self.journal, self._log_marks)
        self.bundles = Bundles(kernels, config, self.groups, peers, self.topology, links)
        self.calls = Calls(peers, self.topology, self._serve_call)
        self.catalogs = CatalogSync(self.groups, self._ask, config.gossip_ns)
        self.divergence = Divergence(self.groups, peers)
        self.cluster = Cluster(
            self.cluster_id, config, self.groups, self.topology, peers, self.replication, self.bundles, self.calls, self.catalogs,
            self.divergence,
        )  # fmt: skip
        self.moves = Moves(self.groups, 3 * config.heartbeat_ns)
        self.fitness = Fitness(
            config, self.groups, self.cluster, self.moves, self.upkeep, self.journal, self.records, halt
        )  # fmt: skip
        self.coordinator = Coordinator(config, self.groups[0], self.cluster, self._ask, notice)
        self._callee = Callee(
            self.groups, self.service, self.catalogs, self.moves, self.coordinator, lambda: self.now.monotonic_ns
        )  # fmt: skip
        self.door = Door(
            kernels, self.groups, self.topology, links, self.service, (self._front_v1, self._front_v2)
        )  # fmt: skip
        self._connect()

    def _attach(self, found: Recovered, prng: Prng) -> None:
        config = self._config
        settings = Settings(
            config.election_min_ns,
            config.election_max_ns,
            config.heartbeat_ns,
            config.append_bytes_max,
            config.inflight_bytes_max,
            config.inflight_messages_max,
        )
        for replay in found.replays:
            log, hard, confs = replay.raft_parts()
            raft = Raft(found.identity.replica, settings, prng, log, hard, confs, self.now.monotonic_ns)
            replay.group.attach(raft)
            if raft.conf.electorate() == (raft.replica,):
                raft.campaign(self.now.monotonic_ns)  # nobody else could be elected

    def _hear_of_nodes(self) -> None:
        """Entries whose fate is not known yet may speak of nodes that this one must reach to learn it: after a restart
        the saved commit index may be older than they are."""
        log = self.groups[0].raft.log
        for index in range(log.last_index, self.groups[0].applied_index, -1):
            entry = log.entry(index)
            assert entry is not None, "entries that are not applied are in memory"
            if head_in(entry).kind == layout.UM_ENTRY_CLUSTER:
                self._peers.hear_of(registry.decode(bytes(entry.data[ENTRY_BYTES:])))
                return

    def _connect(self) -> None:
        """Give the parts what they need of each other."""
        self.service.status = self._status
        self.service.refuse_writes = self._write_refusal
        self.service.call = self._ask
        self.service.change_catalog = lambda body, done: self._ask(0, "catalog", {"body": body}, done)
        self._front_v2.operate = lambda body, done: self._ask(0, "cluster", body, done)
        self.door.write_refusal = self._write_refusal
        self.door.may_forward = self.cluster.may_forward
        self.replication.start_flow = self._start_flow
        self.replication.unreadable = self.fitness.found_unreadable
        for reads in self.reads:
            reads.unreadable = self.fitness.found_unreadable
            reads.on_waiting = self._read_waits
        for group in self.groups:
            group.on_special = self._special_applied
            group.work = partial(self._work, group)
            group.touch = self._out.touch
            group.may_run_ahead = self._may_run_ahead
            group.on_settled = self._settled
        self._flows.is_settled = lambda number: not self.groups[number].aside
        self.records.rolled = self._rolled
        self.fitness.notice = self._notice
        self.fitness.mark_reached = self.mark_reached
        self.fitness.condemn = lambda: self._start_flow(self.upkeep.condemn(self.recovered))
        self.catalogs.got = self._got_catalog
        self.divergence.halt = self._diverged
        self.divergence.notice = self._notice
        self.cluster.notice = self._notice

    # ---- what they need of each other ----

    def _work(self, group: Group, job: Job) -> int:
        op = self._out.apply(job)
        self._working[op] = group
        return op

    def _may_run_ahead(self) -> bool:
        """A checkpoint begins when the state holds only what is durable."""
        return not self.upkeep.checkpoint_due

    def _rolled(self) -> None:
        self.look_round()
        self.upkeep.want_segment(self.now.monotonic_ns)

    def _special_applied(self) -> None:
        """Something of the catalog, the cluster or the limits has changed."""
        self.service.forget_newest()
        self.look_round()

    def _got_catalog(self, dump: bytes) -> None:
        self.cluster.spare_version = self.service.take_catalog(dump)

    def _read_waits(self) -> None:
        self._reading = True

    def _start_flow(self, flow: Flow[None]) -> None:
        def ended(_: None) -> None:
            self._wake()

        self._flows.start(flow, ended, lambda: None)

    def _settled(self, group: Group) -> None:
        """For this moment its state can be asked."""
        self._serve_reads_of(group)
        self._flows.settled(group.number)

    def _serve_reads_of(self, group: Group) -> None:
        reads = self.reads[group.number]
        if reads.idle:
            return
        reads.turn(self.now.monotonic_ns)
        if group.aside:
            return  # they are served when that is done
        for scan in reads.due():

            def ended(_: None, reads: Reads = reads) -> None:
                reads.scan_ended()
                self._wake()

            self._flows.start(scan, ended, lambda: None)

    def look_round(self) -> None:
        """Something has happened that is neither a request nor the end of a journal write: the next turn is a thorough
        one. (A turn that only brings requests on costs what these cost, however many groups and peers there are.)"""
        self._thorough = True

    def mark_reached(self, situation: str) -> None:
        self.marks[situation] = self.marks.get(situation, 0) + 1

    # ---- who asks for what ----

    def _ask(self, group: int, what: str, body: dict[str, Any], done: Done) -> None:
        self.calls.ask(self.now.monotonic_ns, group, what, body, done)
        self.look_round()
        self._wake()

    def _serve_call(self, what: str, number: int, body: dict[str, Any], done: Done) -> None:
        """Another node, or this one, wants something of a group that this node leads. May raise Refused."""
        self._callee.serve(what, number, body, done)
        self.look_round()
        self._wake()

    # ---- clients that leave ----

    def mark(self) -> Mark:
        """Everything that was asked until now."""
        to_come = sum(group.open_batches > 0 for group in self.groups)  # at most so many bundles of what is open
        return Mark(tuple(group.index_of_newest() for group in self.groups), self.bundles.newest + to_come)

    def past(self, mark: Mark) -> bool:
        """Has everything its answer that was asked before that mark?"""
        applied = all(
            group.applied_index >= index or not group.waits()
            for group, index in zip(self.groups, mark.indexes, strict=False)
        )
        return applied and self.bundles.oldest > mark.bundle and not any(g.open_batches for g in self.groups)

    # ---- refusals and stopping ----

    def _write_refusal(self, size_bytes: int) -> Refused | None:
        """Why nothing of `size_bytes` can be taken into the log now, if so."""
        if self.fitness.stopping:
            return LEAVING if len(self.topology.registry.nodes) > 1 else STOPPING
        if self.fitness.no_room and any(group.leading for group in self.groups):
            waiting = sum(group.waiting_bytes() for group in self.groups)
            if waiting + size_bytes + 2 * ENTRY_BYTES > self.journal.room_bytes():
                return DISK_FULL
        return None

    def stop(self) -> None:
        """Hand over what this node leads, finish what is under way, write a checkpoint, halt."""
        self.fitness.stop(self.now.monotonic_ns)

    def files(self) -> list[str]:
        """What the directory holds."""
        return [identity.FILE, identity.FOUNDING_FILE, *self.upkeep.files()]

    def _diverged(self, why: str) -> None:
        self.mark_reached("diverged")
        self._flows.start(self.upkeep.condemn(self.recovered), lambda _: self._halt(why), lambda: self._halt(why))

    # ---- figures ----

    def _status(self) -> Status:
        position = self.journal.position
        return Status(
            node_id=self._config.node_id,
            journal_bytes=(position.segment - 1) * self._config.segment_bytes + position.offset,
            segments=position.segment,
            series=sum(group.state.region_counts()[layout.UM_R_SERIES] for group in self.groups),
            uptime_ns=self.now.monotonic_ns - self._started_ns,
            events=sum(group.meta().stored for group in self.groups),
        )

    def counters(self) -> dict[str, int]:
        """Figures for operators, by name with the unit last."""
        return figures.counters(self)
