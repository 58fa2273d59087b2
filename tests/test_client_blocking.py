"""Claims about the blocking client's short way: what it does by itself is what the loop's way would have done."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, TypeVar

import pytest

from tests.client_cluster import FakeCluster, cluster_of, leaders_come_and_go
from tests.client_server import NodeServer, serving
from tests.harness import JAN_1
from unimeter import AggType, Client, Event, IngestResult, MetricSchema, Period
from unimeter.client.shortcut import CALLS_FIRST, LINKS_PER_NODE_MAX
from unimeter.errors import ClientClosed, IngestIncomplete, InvalidArgument, SessionLost, UnknownMetric

T = TypeVar("T")
YEAR = Period("2026-01-01", "2027-01-01")
BAD_LINES = ["lose", "lose_answer", "busy", "disk_full", "garbage", "short", "silence"]


def calls(count: int, value: int = 1, account: int | str = 7) -> list[Event]:
    return [Event(account, "calls", value, JAN_1 + n) for n in range(count)]


def warm(client: Client, account: int = 1) -> None:
    """From here on calls take the short way, and have a session."""
    client.metrics.create(MetricSchema("calls", AggType.SUM))
    for _ in range(CALLS_FIRST):
        client.query(account, "calls", YEAR)
    client.ingest(calls(1, account=account))


def total(client: Client, account: int | str = 7) -> int:
    return client.query(account, "calls", YEAR).value.sum


class Beside:
    """A node in another thread, which the test's thread can be the main one beside. `do` works in that thread's loop."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._stack = AsyncExitStack()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def enter(self, manager: AbstractAsyncContextManager[T]) -> T:
        return self.do(self._stack.enter_async_context(manager))

    def close(self) -> None:
        self.do(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture
def beside() -> Iterator[Beside]:
    other = Beside()
    try:
        yield other
    finally:
        other.close()


@pytest.fixture
def node(beside: Beside) -> NodeServer:
    return beside.enter(serving())


@pytest.fixture
def cluster(beside: Beside) -> FakeCluster:
    return beside.enter(cluster_of())


async def within(work: Callable[[], T]) -> T:
    """`work`, in the loop of whoever runs this."""
    return work()


def test_a_client_that_is_asked_little_has_one_connection_and_one_that_is_asked_much_two(node: NodeServer) -> None:
    with Client([node.address]) as client:
        client.metrics.create(MetricSchema("calls", AggType.SUM))
        for n in range(CALLS_FIRST):
            client.ingest(calls(1, account=n))  # one of them is for account 7
        assert node.connections == 1
        for n in range(CALLS_FIRST, 100):
            assert client.ingest([Event(7, "calls", 1, JAN_1 + n)]).stored == 1
            assert total(client) == n + 1 - CALLS_FIRST + 1
        assert node.connections == 2
        sessions = [frame[32:48] for frame in node.line.frames]
        assert len(set(sessions[CALLS_FIRST:])) == 1, "its session's window moves on"
        assert sessions[0] not in sessions[CALLS_FIRST:]


@pytest.mark.parametrize("fate", BAD_LINES)
def test_a_retry_after_any_trouble_counts_once(fate: str, node: NodeServer) -> None:
    with Client([node.address], timeout=3.0) as client:
        warm(client)
        node.line.frames.clear()
        node.line.plan = [fate]
        result = client.ingest(calls(10, 3))
        assert (result.stored, result.duplicates) == (10, 0), "a retry gets the first answer"
        assert len(node.line.frames) == 2
        assert len(set(node.line.frames)) == 1, "the same bytes are sent again"
        assert total(client) == 30
        for n in range(70):  # beyond the window: the number was settled, or its session ended
            assert client.ingest([Event(8, "calls", 1, JAN_1 + n)]).stored == 1
        assert total(client, 8) == 70


@pytest.mark.parametrize("seed", range(4))
def test_threads_share_a_client_over_a_bad_line_and_everything_counts_once(seed: int, node: NodeServer) -> None:
    dice = random.Random(seed)
    threads, each = LINKS_PER_NODE_MAX + 4, 12
    with Client([node.address]) as client:
        warm(client)
        fates = ["ok"] * 8 + ["lose", "lose_answer", "busy", "garbage"]
        node.line.plan = [dice.choice(fates) for _ in range(threads * each)]

        def one(thread: int) -> None:
            for n in range(each):
                assert client.ingest([Event(thread + 10, "calls", 1, JAN_1 + n)]).stored == 1
                assert total(client, thread + 10) == n + 1, "what was just written is read"

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(one, range(threads)))


def test_many_threads_have_at_most_so_many_connections(node: NodeServer) -> None:
    with Client([node.address]) as client:
        warm(client)
        threads = LINKS_PER_NODE_MAX + 4
        together = threading.Barrier(threads)

        def one(thread: int) -> None:
            for n in range(20):
                together.wait()
                client.ingest([Event(thread + 10, "calls", 1, JAN_1 + n)])

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(one, range(threads)))
        assert 2 <= node.connections <= 1 + LINKS_PER_NODE_MAX
        assert sum(total(client, thread + 10) for thread in range(threads)) == 20 * threads


def test_time_running_out_says_so_and_retry_finishes_exactly_once(node: NodeServer) -> None:
    with Client([node.address]) as client:
        warm(client)
        node.line.always = "silence"
        with pytest.raises(IngestIncomplete) as incomplete:
            client.ingest(calls(3), timeout=0.2)
        node.line.always = None
        assert client.retry(incomplete.value).stored == 3
        assert total(client) == 3


def test_refusals_and_mistakes_are_the_same_exceptions(node: NodeServer) -> None:
    with Client([node.address]) as client:
        warm(client)
        with pytest.raises(UnknownMetric):
            client.query(7, "nope", YEAR)
        with pytest.raises(InvalidArgument, match="event 1"):
            client.ingest([Event(7, "calls"), Event(-1, "calls")])
        with pytest.raises(InvalidArgument, match="group_by"):
            client.query_breakdown(7, "calls", YEAR, group_by=[])
        with pytest.raises(InvalidArgument):
            client.query(2**64, "calls", YEAR)
        assert client.ingest([]) == IngestResult()
        assert total(client) == 0


def test_a_lost_session_is_loud_for_a_batch_in_doubt_and_silent_for_a_fresh_one(
    beside: Beside, node: NodeServer
) -> None:
    forgetful = beside.enter(serving())  # another node: it has never heard of the session
    with Client([forgetful.address]) as other:
        other.metrics.create(MetricSchema("calls", AggType.SUM))
    with Client([node.address]) as client:
        warm(client)
        node.line.elsewhere = forgetful.address
        node.line.plan = ["lose_answer", "redirect"]
        with pytest.raises(SessionLost, match="cannot tell"):
            client.ingest(calls(3))
        assert client.ingest(calls(3)).stored == 3, "the next ones go under a fresh session"
    with Client([node.address]) as client:
        warm(client, 2)
        node.line.plan = ["redirect", "redirect"]  # also when it is asked the loop's way
        assert client.ingest(calls(3, account=8)).stored == 3, "refused on its only way there: a fresh session takes it"
        assert total(client, 8) == 3


@pytest.mark.parametrize("fate", ["lose", "busy", "redirect", "garbage"])
def test_without_a_session_a_call_goes_the_loops_way_at_once(node: NodeServer, fate: str) -> None:
    with Client([node.address]) as client:
        client.metrics.create(MetricSchema("calls", AggType.SUM))
        client.ingest(calls(1, account=1))  # the loop's way has its session
        for _ in range(CALLS_FIRST):
            total(client)
        node.line.elsewhere = node.address
        node.line.opening = [fate]
        started = time.monotonic()
        assert client.ingest(calls(3)).stored == 3
        assert time.monotonic() - started < 1.0
        assert not node.line.opening
        assert total(client) == 3


def test_connections_that_the_server_closed_are_replaced(beside: Beside, node: NodeServer) -> None:
    with Client([node.address]) as client:
        warm(client)
        for n in range(5):
            beside.do(within(node.cut))
            assert client.ingest([Event(7, "calls", 1, JAN_1 + n)]).stored == 1
            beside.do(within(node.cut))
            assert total(client) == n + 1


def test_closing_ends_what_is_under_way(beside: Beside, node: NodeServer) -> None:
    client = Client([node.address])
    warm(client)
    node.line.always = "silence"
    with ThreadPoolExecutor(1) as pool:
        beside.do(within(node.line.arrived.clear))
        asking = pool.submit(client.ingest, calls(3))
        beside.do(node.line.arrived.wait())
        client.close()
        with pytest.raises(IngestIncomplete, match="closed") as incomplete:
            asking.result(10)
        assert len(incomplete.value.unfinished) == 1, "it may have been counted: another client can find out"
    for call in (lambda: client.ingest(calls(1)), lambda: client.query(7, "calls", YEAR)):
        with pytest.raises(ClientClosed):
            call()


def test_a_process_that_was_forked_is_told_to_make_its_own_client(node: NodeServer) -> None:
    with Client([node.address]) as client:
        warm(client)
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                client.ingest(calls(1))
            except ClientClosed as closed:
                client.close()
                os.write(writing, str(closed).encode())
            finally:
                os._exit(0)  # whatever happened: nothing of the test may run on here
        os.close(writing)
        with os.fdopen(reading) as said:
            assert "before the fork" in said.read()
        os.waitpid(child, 0)
        assert client.ingest(calls(3)).stored == 3, "the parent's connections are as they were"


def test_calls_that_meet_the_closing_end(node: NodeServer) -> None:
    def until_closed(client: Client, account: int) -> None:
        with contextlib.suppress(ClientClosed, IngestIncomplete):
            while True:
                client.ingest(calls(1, account=account))

    for _ in range(20):
        client = Client([node.address])
        warm(client)
        asking = [threading.Thread(target=until_closed, args=(client, n), daemon=True) for n in range(4)]
        for thread in asking:
            thread.start()
        client.ingest(calls(1))
        client.close()
        for thread in asking:
            thread.join(10)
            assert not thread.is_alive()


def test_an_interrupted_call_holds_up_nobody(beside: Beside, node: NodeServer) -> None:
    with Client([node.address]) as client, ThreadPoolExecutor(1) as pool:
        warm(client)

        def interrupt() -> None:
            beside.do(node.line.arrived.wait())
            os.kill(os.getpid(), signal.SIGINT)

        for n in range(70):  # more than the window has places
            node.line.plan = ["silence"]
            beside.do(within(node.line.arrived.clear))
            interrupting = pool.submit(interrupt)
            with pytest.raises(KeyboardInterrupt):
                client.ingest(calls(1, account=n + 10))
            interrupting.result()
            assert client.ingest(calls(1, account=n + 10)).stored == 1, "without an id or a session it is another event"


class Interrupting:
    """A lock under which a signal comes, each time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._interrupted = False

    def __enter__(self) -> None:
        assert self._lock.acquire(timeout=5), "whoever was interrupted holds it"
        if not self._interrupted:
            self._interrupted = True
            signal.raise_signal(signal.SIGUSR1)
            self._interrupted = False

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_a_signals_handler_may_call(node: NodeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client([node.address]) as client:
        warm(client)
        handled = 0

        def handler(_number: int, _frame: object) -> None:
            nonlocal handled
            handled += 1
            assert client.ingest([Event(8, "calls", 1, JAN_1 + handled)]).stored == 1
            assert total(client, 8) == handled

        before = signal.signal(signal.SIGUSR1, handler)
        monkeypatch.setattr(client._shortcut, "_lock", Interrupting())
        try:
            for n in range(20):
                assert client.ingest([Event(7, "calls", 1, JAN_1 + n)]).stored == 1
        finally:
            signal.signal(signal.SIGUSR1, before)
            monkeypatch.undo()
        assert handled >= 20
        assert (total(client), total(client, 8)) == (20, handled)


# ---- a cluster ----


def test_each_call_goes_to_the_leader_and_follows_it(beside: Beside, cluster: FakeCluster) -> None:
    with Client(cluster.addresses[:1]) as client:
        accounts = [cluster.account_of(group) for group in range(4)]
        for account in accounts:
            warm(client, account)

        def redirects() -> int:
            return sum(node.redirects for node in cluster.nodes)

        before = redirects()
        for n in range(20):
            for account in accounts:
                assert client.ingest([Event(account, "calls", 1, JAN_1 + 1 + n)]).stored == 1
        assert redirects() == before
        beside.do(within(lambda: cluster.elect(cluster.nodes[1])))
        for account in accounts:
            assert client.ingest([Event(account, "calls", 1, JAN_1 + 100)]).stored == 1
            assert total(client, account) == 22


def test_a_leader_that_dies_is_replaced_and_nothing_counts_twice(beside: Beside, cluster: FakeCluster) -> None:
    with Client(cluster.addresses) as client:
        account = cluster.account_of(0)
        warm(client, account)
        dying = cluster.nodes[0]
        dying.plan = ["lose_answer"]
        beside.do(within(lambda: cluster.replace(dying, cluster.nodes[1])))
        assert client.ingest(calls(3, account=account)[1:]).stored == 2
        beside.do(within(dying.kill))
        assert total(client, account) == 3


def test_a_hung_leader_is_escaped_within_two_seconds(beside: Beside, cluster: FakeCluster) -> None:
    with Client(cluster.addresses) as client, ThreadPoolExecutor(2) as pool:
        account = cluster.account_of(0)
        warm(client, account)
        warm(client, account)
        hung, heir, _ = cluster.nodes
        beside.do(within(hung.hang))
        started = time.monotonic()
        asking: list[Future[Any]] = [
            pool.submit(client.ingest, calls(1, account=account)),
            pool.submit(client.query, account, "calls", YEAR),
        ]
        beside.do(asyncio.sleep(0.8))
        beside.do(within(lambda: cluster.replace(hung, heir)))
        for asked in asking:
            asked.result(10)
        assert time.monotonic() - started < 2.0
        started = time.monotonic()
        assert client.ingest([Event(account, "calls", 1, JAN_1 + 9)]).stored == 1
        assert time.monotonic() - started < 0.5, "it is not asked again"
        beside.do(within(hung.resume))


@pytest.mark.parametrize("seed", range(4))
def test_any_mix_of_troubles_counts_once(beside: Beside, cluster: FakeCluster, seed: int) -> None:
    dice = random.Random(seed)
    fates = ["ok", "ok", "ok", "ok", "lose", "lose_answer", "no_leader", "leader_changed", "overloaded"]

    with Client(cluster.addresses) as client, ThreadPoolExecutor(7) as pool:
        warm(client, 99)
        for server in cluster.nodes:
            server.plan = [dice.choice([*fates, dice.choice(cluster.addresses)]) for _ in range(40)]

        def one(account: int) -> int:
            return sum(client.ingest([Event(account, "calls", 1, JAN_1 + n)]).stored for n in range(20))

        disturbing = pool.submit(beside.do, leaders_come_and_go(cluster, dice))
        assert list(pool.map(one, range(6))) == [20] * 6
        disturbing.result()
        assert [total(client, account) for account in range(6)] == [20] * 6
