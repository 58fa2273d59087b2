"""Claims about the SDK in front of a real node: what an application sees, also when the line is bad."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import uvloop

import unimeter
from tests.client_server import NodeServer, raw_server, serving
from tests.harness import JAN_1
from unimeter import AggType, AsyncClient, Event, MetricSchema, Period, Threshold, current_month
from unimeter.errors import (
    BadRequest,
    ClientClosed,
    ConnectionFailed,
    DiskFull,
    EventsRefused,
    IngestIncomplete,
    InvalidArgument,
    MetricConflict,
    Overloaded,
    ProtocolError,
    SessionLost,
    UnknownMetric,
)

YEAR = Period("2026-01-01", "2027-01-01")
BAD_LINES = ["lose", "lose_answer", "busy", "disk_full", "garbage", "silence"]


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


def client_of(server: NodeServer, timeout: float = 5.0) -> AsyncClient:
    return AsyncClient([server.address], timeout=timeout)


async def make_calls(client: AsyncClient) -> None:
    await client.metrics.create(MetricSchema("calls", AggType.SUM, dimensions=["region"]))


def calls(count: int, value: int = 1, account: int | str = 7) -> list[Event]:
    return [Event(account, "calls", value, JAN_1 + n, {"region": "eu" if n % 3 else "us"}) for n in range(count)]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_the_documented_snippet_works_on_either_loop(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def work() -> None:
        async with serving() as server, AsyncClient([server.address]) as client:
            await client.metrics.create(MetricSchema(code="api_calls", agg_type=AggType.COUNT))
            await client.ingest([Event(account_id=42, metric_code="api_calls", value=1, timestamp=datetime.now(UTC))])
            usage = await client.query(42, "api_calls", current_month())
            assert (usage.value.count, usage.value.sum, usage.value.max, usage.value.last_value) == (1, 1, 1, 1)
            assert usage.value.unique is None

    run(work())


def test_every_aggregation_account_and_period_gives_its_totals() -> None:
    async def work() -> None:
        async with serving() as server, client_of(server) as client:
            for aggregation in AggType:
                await client.metrics.create(MetricSchema(aggregation.value, aggregation, dimensions=["region"]))
            moments = [datetime(2026, 3, day, 12, tzinfo=timezone(timedelta(hours=2))) for day in (1, 2, 3)]
            for account in (2**64 - 1, "acme — Zürich"):
                events = [
                    Event(account, aggregation.value, value, moment, {"region": region})
                    for aggregation in AggType
                    for value, moment, region in zip((5, -3, 5), moments, ("eu", "us", "eu"), strict=True)
                ]
                assert (await client.ingest(events)).stored == 15
                period = Period(moments[0], moments[2] + timedelta(microseconds=1))
                for aggregation in AggType:
                    value = (await client.query(account, aggregation.value, period)).value
                    assert (value.count, value.sum, value.min, value.max, value.last_value) == (3, 7, -3, 5, 5)
                    assert value.unique == (2 if aggregation is AggType.COUNT_UNIQUE else None)
                part = (await client.query(account, "sum", Period(moments[0], moments[2]))).value
                assert (part.count, part.sum, part.last_value) == (2, 2, -3)
                only = (await client.query(account, "sum", period, filters={"region": "eu"})).value
                assert (only.count, only.sum) == (2, 10)
                both = (await client.query(account, "sum", period, filters={"region": ["eu", "us"]})).value
                assert (both.count, both.sum) == (3, 7)
                rows = await client.query_breakdown(account, "sum", period, group_by=["region"])
                assert [(dict(row.dimensions), row.value.sum) for row in rows] == [
                    ({"region": "eu"}, 10),
                    ({"region": "us"}, -3),
                ]
                empty = (await client.query(account, "max", Period("2030-01-01", "2031-01-01"))).value
                assert (empty.count, empty.sum, empty.max, empty.last_value) == (0, 0, None, None)

    run(work())


@pytest.mark.parametrize("fate", BAD_LINES)
def test_a_retry_after_any_trouble_counts_once(fate: str) -> None:
    async def work() -> None:
        async with serving() as server, client_of(server, timeout=3.0) as client:
            await make_calls(client)
            await client.ingest(calls(1, account=1))
            server.line.frames.clear()
            server.line.plan = [fate, fate]
            result = await client.ingest(calls(10, 3))
            assert (result.stored, result.duplicates) == (10, 0), "a retry gets the first answer"
            assert len(server.line.frames) == 3
            assert len(set(server.line.frames)) == 1, "the same bytes are sent again"
            assert (await client.query(7, "calls", YEAR)).value.sum == 30

    run(work())


def test_many_batches_over_a_bad_line_count_once() -> None:
    async def work() -> None:
        async with serving() as server, client_of(server) as client:
            await make_calls(client)
            server.line.plan = ["ok", "lose_answer", "ok", "busy", "lose", "ok", "garbage", "lose_answer"] * 3
            events = [Event(7, "calls", 1, JAN_1 + n, {"region": "x" * (n % 200)}) for n in range(8000)]
            result = await client.ingest(events)
            assert (result.stored, result.duplicates, result.conflicts, result.refused) == (8000, 0, 0, 0)
            assert len(server.line.frames) > 10, "the events were split by the server's limits"
            assert (await client.query(7, "calls", YEAR)).value.count == 8000

    run(work())


@pytest.mark.parametrize("seed", range(4))
def test_any_mix_of_troubles_counts_once(seed: int) -> None:
    async def work() -> None:
        dice = random.Random(seed)
        async with serving() as server, client_of(server) as client:
            await make_calls(client)
            fates = ["ok", "lose", "lose_answer", "busy", "disk_full", "redirect"]
            server.line.plan = [dice.choice(fates) for _ in range(15)]
            server.line.elsewhere = server.address
            asked = [client.ingest(calls(dice.randrange(1, 2000), account=n)) for n in range(6)]
            results = await asyncio.gather(*asked)
            assert all(result.duplicates == result.conflicts == result.refused == 0 for result in results)
            for account, result in enumerate(results):
                assert (await client.query(account, "calls", YEAR)).value.count == result.stored

    run(work())


def test_equal_events_of_one_batch_all_count_and_ids_do_not() -> None:
    async def work() -> None:
        async with serving() as server, client_of(server) as client:
            await make_calls(client)
            same = Event(7, "calls", 1, JAN_1)
            assert (await client.ingest([same, same])).stored == 2
            named = Event(7, "calls", 1, JAN_1, id="order-1")
            first = await client.ingest([named, named])
            assert (first.stored, first.duplicates) == (1, 1)
            again = await client.ingest(named)
            assert (again.stored, again.duplicates) == (0, 1), "a duplicate is no error"
            assert (await client.query(7, "calls", YEAR)).value.count == 3

    run(work())


def test_refused_events_are_named_and_the_rest_is_stored() -> None:
    async def work() -> None:
        async with serving() as server, client_of(server) as client:
            await make_calls(client)
            events = [*calls(3), Event(7, "nope", 1, JAN_1), Event(7, "calls", 1, JAN_1, id="a")]
            with pytest.raises(EventsRefused, match="event 3: there is no such metric") as refused:
                await client.ingest(events)
            assert [(refusal.index, refusal.verdict.name) for refusal in refused.value.refusals] == [
                (3, "UNKNOWN_METRIC")
            ]
            assert (refused.value.result.stored, refused.value.result.refused) == (4, 1)
            with pytest.raises(EventsRefused, match="another content") as conflict:
                await client.ingest([Event(7, "calls", 2, JAN_1, id="a")])
            assert conflict.value.result.conflicts == 1
            assert (await client.query(7, "calls", YEAR)).value.count == 4

    run(work())


def test_time_running_out_says_so_and_retry_finishes_exactly_once() -> None:
    async def work() -> None:
        async with serving() as server, client_of(server, timeout=0.4) as client:
            await make_calls(client)
            server.line.always = "lose_answer"
            with pytest.raises(IngestIncomplete, match="5 events without a final answer") as incomplete:
                await client.ingest(calls(5))
            server.line.always = None
            assert (await client.ingest(calls(2, account=8))).stored == 2, "new batches are not held up"
            result = await client.retry(incomplete.value)
            assert result.stored == 5
            assert (await client.retry(incomplete.value)).stored == 5, "the first answer, whenever it is asked for"
            assert (await client.query(7, "calls", YEAR)).value.count == 5

    run(work())


def test_pushback_until_the_end_is_raised_as_what_it_is() -> None:
    async def work() -> None:
        async with serving() as server, client_of(server, timeout=0.3) as client:
            await make_calls(client)
            for fate, error in (("disk_full", DiskFull), ("busy", Overloaded)):
                server.line.always = fate
                with pytest.raises(error, match="the test said"):
                    await client.ingest(calls(5))
            server.line.always = None
            await client.ingest(calls(5))
            assert (await client.query(7, "calls", YEAR)).value.count == 5

    run(work())


def test_a_lost_session_is_loud_for_a_batch_in_doubt_and_silent_for_a_fresh_one() -> None:
    async def work() -> None:
        async with serving() as server, client_of(server) as client:
            await make_calls(client)
            await client.ingest(calls(1))
            forgetful = NodeServer()  # another node: it has never heard of the session
            await forgetful.start()
            server.line.elsewhere = forgetful.address
            server.line.plan = ["lose_answer", "redirect"]
            async with client_of(forgetful) as other:
                await make_calls(other)
            with pytest.raises(SessionLost, match="cannot tell"):
                await client.ingest(calls(3))
            assert forgetful.bench.node is not server.bench.node
            assert (await client.ingest(calls(3))).stored == 3, "the next ones go under a fresh session"
            await forgetful.stop()

    run(work())


def test_a_batch_refused_for_its_session_before_it_could_count_goes_under_a_fresh_one() -> None:
    async def work() -> None:
        async with serving() as server, client_of(server) as client:
            await make_calls(client)
            await client.ingest(calls(1))
            other = NodeServer()
            await other.start()
            async with client_of(other) as beside:
                await make_calls(beside)
            server.line.elsewhere = other.address
            server.line.plan = ["redirect"]
            assert (await client.ingest(calls(3))).stored == 3
            assert (await client.query(7, "calls", YEAR)).value.count == 3
            await other.stop()

    run(work())


def test_what_cannot_be_right_is_refused_before_anything_is_sent() -> None:
    async def work() -> None:
        async with serving() as server, client_of(server) as client:
            await make_calls(client)
            good = Event(7, "calls")
            for bad, words in [
                (Event(7, "calls", 1.5), "scale"),  # type: ignore[arg-type]
                (Event(7, "calls", 2**63), "64 bits"),
                (Event(-1, "calls"), "numeric account"),
                (Event("", "calls"), "text account"),
                (Event("x" * 129, "calls"), "text account"),
                (Event(7, "c" * 64), "metric code"),
                (Event(7, "calls", timestamp=datetime(2026, 1, 1)), "time zone"),
                (Event(7, "calls", timestamp="1969-12-31"), "1970"),
                (Event(7, "calls", properties={"k" * 32: "v"}), "property key"),
                (Event(7, "calls", properties={"k": 1}), "text to text"),  # type: ignore[dict-item]
                (Event(7, "calls", operation="ad"), "operation"),
                (Event(7, "calls", id=""), "event id"),
            ]:
                with pytest.raises(InvalidArgument, match=f"event 1: .*{words}"):
                    await client.ingest([good, bad])
            assert server.line.frames == []

    run(work())


def test_refusals_of_the_server_are_exceptions_with_a_code_and_a_fix() -> None:
    async def work() -> None:
        async with serving() as server, client_of(server) as client:
            assert await client.metrics.create(MetricSchema("calls", AggType.SUM)) is True
            assert await client.metrics.create(MetricSchema("calls", AggType.SUM)) is False
            with pytest.raises(MetricConflict):
                await client.metrics.create(MetricSchema("calls", AggType.MAX))
            with pytest.raises(UnknownMetric, match="nope") as unknown:
                await client.query(1, "nope", YEAR)
            assert unknown.value.code == "unknown_metric"
            assert unknown.value.fix
            with pytest.raises(unimeter.UnknownDimension):
                await client.query_breakdown(1, "calls", YEAR, group_by=["zone"])
            with pytest.raises(BadRequest):
                await client.metrics.create(MetricSchema("late", billing_day=31))
            listed = await client.metrics.list()
            assert [(metric.code, metric.schema.agg_type) for metric in listed] == [("calls", AggType.SUM)]
            await client.metrics.delete("calls")
            with pytest.raises(UnknownMetric):
                await client.metrics.delete("calls")

    run(work())


def test_stored_events_and_alerts_are_listed_to_the_end() -> None:
    async def work() -> None:
        async with serving() as server, client_of(server) as client:
            limits = [Threshold("ten", 10), Threshold("twenty", 20)]
            await client.metrics.create(MetricSchema("calls", AggType.SUM, ["region"], limits))

            async def watch() -> list[unimeter.Alert]:
                pushed = client.watch_alerts()
                return [await anext(pushed), await anext(pushed)]

            watching = asyncio.ensure_future(watch())
            events = [Event("acme", "calls", 1, JAN_1 + n, {"region": "eu"}, id=f"e{n}") for n in range(2500)]
            await client.ingest(events)
            stored = await client.events("acme", YEAR)
            assert [event.id for event in stored] == [f"e{n}" for n in range(2500)]
            assert stored[5].timestamp == JAN_1 + 5
            assert stored[5].properties == {"region": "eu"}
            assert len(await client.events("acme", YEAR, limit=1001)) == 1001
            assert await client.events("acme", Period(0, 0)) == []
            alerts = await client.alerts("acme")
            assert [(alert.threshold, alert.value) for alert in alerts] == [("ten", 10), ("twenty", 20)]
            assert await client.alerts(since=alerts[0].number) == alerts[1:]
            assert await watching == alerts
            assert (await client.status())["events"] == 2500

    run(work())


def test_a_server_that_restarts_is_found_again() -> None:
    async def work() -> None:
        server = NodeServer()
        await server.start()
        port = int(server.address.split(":")[1])
        async with client_of(server) as client:
            await make_calls(client)
            await client.ingest(calls(5))
            await server.stop()
            asking = asyncio.ensure_future(client.ingest(calls(3)))
            server = NodeServer(server.bench.restart())
            await server.start(port)
            assert (await asking).stored == 3
            assert (await client.query(7, "calls", YEAR)).value.count == 8
        await server.stop()

    run(work())


def test_nobody_there_is_an_error_at_once_or_after_the_connect_timeout() -> None:
    async def work() -> None:
        server = NodeServer()
        await server.start()
        address = server.address
        await server.stop()
        for seconds in (0, 0.1):
            with pytest.raises(ConnectionFailed, match="connection refused"):
                await AsyncClient([address], connect_timeout=seconds).connect()
        with pytest.raises(InvalidArgument):
            AsyncClient("localhost:7001")

    run(work())


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 64, b"\xff" * 4096])
def test_something_else_that_listens_is_named_at_once(answer: bytes) -> None:
    async def work() -> None:
        async def say(_: bytes) -> bytes:
            return answer

        async with raw_server(say) as address:
            with pytest.raises(ProtocolError, match="not a Unimeter server"):
                await AsyncClient([address], connect_timeout=3).connect()

    run(work())


def test_a_wrong_answer_is_an_error_and_not_a_success() -> None:
    async def work() -> None:
        async with serving() as server, client_of(server) as client:
            await make_calls(client)
            server.line.plan = ["short"]
            with pytest.raises(IngestIncomplete, match="too short") as incomplete:
                await client.ingest(calls(3))
            assert isinstance(incomplete.value.__cause__, ProtocolError)
            assert (await client.retry(incomplete.value)).stored == 3

    run(work())


def test_closing_ends_what_is_under_way() -> None:
    async def work() -> None:
        async with serving() as server:
            client = client_of(server)
            await client.connect()
            await make_calls(client)
            server.line.always = "silence"
            server.line.arrived.clear()
            asking = asyncio.ensure_future(client.ingest(calls(3)))
            await server.line.arrived.wait()
            client.close()
            with pytest.raises((ClientClosed, IngestIncomplete)):
                await asking
            with pytest.raises(ClientClosed):
                await client.query(7, "calls", YEAR)

    run(work())


def test_calls_that_are_cancelled_do_not_hold_up_others() -> None:
    async def work() -> None:
        async with serving() as server, client_of(server) as client:
            await make_calls(client)
            for n in range(100):
                server.line.plan = ["silence"]
                server.line.arrived.clear()
                asking = asyncio.ensure_future(client.ingest(calls(1, account=n)))
                await server.line.arrived.wait()
                asking.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asking
            assert (await client.ingest(calls(3, account="last"))).stored == 3

    run(work())


def test_the_blocking_client_does_the_same() -> None:
    async def serve(ready: asyncio.Future[str], stop: asyncio.Event) -> None:
        async with serving() as server:
            ready.set_result(server.address)
            await stop.wait()

    async def work() -> None:
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        stop = asyncio.Event()
        serving_task = asyncio.ensure_future(serve(ready, stop))
        address = await ready

        def blocking() -> int:
            with unimeter.Client([address]) as client:
                client.metrics.create(MetricSchema("calls", AggType.SUM, ["region"]))
                client.ingest(calls(10))
                with pytest.raises(UnknownMetric):
                    client.query(7, "nope", YEAR)
                rows = client.query_breakdown(7, "calls", YEAR, group_by=["region"])
                assert sum(row.value.count for row in rows) == 10
                assert [metric.code for metric in client.metrics.list()] == ["calls"]
                total = client.query(7, "calls", YEAR).value.count
            with pytest.raises(ClientClosed):
                client.query(7, "calls", YEAR)
            return total

        assert await asyncio.to_thread(blocking) == 10
        stop.set()
        await serving_task

    run(work())
