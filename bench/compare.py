"""How does metering with Unimeter compare with what people would use instead, on this machine?

The same workload for each (rivals.py): events with an id of their own, 10,000 accounts at random, 5 metrics, each id counted
once, on disk before the answer. In one run, one after the other, round by round:

    batches   8 clients, 500 events a request
    singles   8 clients, one event a request
    alone     one client, one event a request: its latency

The clients are Python threads with the library that a user would take, and their CPU (this process) is stated: where it is most of
a CPU, it is the client that is measured. Unimeter is also driven by its C generator with the same load (v2, an id per event),
to show what the node takes when the client costs little; the others have no such row because they have no such client here.

At the end each must have counted exactly what it acknowledged, and a batch that is sent twice must add nothing.
"""

from __future__ import annotations

import itertools
import random
import secrets
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from bench.common import Figures, Measured, Question, Settings, drive, main, progress, rate, us
from bench.rivals import METRICS, RIVALS, Batch, Client, Server, cpu_ns

ACCOUNTS, CLIENTS, BATCH = 10_000, 8, 500
PHASES = (("batches", CLIENTS, BATCH), ("singles", CLIENTS, 1), ("alone", 1, 1))
GENERATOR = "unimeter, C generator"
MEMORY_MAX = "32GiB"  # reserved, not used: no id is forgotten, and the generator brings two million a second, of some 60 bytes each


def batches(size: int) -> Iterator[Batch]:
    """Of one client; no id comes twice."""
    chance, prefix = random.Random(secrets.randbits(64)), secrets.token_hex(4)
    accounts = [chance.randrange(1, ACCOUNTS + 1) for _ in range(20_011)]
    for number in itertools.count():
        first = number * size
        at = time.time_ns()
        yield Batch(
            ids=[f"{prefix}{n:08x}" for n in range(first, first + size)],
            accounts=[accounts[n % len(accounts)] for n in range(first, first + size)],
            metrics=[n % len(METRICS) for n in range(first, first + size)],
            times_ns=[at + n for n in range(size)],
            values=[1 + n % 7 for n in range(size)],
        )


class Loop(threading.Thread):
    """One client: sends, waits for the answer, sends the next, until it is over."""

    def __init__(self, client: Client, size: int, seconds: float) -> None:
        super().__init__(daemon=True)
        self.client, self.size, self.seconds = client, size, seconds
        self.stored, self.took_s = 0, []  # type: int, list[float]
        self.fault: Exception | None = None

    def run(self) -> None:
        try:
            source, end = batches(self.size), time.monotonic() + self.seconds
            while time.monotonic() < end:
                batch = next(source)
                before = time.perf_counter()
                self.stored += self.client.send(batch)
                self.took_s.append(time.perf_counter() - before)
        except Exception as fault:
            self.fault = fault


def phase(server: Server, clients: list[Client], size: int, seconds: float) -> Figures:
    loops = [Loop(client, size, seconds) for client in clients]
    begun, ours_s, theirs_ns = time.monotonic(), time.process_time(), cpu_ns(server.pid)
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join()
        if loop.fault is not None:
            raise loop.fault
    took_s, stored = time.monotonic() - begun, sum(loop.stored for loop in loops)
    times = sorted(itertools.chain.from_iterable(loop.took_s for loop in loops))
    return {
        "stored": stored,
        "per_s": stored / took_s,
        "p50_ns": times[len(times) // 2] * 1e9,
        "p99_ns": times[min(len(times) - 1, len(times) * 99 // 100)] * 1e9,
        "server_ns": (cpu_ns(server.pid) - theirs_ns) / max(1, stored),
        "client_ns": (time.process_time() - ours_s) * 1e9 / max(1, stored),
    }


def generated(server: Server, settings: Settings, clients: int, size: int) -> Figures:
    plan = settings.plan(
        protocol=2, ids=True, accounts=ACCOUNTS, metrics=len(METRICS), workers=clients, batch=size, create_metrics=False
    )
    measured = Measured()
    report = drive(plan, server.address, lambda: cpu_ns(server.pid), measured)
    return {"stored": report.stored, **measured.figures()}


def twice(client: Client) -> int:
    """How much a batch adds that is sent a second time: (0 is right). The first time it is new."""
    batch = next(batches(BATCH))
    assert client.send(batch) == BATCH
    return client.send(batch)


def measure(settings: Settings, place: Path) -> Figures:
    found: Figures = {"versions": {}, "absent": {}, "phases": {}, "exact": {}}
    settings = replace(settings, memory_max=MEMORY_MAX)
    rounds: dict[tuple[str, str], list[Figures]] = {}
    acked: dict[str, int] = {}
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        clients: dict[str, list[Client]] = {}
        for name, (why_not, start) in RIVALS.items():
            if reason := why_not():
                found["absent"][name] = reason
                continue
            server = servers[name] = stack.enter_context(start(settings, place))
            found["versions"][name], acked[name] = server.version, 0
            clients[name] = [server.connect() for _ in range(CLIENTS)]
            for client in clients[name]:
                stack.callback(client.close)
        for _ in range(settings.rounds):
            for what, count, size in PHASES:
                for name, server in servers.items():
                    progress(f"{name}: {what}")
                    figures = phase(server, clients[name][:count], size, settings.seconds)
                    rounds.setdefault((name, what), []).append(figures)
                    acked[name] += figures["stored"]
                progress(f"{GENERATOR}: {what}")
                figures = generated(servers["unimeter"], settings, count, size)
                rounds.setdefault((GENERATOR, what), []).append(figures)
                acked["unimeter"] += figures["stored"]
        for name, server in servers.items():
            added = twice(clients[name][0])
            found["exact"][name] = added == 0 and server.counted() == acked[name] + BATCH
    progress("")
    for (name, what), parts in rounds.items():
        keys = ("per_s", "p50_ns", "p99_ns", "server_ns", "client_ns")
        found["phases"].setdefault(what, {})[name] = {
            key: statistics.median(part[key] for part in parts) for key in keys
        }
    return found


def rows(figures: Figures) -> list[list[str]]:
    out = [["", "events/s", "p50", "p99", "server ns/event", "client ns/event", "exact"]]
    words = {
        "batches": f"{CLIENTS} clients, batch {BATCH}",
        "singles": f"{CLIENTS} clients, batch 1",
        "alone": "1 client, batch 1",
    }
    for what, by_name in figures["phases"].items():
        for name, point in by_name.items():
            exact = figures["exact"].get(name.partition(",")[0])
            title = f"{words[what]}: {figures['versions'].get(name, name)}"
            out.append([
                title, rate(point["per_s"]), us(point["p50_ns"]), us(point["p99_ns"]), f"{point['server_ns']:,.0f}",
                f"{point['client_ns']:,.0f}", {True: "yes", False: "NO"}[exact],
            ])  # fmt: skip
    out += [[f"{name}: not measured: {reason}", "", "", "", "", "", ""] for name, reason in figures["absent"].items()]
    return out


QUESTION = Question(
    "compare",
    "How does metering with Unimeter compare with Redis and PostgreSQL on this machine?",
    "one process or cluster of processes each, every event deduplicated by id and on disk before the answer; Python clients",
    "replication (all are single servers); Redis keeps no events, only ids; tuning beyond what rivals.py says",
    measure,
    rows,
)

if __name__ == "__main__":
    sys.exit(main(QUESTION))
