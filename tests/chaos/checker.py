"""What must be true of a history, and of what the nodes say at its end. Pure: no sockets, no clocks.

For all reads of a key (an account and a metric), always:
    at least everything that was acknowledged before the read began,
    at most everything that was sent before the read was answered,
    and never less than another read that was answered before this one began.
For all accounts, at the end: every acknowledged event is listed, none is listed twice, none that nobody sent; and every
    total is what the events add up to (of those that nobody knows about: the ones that are listed).
For all groups, at the end: the replicas are at the same index with the same digest.
For all calls of the SDK: they may fail only if the cluster was never whole for long enough to be asked again.

Each function returns sentences about what is wrong; none means that nothing is.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

from tests.chaos.history import Fault, History, Trouble
from tests.chaos.plan import METRICS, REGIONS, SEATS, Kind, Planned, tag_of

SAID_MAX = 8  # sentences about one kind of thing
ALONE_SECONDS = 3.0  # after a fault, in which nothing may happen to another node, or its outage is not the leader's
WELL_SECONDS = 8.0  # a cluster that is whole for so long has had time to elect and to answer


Tag = tuple[int, int]  # writer, n


class Write(NamedTuple):
    """What one batch means to one key."""

    invoke: float
    complete: float  # infinite: unknown
    count: int  # type: ignore[assignment]
    sum: int


class Seen(NamedTuple):
    """One read of one key."""

    invoke: float
    complete: float
    count: int  # type: ignore[assignment]
    sum: int


def check_key(name: str, writes: Sequence[Write], reads: Sequence[Seen]) -> list[str]:
    """Values are never negative, so counts and sums only grow. O((w + r) log (w + r))"""
    acked = sorted((write.complete, write.count, write.sum) for write in writes)
    sent = sorted((write.invoke, write.count, write.sum) for write in writes)
    acked_at, sent_at = [row[0] for row in acked], [row[0] for row in sent]
    acked_count, acked_sum = ([0, *accumulate(row[column] for row in acked)] for column in (1, 2))
    sent_count, sent_sum = ([0, *accumulate(row[column] for row in sent)] for column in (1, 2))
    wrong: list[str] = []
    for read in reads:
        least = bisect_left(acked_at, read.invoke)  # answered before the read began
        most = bisect_left(sent_at, read.complete)  # sent before the read was answered
        when = f"{name}, read from {read.invoke:.3f} to {read.complete:.3f}"
        if read.count < acked_count[least] or read.sum < acked_sum[least]:
            wrong.append(
                f"{when}: {read.count} events, sum {read.sum}; "
                f"{acked_count[least]}, {acked_sum[least]} had been acknowledged before"
            )
        elif read.count > sent_count[most] or read.sum > sent_sum[most]:
            wrong.append(
                f"{when}: {read.count} events, sum {read.sum}; only {sent_count[most]}, {sent_sum[most]} had been sent"
            )
    return wrong + check_monotone(name, reads)


def check_monotone(name: str, reads: Sequence[Seen]) -> list[str]:
    """A read that begins after another was answered never tells less."""
    ended = sorted(reads, key=lambda read: read.complete)
    ended_at = [read.complete for read in ended]
    counts = list(accumulate((read.count for read in ended), max))
    sums = list(accumulate((read.sum for read in ended), max))
    wrong = []
    for read in reads:
        before = bisect_left(ended_at, read.invoke)
        if before and (read.count < counts[before - 1] or read.sum < sums[before - 1]):
            wrong.append(
                f"{name}, read from {read.invoke:.3f} to {read.complete:.3f}: {read.count} events, sum {read.sum}, "
                f"after another read had told of {counts[before - 1]}, sum {sums[before - 1]}"
            )
    return wrong


def check_reads(history: History) -> list[str]:
    """Every key that was read. Keys nobody read are left out, so memory is bounded by what was asked."""
    reads: dict[int, list[Seen]] = {}
    for read in history.reads():
        reads.setdefault(read.key, []).append(Seen(read.invoke, read.complete, read.count, read.sum))
    rows: dict[int, tuple[array[float], array[float], array[int], array[int]]] = {
        key: (array("d"), array("d"), array("q"), array("q")) for key in reads
    }
    for batch in history.batches():
        touched: dict[int, list[int]] = {}
        for event in history.cast.events(batch.writer, batch.first, batch.count):
            amount = touched.setdefault(event.account * len(METRICS) + event.metric, [0, 0])
            amount[0] += 1
            amount[1] += event.value
        for key, (count, total) in touched.items():
            if key in rows:
                invokes, completes, counts, sums = rows[key]
                invokes.append(batch.invoke)
                completes.append(batch.complete)
                counts.append(count)
                sums.append(total)
    wrong: list[str] = []
    for key, seen in reads.items():
        writes = [Write(*row) for row in zip(*rows[key], strict=True)]
        wrong += check_key(history.cast.key_name(key), writes, seen)
    return shortened(wrong)


# ---- totals ----


@dataclass
class Total:
    """Everything about one key, recomputed in the plainest way. `of_regions`: count and sum."""

    count: int = 0
    sum: int = 0
    max: int | None = None
    latest: tuple[int, int] = (-1, 0)  # timestamp, value
    members: dict[int, tuple[int, bool]] = field(default_factory=dict)  # value -> (timestamp, present)
    of_regions: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, event: Planned, metric: int) -> None:
        self.count += 1
        self.sum += event.value
        self.max = event.value if self.max is None or event.value > self.max else self.max
        if event.timestamp_ns > self.latest[0]:
            self.latest = (event.timestamp_ns, event.value)
        if metric == SEATS and event.timestamp_ns > self.members.get(event.value, (-1, False))[0]:
            self.members[event.value] = (event.timestamp_ns, not event.remove)
        count, total = self.of_regions.get(REGIONS[event.region], (0, 0))
        self.of_regions[REGIONS[event.region]] = (count + 1, total + event.value)

    @property
    def unique(self) -> int:
        return sum(present for _, present in self.members.values())


@dataclass
class Answered:
    """What the cluster answered about one key. None: not asked, or not defined there."""

    count: int
    sum: int
    max: int | None = None
    last: int | None = None
    unique: int | None = None
    of_regions: dict[str, tuple[int, int]] | None = None


@dataclass
class Account:
    """What is known of one account at the end."""

    totals: list[Total] = field(default_factory=lambda: [Total() for _ in METRICS])  # of acknowledged events
    doubt_count: list[int] = field(default_factory=lambda: [0] * len(METRICS))
    doubt_sum: list[int] = field(default_factory=lambda: [0] * len(METRICS))
    stamped: bool = False  # some events have times that the leaders gave them


def add_up(history: History, listed: Mapping[int, set[Tag]]) -> dict[int, Account]:
    """account -> its totals. Events in doubt count when their account was listed and they are in the list (`listed`:
    account -> tags); otherwise they are amounts by which the totals may differ."""
    found: dict[int, Account] = {number: Account() for number in range(len(history.cast.accounts))}
    for batch in history.batches():
        for event in history.cast.events(batch.writer, batch.first, batch.count):
            account = found[event.account]
            account.stamped = account.stamped or event.timestamp_ns == 0
            tags = listed.get(event.account)
            if batch.known or (tags is not None and (batch.writer, event.n) in tags):
                account.totals[event.metric].add(event, event.metric)
            elif tags is None:
                account.doubt_count[event.metric] += 1
                account.doubt_sum[event.metric] += event.value
    return found


def check_total(name: str, total: Total, doubt: tuple[int, int], answered: Answered) -> list[str]:
    """`doubt`: count and sum of events that may be there or not."""
    count, amount = total.count, total.sum
    if not (count <= answered.count <= count + doubt[0] and amount <= answered.sum <= amount + doubt[1]):
        may = f" (and perhaps {doubt[0]}, {doubt[1]} more)" if doubt[0] else ""
        return [f"{name}: {answered.count} events, sum {answered.sum}; {count}, {amount} were acknowledged{may}"]
    if doubt[0]:
        return []
    wrong = []
    if answered.max is not None and answered.max != (total.max or 0):
        wrong.append(f"{name}: max {answered.max}, but {total.max} was sent")
    if answered.last is not None and answered.last != total.latest[1]:
        wrong.append(f"{name}: latest {answered.last}, but the latest is {total.latest[1]}")
    if answered.unique is not None and answered.unique != total.unique:
        wrong.append(f"{name}: {answered.unique} members, but {total.unique} are present")
    if answered.of_regions is not None:
        parts = {region: amount for region, amount in answered.of_regions.items() if amount != (0, 0)}
        if parts != total.of_regions:
            wrong.append(f"{name} by region: {parts}, but {total.of_regions} were acknowledged")
    return wrong


class Sent(NamedTuple):
    """The events that were sent to one account, as tags."""

    acked: set[Tag]
    doubtful: set[Tag]


def sent_to(history: History, accounts: Iterable[int]) -> dict[int, Sent]:
    found = {account: Sent(set(), set()) for account in accounts}
    for batch in history.batches():
        for event in history.cast.events(batch.writer, batch.first, batch.count):
            if event.account in found:
                found[event.account][not batch.known].add((batch.writer, event.n))
    return found


def check_listed(name: str, sent: Sent, tags: Sequence[Tag]) -> list[str]:
    """An account's list of events: everything acknowledged is in it, nothing twice, nothing that nobody sent."""
    wrong: list[str] = []
    once = set(tags)
    if len(once) != len(tags):
        twice = sorted(tag for tag, times in Counter(tags).items() if times > 1)
        wrong.append(f"{name}: {len(twice)} events are listed twice: {named(twice)}")
    if missing := sent.acked - once:
        wrong.append(f"{name}: {len(missing)} acknowledged events are not listed: {named(sorted(missing))}")
    if invented := once - sent.acked - sent.doubtful:
        wrong.append(f"{name}: {len(invented)} events are listed that nobody sent: {named(sorted(invented))}")
    return wrong


def named(tags: Sequence[Tag]) -> str:
    return ", ".join(f"event {n} of writer {writer}" for writer, n in tags[:3]) + (", ..." if len(tags) > 3 else "")


def tags_of(pairs: Iterable[tuple[int, int]]) -> list[Tag]:
    """(timestamp, value) of listed events as tags; what is none of ours becomes a tag that nobody sent."""
    return [tag_of(timestamp, value) or (-1, timestamp) for timestamp, value in pairs]


# ---- replicas, errors, gaps ----


class Replica(NamedTuple):
    """What a node says of its groups: index and digest per group."""

    applied: Sequence[int]
    digests: Sequence[str]


def check_replicas(replicas: Mapping[int, Replica]) -> list[str]:
    """All replicas of a group are at one index and have one digest. A node without a replica says index 0."""
    wrong = []
    for group in range(max((len(replica.applied) for replica in replicas.values()), default=0)):
        said = {
            node: (told.applied[group], told.digests[group]) for node, told in replicas.items() if told.applied[group]
        }
        if len({index for index, _ in said.values()}) > 1:
            at = {node: index for node, (index, _) in said.items()}
            wrong.append(f"group {group}: the replicas are at different indexes: {at}")
        elif len({digest for _, digest in said.values()}) > 1:
            wrong.append(f"group {group}: the replicas' digests differ at equal indexes: {said}")
    return wrong


def unwell(faults: Iterable[Fault], nodes: int, grace: float = 1.0) -> list[tuple[float, float]]:
    """The stretches of time in which fewer than a majority of the nodes were untouched; a node is given `grace`
    seconds after each fault."""
    steps = sorted(
        [(fault.since, 1, fault.node) for fault in faults] + [(fault.until + grace, -1, fault.node) for fault in faults]
    )
    touched: dict[int, int] = {}
    found: list[tuple[float, float]] = []
    since: float | None = None
    for at, step, node in steps:
        touched[node] = touched.get(node, 0) + step
        bad = nodes - sum(1 for depth in touched.values() if depth) <= nodes // 2
        if bad and since is None:
            since = at
        elif not bad and since is not None:
            found.append((since, at))
            since = None
    return found if since is None else [*found, (since, float("inf"))]


def check_troubles(troubles: Sequence[Trouble], faults: Sequence[Fault], nodes: int) -> tuple[list[str], int]:
    """(calls that failed although they need not have, how many others failed)."""
    bad = unwell(faults, nodes)
    wrong, excused = [], 0
    for trouble in troubles:
        began, rest = trouble.at - trouble.seconds, 0.0
        at = began
        for since, until in [*bad, (trouble.at, trouble.at)]:
            rest = max(rest, min(since, trouble.at) - at)
            at = max(at, min(until, trouble.at))
        if rest >= WELL_SECONDS or trouble.seconds < WELL_SECONDS:
            wrong.append(
                f"after {trouble.seconds:.1f} s at {trouble.at:.1f}, {rest:.1f} s of them well: {trouble.what}"
            )
        else:
            excused += 1
    return shortened(wrong), excused


def gap_around(acks: Sequence[float], at: float, window_s: float = 1.0) -> float | None:
    """The longest time without an acknowledgement that begins in [at, at + window], or spans `at`."""
    first = max(0, bisect_right(acks, at) - 1)
    last = min(len(acks) - 1, bisect_right(acks, at + window_s))
    gaps = [acks[i + 1] - acks[i] for i in range(first, last)]
    return max(gaps) if gaps else None


def outages(history: History, kind: str = "kill") -> list[float]:
    """Per leader to which only this was done, and per group that it led: how long no write was acknowledged."""
    acks = {group: history.acks_of_writer(writer) for group, writer in enumerate(history.cast.writers(Kind.PROBE))}
    found = []
    for fault in history.faults:
        others = (other for other in history.faults if other.node != fault.node)
        alone = not any(other.since < fault.since + ALONE_SECONDS and fault.since < other.until for other in others)
        if fault.kind == kind and alone:
            found += [gap_around(acks[group], fault.since) for group in fault.leads if group in acks]
    return sorted(gap for gap in found if gap is not None)


def shortened(wrong: list[str]) -> list[str]:
    if len(wrong) <= SAID_MAX:
        return wrong
    spread = [wrong[at * len(wrong) // SAID_MAX] for at in range(SAID_MAX)]  # of every kind, where they stand by kind
    return [*spread, f"... and {len(wrong) - SAID_MAX} more like these"]
