"""The end of a run: the load is over, everything is healed. Ask the cluster for everything, and compare.

1. Every node reaches the same indexes; digests are compared per group.
2. Some accounts are listed event by event: those with batches in doubt first, then others by chance.
3. Every account and metric is asked for its totals, by region too; some also over ranges that cut hours in two.
4. All nodes are killed at once and started again, and must say the same: 1 and 3 once more.
"""

from __future__ import annotations

import asyncio
import random
import struct
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from tests import v1_client as v1
from tests.chaos import checker, wire
from tests.chaos.checker import Answered, Replica
from tests.chaos.cluster import ChaosNode, Cluster
from tests.chaos.history import History
from tests.chaos.plan import DIMENSION, EXPLICIT_BEFORE, METRICS, SEATS, STEP_NS, T0, WRITERS_MAX
from tests.chaos.workload import EVER
from unimeter import AsyncClient, Period
from unimeter.errors import UnimeterError

CONVERGE_SECONDS = 90.0
LISTED_ACCOUNTS_MAX = 10
LISTED_BY_CHANCE = 3
LIST_EVENTS = 15_000  # in one answer to a v1 list: far from the limit
RANGES = 2  # odd ranges that are asked per listed account and metric
V1_SECONDS = 20.0
STATUS_SECONDS = 5.0


@dataclass
class Verdict:
    wrong: list[str] = field(default_factory=list)
    totals: int = 0  # compared
    ranges: int = 0
    listed: int = 0  # events
    listed_accounts: int = 0
    converge_s: float = 0.0
    groups: int = 0


async def replicas(cluster: Cluster) -> dict[int, Replica]:
    """What each node says of its groups."""
    found: dict[int, Replica] = {}
    for node in cluster.nodes.values():
        with suppress(OSError, TimeoutError, EOFError, wire.Refused):
            body = await wire.ask_once(node.direct, wire.STATUS, {}, STATUS_SECONDS)
            found[node.number] = Replica(
                body.get("applied", [body["applied_index"]]), body.get("digests", [body["digest"]])
            )
    return found


async def level(cluster: Cluster, node: ChaosNode) -> bool:
    """The node has applied what the others had applied a moment before."""
    said = await replicas(cluster)
    said.pop(node.number, None)
    mine = (await replicas(cluster)).get(node.number)
    if mine is None or not said:
        return False
    most = [max(column) for column in zip(*(other.applied for other in said.values()), strict=True)]
    return all(have >= want for have, want in zip(mine.applied, most, strict=True))


async def converge(cluster: Cluster, verdict: Verdict) -> None:
    """Equal indexes everywhere, twice in a row; then equal digests."""
    began = time.monotonic()
    said = await replicas(cluster)
    while time.monotonic() - began < CONVERGE_SECONDS:
        again = await replicas(cluster)
        if again == said and len(said) == len(cluster.nodes) and not checker.check_replicas(said):
            break
        said = again
        await asyncio.sleep(0.3)
    verdict.converge_s = time.monotonic() - began
    verdict.groups = max((len(told.applied) for told in said.values()), default=0)
    for number in cluster.nodes:
        if number not in said:
            verdict.wrong.append(f"node {number} did not say where it is")
    verdict.wrong += [f"after {verdict.converge_s:.0f} s of calm: {line}" for line in checker.check_replicas(said)]


class Inspector:
    """Asks for lists and totals."""

    def __init__(self, cluster: Cluster, history: History, seed: int) -> None:
        self.cluster = cluster
        self.history = history
        self.cast = history.cast
        self.random = random.Random(seed)
        self.addresses = [node.direct for node in cluster.nodes.values()]
        self.fleet = wire.V1Fleet()
        self.verdict = Verdict()
        self.totals: dict[int, checker.Account] = {}

    async def run(self) -> Verdict:
        await converge(self.cluster, self.verdict)
        await self.question(self.compare)
        if not self.verdict.wrong:
            await self.cluster.crash()
            if missing := await self.cluster.await_whole(CONVERGE_SECONDS):
                self.verdict.wrong.append(f"after all nodes were killed at once and started again: {missing}")
            await converge(self.cluster, self.verdict)
            await self.question(self.compare_totals)
        self.fleet.close()
        return self.verdict

    async def question(self, ask: Callable[[AsyncClient], Awaitable[None]]) -> None:
        addresses = [node.address for node in self.cluster.nodes.values()]
        async with AsyncClient(addresses, timeout=60.0) as client:
            try:
                await ask(client)
            except UnimeterError as error:
                self.verdict.wrong.append(f"a question at the end: {type(error).__name__}: {error}")

    async def compare(self, client: AsyncClient) -> None:
        listed: dict[int, set[tuple[int, int]]] = {}
        accounts = self.accounts_to_list()
        sent = await asyncio.to_thread(checker.sent_to, self.history, accounts)
        for account in accounts:
            tags = checker.tags_of(await self.list_account(client, account))
            name = f"account {self.cast.accounts[account]}"
            self.verdict.wrong += checker.check_listed(name, sent[account], tags)
            self.verdict.listed += len(tags)
            listed[account] = set(tags)
        self.verdict.listed_accounts = len(listed)
        self.totals = await asyncio.to_thread(checker.add_up, self.history, listed)
        await self.compare_totals(client)
        for account_number, tags_of_account in listed.items():
            await self.ask_ranges(client, account_number, tags_of_account)

    async def compare_totals(self, client: AsyncClient) -> None:
        for number, known in self.totals.items():
            for metric, total in enumerate(known.totals):
                answered = await self.ask(client, number, metric, known.stamped)
                doubt = known.doubt_count[metric], known.doubt_sum[metric]
                name = self.cast.key_name(number * len(METRICS) + metric)
                self.verdict.wrong += checker.check_total(name, total, doubt, answered)
                self.verdict.totals += 1

    def accounts_to_list(self) -> list[int]:
        doubt: dict[int, int] = {}
        for batch in self.history.batches():
            if not batch.known:
                for event in self.cast.events(batch.writer, batch.first, batch.count):
                    doubt[event.account] = doubt.get(event.account, 0) + 1
        first = sorted(doubt, key=lambda account: -doubt[account])[:LISTED_ACCOUNTS_MAX]
        others = [account for account in range(self.cast.numeric + self.cast.text) if account not in first]
        return first + self.random.sample(others, min(LISTED_BY_CHANCE, len(others)))

    async def list_account(self, client: AsyncClient, account: int) -> list[tuple[int, int]]:
        """(timestamp, value) of every event of an account."""
        identity = self.cast.accounts[account]
        if isinstance(identity, str):
            return [(event.timestamp, event.value) for event in await client.events(identity, EVER)]
        found: list[tuple[int, int]] = []
        ends = (first + count for first, count in zip(self.history.firsts, self.history.counts, strict=True))
        most = max(ends, default=0)
        per_account = sum(self.history.counts) // self.cast.numeric + 1
        parts = per_account // LIST_EVENTS + 1
        width = (most * WRITERS_MAX * STEP_NS) // parts + 1
        for part in range(parts):
            found += await self.list_between(identity, T0 + part * width, T0 + (part + 1) * width - 1)
        return found + await self.list_between(identity, EXPLICIT_BEFORE, EVER.end_ns)

    async def list_between(self, identity: int, since: int, until: int) -> list[tuple[int, int]]:
        payload = struct.pack("<Qqq", identity, since, until)
        raw = await self.ask_v1(v1.EVENTS, payload)
        rows = struct.iter_unpack("<QqQ64sQB7x", raw[8:])
        return [(at, value) for _, at, _, _, value, _ in rows]

    async def ask_v1(self, packet_type: int, payload: bytes) -> bytes:
        """From a node by chance, or from the one that it names."""
        until = time.monotonic() + V1_SECONDS
        address = self.random.choice(self.addresses)
        said = ""
        while time.monotonic() < until:
            try:
                answer = await self.fleet.ask(address, packet_type, payload, V1_SECONDS)
            except (OSError, TimeoutError) as error:
                said, address = repr(error), self.random.choice(self.addresses)
                await asyncio.sleep(0.1)
                continue
            if answer.status == v1.OK:
                return answer.payload
            said = f"status {answer.status}"
            address = wire.redirect_of(answer) if answer.status == v1.REDIRECT else self.random.choice(self.addresses)
            await asyncio.sleep(0.01)
        self.verdict.wrong.append(f"v1 request {packet_type:#x} had no ok answer within {V1_SECONDS:.0f} s: {said}")
        return bytes(8)

    async def ask(self, client: AsyncClient, account: int, metric: int, stamped: bool) -> Answered:
        identity, code = self.cast.accounts[account], METRICS[metric].code
        kind = METRICS[metric].aggregation
        value = (await client.query(identity, code, EVER)).value
        rows = await client.query_breakdown(identity, code, EVER, group_by=[DIMENSION])
        last = value.last_value if kind == "latest" and not stamped and value.count else None
        return Answered(
            value.count,
            value.sum,
            (value.max or 0) if kind in ("max", "count", "sum") else None,
            last,
            value.unique if metric == SEATS else None,
            {row.dimensions[DIMENSION]: (row.value.count, row.value.sum) for row in rows},
        )

    async def ask_ranges(self, client: AsyncClient, account: int, tags: set[tuple[int, int]]) -> None:
        """Ranges between two events of the account: their edges are in the middle of an hour."""
        events = []
        for writer, n in tags:
            if 0 <= writer < len(self.cast.kinds):
                event = next(iter(self.cast.events(writer, n, 1)))
                if event.timestamp_ns:
                    events.append(event)
        if not events:
            return
        for _ in range(RANGES):
            start, end = sorted((self.random.choice(events).timestamp_ns, self.random.choice(events).timestamp_ns + 1))
            for metric in (0, 1):
                inside = [e for e in events if e.metric == metric and start <= e.timestamp_ns < end]
                got = (await client.query(self.cast.accounts[account], METRICS[metric].code, Period(start, end))).value
                wanted = len(inside), sum(event.value for event in inside)
                if (got.count, got.sum) != wanted:
                    name = self.cast.key_name(account * len(METRICS) + metric)
                    self.verdict.wrong.append(
                        f"{name} in [{start}, {end}): {got.count}, {got.sum}; listed are {wanted}"
                    )
                self.verdict.ranges += 1
