"""Planted bugs in replication: what a node does to its logs, its votes and its members."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from unimeter.core.effects import Effect
from unimeter.core.inputs import Input, Now
from unimeter.core.raft import replication
from unimeter.core.raft.messages import Entry, Kind, Message
from unimeter.sim.canary_registry import canary
from unimeter.sim.wrapped import WrappedKernels, WrappedState

if TYPE_CHECKING:
    from unimeter.sim.host import Host
    from unimeter.sim.runner import Run


def after_each_step(run: Run, meddle: Callable[[Host, Any, Now], None]) -> None:
    """Let somebody meddle with every node behind its back."""
    for host in run.cluster.hosts:
        _meddled(host, meddle)


def _meddled(host: Host, meddle: Callable[[Host, Any, Now], None]) -> None:
    make = host.make_node

    def made(setup: Any) -> Any:
        node = make(setup)
        step = node.step

        def stepped(now: Now, event: Input) -> list[Effect]:
            effects: list[Effect] = step(now, event)
            meddle(host, node, now)
            return effects

        node.step = stepped
        return node

    host.make_node = made


def each_serving(run: Run, spoil: Callable[[Any], None]) -> None:
    """Spoil every node once, as soon as it serves."""

    def meddle(host: Host, node: Any, now: Now) -> None:
        if node.serving is not None and not getattr(node, "spoiled", False):
            node.spoiled = True
            spoil(node)

    after_each_step(run, meddle)


def each_raft(run: Run, spoil: Callable[[Any], None]) -> None:
    """Spoil every replica's Raft, once, as soon as it is there."""

    def meddle(host: Host, node: Any, now: Now) -> None:
        for group in node.groups:
            raft = group.raft
            if not getattr(raft, "spoiled", False):
                raft.spoiled = True
                spoil(raft)

    after_each_step(run, meddle)


@canary
def leads_without_votes(run: Run) -> None:
    """Whoever would like to be elected believes that it is."""

    def meddle(host: Host, node: Any, now: Now) -> None:
        for group in node.groups:
            raft = group.raft
            if raft.role.name == "PRE_CANDIDATE":
                raft.enter(raft.term + 1, raft.replica)
                replication.lead(raft, now.monotonic_ns)

    after_each_step(run, meddle)


@canary
def alters_an_entry_on_its_way(run: Run) -> None:
    """A bit of every fiftieth entry that a follower gets is flipped."""
    count = 0

    def spoil(raft: Any) -> None:
        receive = raft.receive

        def altered(now_ns: int, message: Any) -> None:
            nonlocal count
            if message.kind is Kind.APPEND and message.entries:
                count += 1
                if count % 50 == 0:
                    entry = message.entries[-1]
                    data = bytearray(entry.data)
                    data[-1] ^= 1
                    spoilt = Entry(entry.index, entry.term, bytes(data), entry.conf, entry.head)
                    message = Message(
                        message.kind, message.to, message.sender, message.term, message.index, message.log_term, message.commit,
                        entries=[*message.entries[:-1], spoilt],
                    )  # fmt: skip
            receive(now_ns, message)

        raft.receive = altered

    each_raft(run, spoil)


@canary
def commits_alone(run: Run) -> None:
    """A leader takes for committed what its own disk has."""

    def meddle(host: Host, node: Any, now: Now) -> None:
        for group in node.groups:
            raft = group.raft
            if raft.role.name == "LEADER":
                raft.commit = max(raft.commit, raft.stable_index)

    after_each_step(run, meddle)


@canary
def reads_without_asking(run: Run) -> None:
    """A leader answers reads without asking whether it still leads."""

    def spoil(raft: Any) -> None:
        read = raft.read

        def at_once(now_ns: int, token: int) -> None:
            if raft.role.name == "LEADER":
                raft.reads.done.append((token, raft.commit))
            else:
                read(now_ns, token)

        raft.read = at_once

    each_raft(run, spoil)


@canary
def promises_before_it_is_durable(run: Run) -> None:
    """Votes and acknowledgements do not wait for the disk."""

    def spoil(raft: Any) -> None:
        hold = raft.stable.hold

        def at_once(token: int, index: int, message: Any) -> None:
            if message.to == raft.replica:
                hold(token, index, message)
            else:
                raft.messages.append(message)

        raft.stable.hold = at_once

    each_raft(run, spoil)


@canary
def loses_the_newest_record(run: Run) -> None:
    """A start takes the newest durable record for a torn tail."""
    for host in run.cluster.hosts:
        _shortened(host)


def _shortened(host: Host) -> None:
    make = host.make_node

    def made(setup: Any) -> Any:
        if host.incarnations > 1 and host.disk.newest:
            file, offset = host.disk.newest[0]
            if file in host.disk.image.files:
                block = bytes(host.disk.image.files[file].actual[offset : offset + 64])
                if any(block):
                    host.disk.image.write(file, offset + 64, bytes(4096 - 64))
        return make(setup)

    host.make_node = made


@canary
def one_node_computes_otherwise(run: Run) -> None:
    """Node 2 flips a bit of one bucket after thirty entries."""
    host = run.cluster.hosts[min(1, len(run.cluster.hosts) - 1)]
    kernels = WrappedKernels(run.kernels)
    host.setup = replace(host.setup, kernels=kernels)
    seen = 0

    class Wrong(WrappedState):
        def apply(self, catalog: Any, entry: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == 30 and self.inner.region_counts()[7] > 0:
                for record in range(self.inner.region_counts()[7]):
                    self.inner.flip(7, record * 96 + 24, 3)
            return self.inner.apply(catalog, entry)

    kernels.wrap_state = Wrong


@canary
def is_blind_to_divergence(run: Run) -> None:
    """Nodes do not compare what they computed."""

    def meddle(host: Host, node: Any, now: Now) -> None:
        if node.serving is not None:
            node.serving.divergence.ask = lambda: None

    after_each_step(run, meddle)


@canary
def changes_voters_at_once(run: Run) -> None:
    """A joint configuration is taken for the new one alone."""

    def meddle(host: Host, node: Any, now: Now) -> None:
        for group in node.groups:
            confs = group.raft.confs
            if confs and confs[-1][1].outgoing:
                confs[-1] = (confs[-1][0], confs[-1][1].left())

    after_each_step(run, meddle)


@canary
def believes_what_it_can_read(run: Run) -> None:
    """A replica that cannot read a record in the middle of its journal goes on with what stands before it."""
    for host in run.cluster.hosts:
        kernels = WrappedKernels(run.kernels)
        kernels.journal_find_later = lambda data, seq: -1
        host.setup = replace(host.setup, kernels=kernels)
