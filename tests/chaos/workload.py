"""Writers and readers that write down what they did.

A writer sends its events in order, several batches at a time, and waits when the cluster does not answer: nothing is
given up while a retry may help. What becomes of an SDK call that raises after its timeout:

    IDS       sent again with another client until acknowledged (an id counts once, whoever sends it)
    others    `client.retry(error)`, once more; then nobody knows, and the batch stays unknown
    V1        the SDK is not involved: the same bytes, to any node, until acknowledged

Some batches that were acknowledged long ago are sent again (IDS with another client, V1 with another node): every
event must be a duplicate. Now and then a session's client is closed with batches on their way: those are unknown.
"""

from __future__ import annotations

import asyncio
import random
import struct
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from tests import v1_client as v1
from tests.chaos.checker import gap_around
from tests.chaos.history import History, Trouble
from tests.chaos.plan import COUNT, DIMENSION, LATEST, MAX, METRICS, REGIONS, SEATS, SUM, Kind, id_of
from tests.chaos.threads import ThreadedClient
from tests.chaos.wire import V1Fleet, redirect_of
from unimeter import AggType, AsyncClient, Event, MetricSchema, Period
from unimeter.client.results import IngestResult
from unimeter.errors import ClientClosed, IngestError, IngestIncomplete, UnimeterError

CALL_SECONDS = 30.0
READ_SECONDS = 30.0
V1_SECONDS = 3.0
SIZES = (1, 1, 3, 20, 100, 500)
BULK_SIZES = (2000,)
AGAIN = 0.03  # share of the acknowledged batches that are sent once more
DEATH = 0.002  # share of a session's batches after which its client dies
PROBE_PAUSE_S = 0.02
READ_PAUSE_S = 0.01
IDS_MAX = 400_000  # events with ids of one writer: the nodes keep every id in memory
EVER = Period(1, 2**62)
CLIENTS_OF_READERS = 2
IN_FLIGHT = {Kind.SESSION: 4, Kind.IDS: 2, Kind.STAMPED: 2, Kind.V1: 4, Kind.PROBE: 1}
SHARE = {Kind.SESSION: 4, Kind.IDS: 1, Kind.STAMPED: 1, Kind.V1: 3, Kind.PROBE: 0}

SdkClient = AsyncClient | ThreadedClient


class Workload:
    def __init__(
        self, history: History, addresses: Callable[[], list[str]], rate: int, seed: int
    ) -> None:  # fmt: skip
        self.history = history
        self.addresses = addresses
        self.rate = rate  # events a second, all writers together
        self.random = random.Random(seed)
        self.writing = True
        self.over = asyncio.Event()  # no longer writing
        self.reading = True
        self.next = [0] * len(history.cast.kinds)
        self.tasks: list[asyncio.Task[None]] = []
        self.read_tasks: list[asyncio.Task[None]] = []
        self.fleet = V1Fleet()
        self.clients: list[SdkClient] = []
        self.clients_made = 0
        self.reads = 0
        self.began = time.monotonic()
        self.acked_at = [time.monotonic()] * len(history.cast.kinds)
        self.sizes: tuple[int, ...] = SIZES
        self.probed: dict[int, list[float]] = {}  # group -> when a read of its probe's account was answered
        shares = sum(SHARE[kind] for kind in history.cast.kinds)
        self.rates = [rate * SHARE[kind] / shares if shares else 0.0 for kind in history.cast.kinds]

    # ---- beginning and end ----

    async def define_metrics(self) -> None:
        async with AsyncClient(self.addresses(), timeout=CALL_SECONDS, connect_timeout=CALL_SECONDS) as client:
            for metric in METRICS:
                await client.metrics.create(MetricSchema(metric.code, AggType(metric.aggregation), (DIMENSION,)))

    def client(self) -> SdkClient:
        """The one front end and the other by turns."""
        addresses = self.addresses()
        self.random.shuffle(addresses)
        make = ThreadedClient if self.clients_made % 2 else AsyncClient
        self.clients_made += 1
        client: SdkClient = make(addresses, timeout=CALL_SECONDS, connect_timeout=CALL_SECONDS)
        self.clients.append(client)
        return client

    def start(self, readers: int = 3, v1_readers: int = 2) -> None:
        for writer, kind in enumerate(self.history.cast.kinds):
            run = self.v1_writer if kind == Kind.V1 else self.sdk_writer
            self.tasks.append(asyncio.create_task(self.guard(run(writer, kind))))
        self.read_tasks += [asyncio.create_task(self.guard(self.sdk_reader())) for _ in range(readers)]
        self.read_tasks += [asyncio.create_task(self.guard(self.v1_reader())) for _ in range(v1_readers)]

    async def guard(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self.history.violations.append(f"the workload itself failed: {type(error).__name__}: {error}")
            raise

    def bulk(self) -> None:
        """Large batches only."""
        self.sizes = BULK_SIZES

    def probe_reads(self) -> None:
        """One reader per group that asks all the time."""
        for group in range(self.history.cast.groups):
            self.probed[group] = []
            self.read_tasks.append(asyncio.create_task(self.guard(self.probe_reader(group))))

    def read_outages(self) -> list[float]:
        """As `checker.outages`, for reads."""
        kills = [fault for fault in self.history.faults if fault.kind == "kill"]
        gaps = [gap_around(self.probed[group], fault.since) for fault in kills for group in fault.leads]
        return sorted(gap for gap in gaps if gap is not None)

    def stalled(self, seconds: float) -> list[int]:
        """Groups whose probe has waited for so long."""
        late = time.monotonic() - seconds
        probes = enumerate(self.history.cast.writers(Kind.PROBE))
        return [group for group, writer in probes if self.writing and self.acked_at[writer] < late]

    async def finish(self, seconds: float) -> int:
        """No new batches; wait for the answers to those on their way. Returns how many tasks had to be cancelled."""
        self.writing = False
        self.over.set()
        unfinished = await self.gather(self.tasks, seconds)
        self.reading = False
        return unfinished + await self.gather(self.read_tasks, READ_SECONDS + 5)

    async def gather(self, tasks: list[asyncio.Task[None]], seconds: float) -> int:
        if not tasks:
            return 0
        _, late = await asyncio.wait(tasks, timeout=seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return len(late)

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.fleet.close()

    # ---- writers ----

    async def paced(self, writer: int, count: int) -> None:
        """Wait as long as `count` events may take at this writer's rate."""
        kind = self.history.cast.kinds[writer]
        seconds = PROBE_PAUSE_S if kind == Kind.PROBE else count / self.rates[writer] * IN_FLIGHT[kind]
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.over.wait()

    def take(self, writer: int, kind: Kind) -> tuple[int, int]:
        count = 1 if kind == Kind.PROBE else self.random.choice(self.sizes)
        first = self.next[writer]
        self.next[writer] += count
        return first, count

    def sdk_events(self, writer: int, kind: Kind, first: int, count: int) -> list[Event]:
        accounts = self.history.cast.accounts
        return [
            Event(
                accounts[event.account],
                METRICS[event.metric].code,
                event.value,
                event.timestamp_ns or None,
                {DIMENSION: REGIONS[event.region]} if REGIONS[event.region] else {},
                ("remove" if event.remove else "add") if event.metric == SEATS else None,
                id_of(writer, event.n) if kind == Kind.IDS else None,
            )
            for event in self.history.cast.events(writer, first, count)
        ]

    async def sdk_writer(self, writer: int, kind: Kind) -> None:
        clients = [self.client()]
        async with asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT[kind]):
                group.create_task(self.sdk_lane(writer, kind, clients))

    async def sdk_lane(self, writer: int, kind: Kind, clients: list[SdkClient]) -> None:
        """`clients[0]` is the writer's client of the moment, shared by its lanes."""
        while self.writing and (kind != Kind.IDS or self.next[writer] < IDS_MAX):
            first, count = self.take(writer, kind)
            events = self.sdk_events(writer, kind, first, count)
            row = self.history.add_batch(writer, first, count, time.monotonic())
            await self.send(row, kind, events, clients[0])
            if kind == Kind.SESSION and self.random.random() < DEATH:
                dead, clients[0] = clients[0], self.client()
                dead.close()
                self.clients.remove(dead)
                self.history.note("clients closed with batches on their way")
            if kind == Kind.IDS and self.random.random() < AGAIN:
                await self.send_again(row, kind)
            await self.paced(writer, count)

    async def send(self, row: int, kind: Kind, events: list[Event], client: SdkClient) -> None:
        began = time.monotonic()
        try:
            result = await client.ingest(events)
        except ClientClosed:
            return
        except IngestError as error:
            if any(isinstance(cause, ClientClosed) for cause in causes(error)):
                return
            self.trouble(began, f"ingest of {len(events)} events ({kind}): {describe(error)}")
            if isinstance(error, IngestIncomplete) and kind != Kind.IDS:
                await self.retry(row, client, error)
            elif kind == Kind.IDS:
                await self.insist(row, events)
            return
        except UnimeterError as error:
            self.trouble(began, f"ingest of {len(events)} events ({kind}): {describe(error)}")
            if kind == Kind.IDS:
                await self.insist(row, events)
            return
        self.acked_at[self.history.writers[row]] = time.monotonic()
        self.judge(row, kind, result)

    async def retry(self, row: int, client: SdkClient, error: IngestIncomplete) -> None:
        """What the SDK says to do: finish it, exactly once."""
        with suppress(UnimeterError):
            await client.retry(error, timeout=2 * CALL_SECONDS)
            self.history.acknowledge(row, time.monotonic())
            self.history.note("batches finished by client.retry")

    async def insist(self, row: int, events: list[Event]) -> None:
        """Events with ids may be sent again by anybody."""
        client = self.client()
        for _ in range(4):
            try:
                await client.ingest(events)
            except UnimeterError:
                continue
            self.history.acknowledge(row, time.monotonic())
            self.history.note("batches with ids finished by another client")
            break
        client.close()
        self.clients.remove(client)

    def judge(self, row: int, kind: Kind, result: IngestResult) -> None:
        count = self.history.counts[row]
        if result.stored + result.duplicates != count:
            self.history.violations.append(f"{count} events were answered with {result}")
        elif kind != Kind.IDS and result.duplicates:  # sessions say what they said at first, and that was stored
            batch = self.history.batch(row)
            self.history.violations.append(f"new events of writer {batch.writer} from {batch.first}: {result}")
        self.history.acknowledge(row, time.monotonic())

    async def send_again(self, row: int, kind: Kind) -> None:
        """A batch that was acknowledged, once more, from somebody else: nothing of it may be stored."""
        batch = self.history.batch(row)
        if not batch.known:
            return
        client = self.client()
        with suppress(UnimeterError):
            again = await client.ingest(self.sdk_events(batch.writer, kind, batch.first, batch.count))
            self.history.note("acknowledged batches sent again")
            if again.duplicates != batch.count:
                self.history.violations.append(f"events with ids acknowledged before, sent again: {again}")
        client.close()
        self.clients.remove(client)

    async def v1_writer(self, writer: int, kind: Kind) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT[kind]):
                group.create_task(self.v1_lane(writer, kind))

    async def v1_lane(self, writer: int, kind: Kind) -> None:
        while self.writing:
            first, count = self.take(writer, kind)
            payload = self.v1_payload(writer, first, count)
            row = self.history.add_batch(writer, first, count, time.monotonic())
            await self.v1_send(payload, count)
            self.history.acknowledge(row, time.monotonic())
            if self.random.random() < AGAIN:
                again = await self.v1_send(payload, count)
                self.history.note("acknowledged batches sent again")
                if again.stored:
                    self.history.violations.append(f"v1 events acknowledged before, sent again: {again}")
            await self.paced(writer, count)

    def v1_payload(self, writer: int, first: int, count: int) -> bytes:
        accounts = self.history.cast.accounts
        events = []
        for event in self.history.cast.events(writer, first, count):
            account = accounts[event.account]
            assert isinstance(account, int)
            region = ((DIMENSION, REGIONS[event.region]),) if REGIONS[event.region] else ()
            operation = (v1.REMOVE if event.remove else v1.ADD) if event.metric == SEATS else v1.NONE
            code = METRICS[event.metric].code
            events.append(v1.Event(code, account, event.timestamp_ns, event.value, operation, region))
        return v1.ingest_payload(events)

    async def v1_send(self, payload: bytes, count: int) -> v1.Stored:
        """The same bytes to one node or another, until one says that they are stored."""
        address = self.random.choice(self.addresses())
        while True:
            try:
                answer = await self.fleet.ask(address, v1.INGEST_SYNC, payload, V1_SECONDS)
            except (OSError, TimeoutError):
                self.history.note("v1 batches sent again without an answer")
                address = self.random.choice(self.addresses())
                await asyncio.sleep(0.05)
                continue
            if answer.status == v1.REDIRECT:
                address = redirect_of(answer)
                self.history.note("v1 redirects")
                await asyncio.sleep(0.002)
                continue
            if answer.status in (v1.OK, v1.DUPLICATE) and len(answer.payload) == 16:
                stored = v1.Stored(answer.status, *struct.unpack("<IIQ", answer.payload))
                if stored.stored + stored.duplicates != count:
                    self.history.violations.append(f"{count} v1 events were answered with {stored}")
                return stored
            self.history.note(f"v1 ingest answered with status {answer.status}")
            if answer.status == v1.UNKNOWN_METRIC:
                self.wrong(f"{address} refused v1 events as of an unknown metric, which is known")
            address = self.random.choice(self.addresses())
            await asyncio.sleep(0.05)

    # ---- readers ----

    def any_key(self, numeric: bool) -> int:
        cast = self.history.cast
        account = self.random.randrange(cast.numeric if numeric else len(cast.accounts))
        metrics = (COUNT, COUNT, SUM, SUM, MAX, LATEST) if numeric else (COUNT, COUNT, SUM, SUM, MAX, LATEST, SEATS)
        return account * len(METRICS) + self.random.choice(metrics)  # v1 answers SEATS with members, not with events

    async def sdk_reader(self) -> None:
        client = self.client()
        while self.reading:
            key = self.any_key(numeric=False)
            account, metric = divmod(key, len(METRICS))
            where = self.history.cast.accounts[account], METRICS[metric].code, EVER
            began = time.monotonic()
            try:
                if self.random.random() < 0.1:  # the rows of a breakdown add up to the total
                    rows = await client.query_breakdown(*where, group_by=[DIMENSION], timeout=READ_SECONDS)
                    count = sum(row.value.count for row in rows)
                    total = sum(row.value.sum for row in rows)
                else:
                    value = (await client.query(*where, timeout=READ_SECONDS)).value
                    count, total = value.count, value.sum
            except UnimeterError as error:
                self.trouble(began, f"query of {self.history.cast.key_name(key)}: {describe(error)}")
                continue
            self.history.add_read(key, 0, began, time.monotonic(), count, total)
            self.reads += 1
            await asyncio.sleep(READ_PAUSE_S)

    async def probe_reader(self, group: int) -> None:
        client = self.client()
        account = self.history.cast.account_of_group(group)
        key = account * len(METRICS) + COUNT
        while self.reading:
            began = time.monotonic()
            try:
                usage = await client.query(self.history.cast.accounts[account], METRICS[COUNT].code, EVER)
            except UnimeterError as error:
                self.trouble(began, f"query of {self.history.cast.key_name(key)}: {describe(error)}")
                continue
            now = time.monotonic()
            self.history.add_read(key, 0, began, now, usage.value.count, usage.value.sum)
            self.probed[group].append(now)
            self.reads += 1
            await asyncio.sleep(PROBE_PAUSE_S)

    async def v1_reader(self) -> None:
        fleet = V1Fleet()
        while self.reading:
            key = self.any_key(numeric=True)
            account, metric = divmod(key, len(METRICS))
            addresses = self.addresses()
            address = self.random.choice(addresses)
            head = self.history.cast.accounts[account], EVER.start_ns, EVER.end_ns
            payload = struct.pack("<Qqq64sB7x", *head, v1.padded(METRICS[metric].code, 64), 0)
            began = time.monotonic()
            with suppress(OSError, TimeoutError):
                answer = await fleet.ask(address, v1.QUERY, payload, V1_SECONDS)
                for _ in range(4):
                    if answer.status != v1.REDIRECT:
                        break
                    address = redirect_of(answer)
                    answer = await fleet.ask(address, v1.QUERY, payload, V1_SECONDS)
                if answer.status == v1.OK:
                    value = v1.parse_aggregate(answer.payload)
                    node = addresses.index(address) + 1 if address in addresses else 0
                    self.history.add_read(key, node, began, time.monotonic(), value.count, value.sum)
                    self.reads += 1
                else:
                    self.history.note(f"v1 query answered with status {answer.status}")
                    if answer.status == v1.UNKNOWN_METRIC:
                        self.wrong(f"{address} refused a v1 query as of an unknown metric, which is known")
            await asyncio.sleep(READ_PAUSE_S)
        fleet.close()

    def wrong(self, what: str) -> None:
        self.history.violations.append(f"at {time.monotonic() - self.began:.1f} s: {what}")

    def trouble(self, began: float, what: str) -> None:
        now = time.monotonic()
        self.history.troubles.append(Trouble(now, now - began, what))


def causes(error: BaseException | None) -> list[BaseException]:
    found = []
    while error is not None:
        found.append(error)
        error = error.__cause__
    return found


def describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:400]
