"""kill -9 in a loop under load: every event acknowledged sync is counted exactly once after the restart.

    python -m tests.crash_loop --rounds 50

A round: writers send sync batches over connections of their own, several in flight each; after a random time the
node is killed with SIGKILL and started again on the same directory. Then each writer resends every batch
that it has no answer for, again and again until answered: whether the node had stored it or not, it must
count once. What the acknowledged batches add up to is kept in a plain dict, and compared with every total
the node answers, per account, and with its list of events. Every few rounds the node is stopped cleanly instead.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests import v1_client as v1
from tests.v1_client import ConnectionGone, Event, V1Client
from unimeter.commands.bench_node import NodeProcess

T0 = 1_700_000_000_000_000_000
ACCOUNTS = 23
CLEAN_STOP_EVERY = 7
WRITERS_MAX = 16
STEP_NS = 1_000_000_007


def quietly(line: str) -> None:
    """Report nothing."""
    del line


@dataclass
class Writer:
    """One closed loop with several batches in flight; what is unanswered when the node dies is sent again."""

    number: int
    port: int
    random: random.Random
    next_event: int = 0
    unanswered: list[list[Event]] = field(default_factory=list)
    acknowledged: Counter[int] = field(default_factory=Counter)  # account -> events
    sums: Counter[int] = field(default_factory=Counter)
    stored: int = 0
    duplicates: int = 0
    resent: int = 0
    fault: str = ""

    def batch(self) -> list[Event]:
        events = []
        for _ in range(self.random.choice((1, 1, 3, 50, 400))):
            n = self.next_event
            self.next_event += 1
            at = T0 + (n * WRITERS_MAX + self.number) * STEP_NS  # distinct per writer and event; over many hours
            events.append(Event("crash", n % ACCOUNTS, at, n % 1000))
        return events

    def write_until_gone(self, in_flight: int) -> None:
        """Resend what has no answer, then new batches, until the connection breaks."""
        waiting: dict[int, list[Event]] = {}
        backlog, self.unanswered = self.unanswered, []
        self.resent += len(backlog)
        try:
            with V1Client("127.0.0.1", self.port) as client:
                try:
                    while True:
                        while len(waiting) < in_flight:
                            events = backlog.pop() if backlog else self.batch()
                            waiting[client.last_request_id + 1] = events
                            client.send(v1.INGEST_SYNC, v1.ingest_payload(events))
                        oldest = next(iter(waiting))
                        answer = client.ingested(oldest)
                        if answer.status == v1.BACKPRESSURE:  # a node that is stopping takes nothing more
                            backlog.append(waiting.pop(oldest))
                            continue
                        self.acknowledge(waiting[oldest], answer)
                        del waiting[oldest]
                finally:
                    self.keep_answers_that_came(client, waiting)
        except (ConnectionGone, ConnectionRefusedError, TimeoutError):
            pass
        self.unanswered = [*backlog, *waiting.values()]

    def keep_answers_that_came(self, client: V1Client, waiting: dict[int, list[Event]]) -> None:
        for request_id in [number for number in waiting if number in client.answers]:
            if client.answers[request_id].status != v1.BACKPRESSURE:
                self.acknowledge(waiting.pop(request_id), client.ingested(request_id))

    def acknowledge(self, events: list[Event], answer: v1.Stored) -> None:
        if answer.status not in (v1.OK, v1.DUPLICATE) or answer.stored + answer.duplicates != len(events):
            self.fault = f"writer {self.number}: {len(events)} events answered with {answer}"
            raise ConnectionGone
        self.stored += answer.stored
        self.duplicates += answer.duplicates
        for event in events:
            self.acknowledged[event.account] += 1
            self.sums[event.account] += event.value

    def drain(self) -> None:
        """Everything unanswered, once more, until nothing is."""
        while self.unanswered and not self.fault:
            with V1Client("127.0.0.1", self.port) as client:
                events = self.unanswered[-1]
                self.resent += 1
                self.acknowledge(events, client.ingest(events))
                self.unanswered.pop()


@dataclass
class Outcome:
    rounds: int = 0
    events: int = 0
    resent_batches: int = 0
    duplicates: int = 0
    start_s_max: float = 0.0


def list_events(client: V1Client, account: int, wanted: int, events_per_writer: int) -> list[v1.EventRecord]:
    """One answer is bounded, so the time range is cut into parts that are far from the bound."""
    parts = wanted // 5000 + 1
    width_ns = (events_per_writer + 1) * STEP_NS * WRITERS_MAX // parts + 1
    starts = [T0 + part * width_ns for part in range(parts)]
    return [record for start in starts for record in client.events(account, start, start + width_ns - 1)]


def verify(port: int, writers: list[Writer], with_events: bool) -> int:
    """Compare every total; returns the events counted."""
    counted = 0
    with V1Client("127.0.0.1", port) as client:
        for account in range(ACCOUNTS):
            wanted = sum(w.acknowledged[account] for w in writers)
            wanted_sum = sum(w.sums[account] for w in writers)
            got = client.query(account, "crash", T0, 2**62)
            if (got.count, got.sum) != (wanted, wanted_sum):
                raise AssertionError(
                    f"account {account}: {got.count} events, sum {got.sum}; acknowledged {wanted}, {wanted_sum}"
                )
            counted += got.count
        if with_events:
            (account, _) = min(sum((w.acknowledged for w in writers), Counter()).items(), key=lambda item: item[1])
            wanted = sum(w.acknowledged[account] for w in writers)
            listed = list_events(client, account, wanted, max(w.next_event for w in writers))
            stamps = {record.timestamp_ns for record in listed}
            if len(listed) != wanted or len(stamps) != wanted:
                raise AssertionError(
                    f"account {account}: {len(listed)} events listed, {len(stamps)} of them distinct, {wanted} acknowledged"
                )
    return counted


def crash_loop(
    directory: Path,
    rounds: int,
    seed: int,
    writer_count: int = 4,
    load_s: float = 0.7,
    report: Callable[[str], None] = quietly,
) -> Outcome:
    """Raises AssertionError at the first total that is wrong."""
    chance, outcome = random.Random(seed), Outcome()
    with NodeProcess(directory, "--memory-max", "512M") as node:
        writers = [Writer(n, node.port, random.Random(seed * 100 + n)) for n in range(writer_count)]
        with V1Client("127.0.0.1", node.port) as client:
            client.metric_put("crash", v1.SUM)
        for number in range(1, rounds + 1):
            threads = [threading.Thread(target=w.write_until_gone, args=(chance.choice((1, 4, 16)),)) for w in writers]
            for thread in threads:
                thread.start()
            time.sleep(
                chance.uniform(0.02, load_s)
            )  # not a wait for something: when the blow falls is the test's input
            clean = number % CLEAN_STOP_EVERY == 0
            node.stop() if clean else node.kill()
            for thread in threads:
                thread.join(60)
            assert not any(thread.is_alive() for thread in threads), "a writer never noticed that the node is gone"
            unanswered = sum(len(w.unanswered) for w in writers)
            start_s = node.start()
            for writer in writers:
                writer.drain()
            faults = [w.fault for w in writers if w.fault]
            assert not faults, faults
            outcome.events = verify(node.port, writers, with_events=number == rounds or number % 10 == 0)
            outcome.rounds = number
            outcome.start_s_max = max(outcome.start_s_max, start_s)
            outcome.resent_batches = sum(w.resent for w in writers)
            outcome.duplicates = sum(w.duplicates for w in writers)
            report(
                f"round {number}: {'stopped' if clean else 'killed'}, {unanswered} batches unanswered, up again in {start_s:.2f} s, "
                f"{outcome.events:,} events, each counted once ({outcome.duplicates:,} recognised as resent)"
            )
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dir", type=Path, default=None, help="where the node's data goes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="unimeter-crash-", dir=arguments.dir) as place:
        try:
            outcome = crash_loop(
                Path(place) / "data", arguments.rounds, arguments.seed, report=lambda line: print(line, flush=True)
            )
        except AssertionError as error:
            print(
                f"FAILED: {error}\nagain: python -m tests.crash_loop --rounds {arguments.rounds} --seed {arguments.seed}"
            )
            return 1
    print(f"{outcome.rounds} rounds, {outcome.events:,} events, every acknowledged one counted exactly once; "
          f"{outcome.resent_batches:,} batches were resent; slowest start {outcome.start_s_max:.2f} s")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
