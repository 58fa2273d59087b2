"""Claims about the SDK in front of a cluster: every request finds its leader, whatever the nodes do meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

import unimeter
from tests.client_cluster import FakeCluster, cluster_of, in_the_end, leaders_come_and_go
from tests.harness import JAN_1
from unimeter import AggType, AsyncClient, Event, MetricSchema, Period, Threshold
from unimeter.commands.import_rows import Mapping
from unimeter.commands.import_run import Complaints, Import
from unimeter.commands.import_source import Source
from unimeter.errors import (
    ConnectionFailed,
    EventsRefused,
    IngestIncomplete,
    InvalidArgument,
    NoLeader,
    RequestTimeout,
)
from unimeter.kernels import protocol as wire

YEAR = Period("2026-01-01", "2027-01-01")


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


def client_of(cluster: FakeCluster, timeout: float = 10.0) -> AsyncClient:
    return AsyncClient(cluster.addresses, timeout=timeout)


async def make_calls(client: AsyncClient) -> None:
    await client.metrics.create(MetricSchema("calls", AggType.SUM, thresholds=[Threshold("ten", 10)]))


def calls(account: int | str, count: int, value: int = 1) -> list[Event]:
    return [Event(account, "calls", value, JAN_1 + n) for n in range(count)]


def everywhere(cluster: FakeCluster, count: int) -> list[Event]:
    """Events of accounts in all groups, well mixed, some of them with text accounts."""
    groups = len(cluster.benches)
    return [Event(n if n % 3 else f"account {n}", "calls", 1, JAN_1 + n) for n in range(count * groups)]


async def total(client: AsyncClient, account: int | str) -> int:
    return (await client.query(account, "calls", YEAR)).value.count


def seconds() -> float:
    return asyncio.get_running_loop().time()


# ---- routing ----


@pytest.mark.parametrize("known", [1, 2, 3])
def test_a_batch_over_several_groups_is_answered_once(known: int) -> None:
    async def work() -> None:
        async with cluster_of() as cluster, AsyncClient(cluster.addresses[:known]) as client:
            await make_calls(client)
            events = everywhere(cluster, 100)
            result = await client.ingest(events)
            assert (result.stored, result.duplicates, result.refused) == (400, 0, 0)
            assert [await total(client, account) for account in (1, 2, "account 3", "account 399")] == [1, 1, 1, 1]
            assert sum(node.redirects for node in cluster.nodes) == 0, "every request went to its leader at once"
            assert len(cluster.frames) == 4, "one batch for each group"

    run(work())


def test_refusals_are_named_by_their_place_in_the_call() -> None:
    async def work() -> None:
        async with cluster_of() as cluster, client_of(cluster) as client:
            await make_calls(client)
            events = everywhere(cluster, 10)
            for place in (3, 17, 26):
                events[place] = Event(events[place].account_id, "nope", 1, JAN_1)
            with pytest.raises(EventsRefused) as refused:
                await client.ingest(events)
            assert [refusal.index for refusal in refused.value.refusals] == [3, 17, 26]
            assert (refused.value.result.stored, refused.value.result.refused) == (37, 3)
            with pytest.raises(InvalidArgument, match="event 5: "):
                await client.ingest([*events[:5], Event("", "calls"), *events[6:]])

    run(work())


def test_questions_go_to_the_leader_and_follow_it() -> None:
    async def work() -> None:
        async with cluster_of() as cluster, client_of(cluster) as client:
            await make_calls(client)
            account = cluster.account_of(2)
            await client.ingest(calls(account, 5))
            assert len(await client.events(account, YEAR)) == 5
            for node in cluster.nodes:
                cluster.elect(node, 2)
                assert (await client.query(account, "calls", YEAR)).value.sum == 5
                assert len(await client.events(account, YEAR)) == 5

    run(work())


def test_a_push_of_the_topology_spares_the_redirect() -> None:
    async def work() -> None:
        async with cluster_of() as cluster, client_of(cluster) as client:
            await make_calls(client)
            await client.ingest(everywhere(cluster, 1))
            for node in cluster.nodes:
                cluster.elect(node)
                await asyncio.sleep(0.01)  # for the push to arrive
                await client.ingest(everywhere(cluster, 1))
            assert sum(node.redirects for node in cluster.nodes) == 0
            assert sum(node.asked[wire.V2_TYPE_TOPOLOGY] for node in cluster.nodes) == 1, "one link watches"
            topology = await client.topology()
            assert topology.leaders == (cluster.nodes[2].address,) * 4
            assert [node.id for node in topology.nodes] == [1, 2, 3]

    run(work())


def test_redirect_loops_end_in_backoff() -> None:
    async def work() -> None:
        async with cluster_of(2, 1) as cluster, client_of(cluster, timeout=1.0) as client:
            await make_calls(client)
            first, second = cluster.nodes
            first.believed[0], second.believed[0] = second.address, first.address
            with pytest.raises(RequestTimeout, match="redirected"):
                await client.query(1, "calls", YEAR)
            assert 4 <= first.redirects + second.redirects <= 20, "each wait is longer than the one before"
            asking = asyncio.ensure_future(client.ingest(calls(1, 3)))
            await asyncio.sleep(0.1)
            first.believed.clear()
            assert (await asking).stored == 3

    run(work())


def test_a_node_that_believes_in_another_leader_is_corrected_by_redirects() -> None:
    async def work() -> None:
        async with cluster_of() as cluster:
            for group in range(4):
                cluster.nodes[0].believed[group] = cluster.nodes[group % 3].address
            cluster.elect(cluster.nodes[1])
            async with AsyncClient(cluster.addresses[:1], timeout=3.0) as client:
                await make_calls(client)
                assert (await client.ingest(everywhere(cluster, 10))).stored == 40

    run(work())


def test_nodes_that_advertise_addresses_which_lead_nowhere_are_found_where_the_application_said() -> None:
    async def work() -> None:
        async with cluster_of() as cluster:
            for node in cluster.nodes:
                node.advertised = f"127.0.0.1:{node.id}"  # nobody listens on such a port
            async with client_of(cluster, timeout=5.0) as client:
                await make_calls(client)
                assert (await client.ingest(everywhere(cluster, 10))).stored == 40
                cluster.elect(cluster.nodes[2])
                assert (await client.ingest(everywhere(cluster, 10))).stored == 40

    run(work())


def test_an_import_sends_each_row_to_its_group_and_names_lines_as_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "usage.csv"
    rows = [f"{n if n % 3 else f'account {n}'},{'x' if n == 77 else 1}" for n in range(200)]
    file.write_text("\n".join(["account,value", *rows]))
    mapping = Mapping("calls", "account", "value", None, None, None, (), None, "auto", "usage", False)
    said: list[str] = []

    async def work() -> None:
        async with cluster_of() as cluster, client_of(cluster) as client:
            await make_calls(client)
            for stored in (199, 0):
                with Complaints(said.append, None, "csv") as complaints:
                    importing = Import(mapping, 16, complaints, (await client.connect()).groups)
                    with Source(file, "csv", ",", mapping.columns()) as source:
                        await importing.run(source, client, lambda _: None)
                assert (importing.counts.stored, importing.counts.bad) == (stored, 1)
            assert await total(client, "account 198") == 1
            assert sum(node.redirects for node in cluster.nodes) == 0

    run(work())
    assert len(said) == 2
    assert said[0].startswith("line 79: ")


# ---- failover ----


def test_a_leader_that_dies_is_replaced_and_nothing_counts_twice() -> None:
    async def work() -> None:
        async with cluster_of() as cluster, client_of(cluster) as client:
            await make_calls(client)
            dead, heir, _ = cluster.nodes
            account = cluster.account_of(0)
            await client.ingest(calls(account, 2))
            dead.plan = ["lose_answer"]
            asking = asyncio.ensure_future(client.ingest(calls(account, 5, 2)))
            while dead.plan:
                await asyncio.sleep(0.001)
            dead.kill()
            cluster.replace(dead, None)
            await asyncio.sleep(0.3)
            cluster.replace(dead, heir)
            cluster.elect(heir, 0)
            result = await asking
            assert (result.stored, result.duplicates) == (5, 0)
            assert await total(client, account) == 7

    run(work())


@pytest.mark.parametrize("known", [1, 3])
def test_a_hung_leader_is_escaped_within_two_seconds(known: int) -> None:
    async def work() -> None:
        async with cluster_of() as cluster, AsyncClient(cluster.addresses[:known]) as client:
            await make_calls(client)
            await client.ingest(everywhere(cluster, 1))
            hung, heir, _ = cluster.nodes
            hung.hang()
            started = seconds()
            asking = [
                client.ingest(calls(cluster.account_of(0), 3)),
                client.query(cluster.account_of(3), "calls", YEAR),
            ]
            both = asyncio.gather(*asking)
            await asyncio.sleep(0.8)
            cluster.replace(hung, heir)
            await both
            assert seconds() - started < 2.0
            started = seconds()
            assert (await client.ingest(calls(cluster.account_of(0), 3))).stored == 3
            assert seconds() - started < 0.5, "it is not asked again"
            hung.resume()
            assert (await client.ingest(everywhere(cluster, 1))).stored == 4
            assert await total(client, cluster.account_of(0)) == 6

    run(work())


def test_a_leader_that_answers_others_but_lost_this_request_is_left_when_it_is_deposed() -> None:
    async def work() -> None:
        async with cluster_of(3, 2) as cluster, client_of(cluster) as client:
            cluster.elect(cluster.nodes[0])
            await make_calls(client)
            await client.ingest(everywhere(cluster, 1))
            cluster.nodes[0].plan = ["silence"]
            asking = asyncio.ensure_future(client.ingest(calls(cluster.account_of(1), 3)))
            while cluster.nodes[0].plan:
                await asyncio.sleep(0.001)
            started = seconds()
            cluster.elect(cluster.nodes[1], 1)
            while not asking.done():
                await client.query(cluster.account_of(0), "calls", YEAR)
                await asyncio.sleep(0.05)
            assert seconds() - started < 1.5
            assert (await asking).stored == 3, "the first answer"
            assert cluster.nodes[0].asked[wire.V2_TYPE_HELLO] == 1, "the connection was kept"

    run(work())


def test_a_hung_node_that_leads_nothing_holds_nobody_up_for_long() -> None:
    async def work() -> None:
        async with cluster_of() as cluster, client_of(cluster) as client:
            cluster.elect(cluster.nodes[1])
            await make_calls(client)
            cluster.nodes[0].hang()
            started = seconds()
            assert [metric.code for metric in await client.metrics.list()] == ["calls"]
            assert seconds() - started < 2.6
            started = seconds()
            await client.metrics.list()
            assert seconds() - started < 0.2

    run(work())


def test_dead_and_hung_addresses_do_not_hold_up_the_first_connection() -> None:
    async def work() -> None:
        async with cluster_of() as cluster:
            cluster.nodes[0].kill()
            cluster.nodes[1].hang()
            cluster.elect(cluster.nodes[2])
            started = seconds()
            async with client_of(cluster) as client:
                assert seconds() - started < 0.6
                await make_calls(client)
                assert (await client.ingest(everywhere(cluster, 5))).stored == 20
                assert seconds() - started < 1.0

    run(work())


@pytest.mark.parametrize("code", ["no_leader", "leader_changed", "starting", "overloaded"])
def test_pushback_of_a_changing_cluster_is_hidden_by_retries(code: str) -> None:
    async def work() -> None:
        async with cluster_of() as cluster, client_of(cluster) as client:
            await make_calls(client)
            for node in cluster.nodes:
                node.plan = [code] * 3
            assert (await client.ingest(everywhere(cluster, 10))).stored == 40
            for node in cluster.nodes:
                node.plan = [code] * 3
            assert await total(client, 1) == 1
            assert sum(node.redirects for node in cluster.nodes) == 0

    run(work())


def test_a_group_without_a_leader_to_the_end_is_an_error_that_says_so() -> None:
    async def work() -> None:
        async with cluster_of() as cluster, client_of(cluster, timeout=0.5) as client:
            await make_calls(client)
            await client.ingest(everywhere(cluster, 1))
            cluster.elect(None, 1)
            with pytest.raises(NoLeader):
                await in_the_end(lambda: client.ingest(calls(cluster.account_of(1), 5)))
            with pytest.raises(NoLeader):
                await in_the_end(lambda: total(client, cluster.account_of(1)))
            with pytest.raises(IngestIncomplete, match="5 events without a final answer") as incomplete:
                await client.ingest([*calls(cluster.account_of(0), 5), *calls(cluster.account_of(1), 5)])
            assert incomplete.value.result.stored == 5, "the rest is stored"
            cluster.elect(cluster.nodes[2], 1)
            assert (await client.retry(incomplete.value)).stored == 5

    run(work())


def test_a_changed_leader_leaves_a_batch_in_doubt_until_it_is_answered() -> None:
    async def work() -> None:
        async with cluster_of() as cluster, client_of(cluster, timeout=0.5) as client:
            await make_calls(client)
            account = cluster.account_of(0)
            await client.ingest(calls(account, 1))
            cluster.nodes[0].plan = ["leader_changed"] * 50
            with pytest.raises(IngestIncomplete) as incomplete:
                await client.ingest(calls(account, 5, 2))
            cluster.nodes[0].plan = []
            assert (await client.retry(incomplete.value)).stored == 5
            assert await total(client, account) == 6

    run(work())


def test_a_cluster_that_is_down_as_a_whole_is_found_again() -> None:
    async def work() -> None:
        async with cluster_of() as cluster, client_of(cluster) as client:
            await make_calls(client)
            await client.ingest(everywhere(cluster, 1))
            for node in cluster.nodes:
                node.kill()
            asking = asyncio.ensure_future(client.ingest(everywhere(cluster, 2)))
            await asyncio.sleep(0.3)
            for node in cluster.nodes:
                await node.start()
            result = await asking
            assert (result.stored, result.duplicates) == (8, 0)
            for node in cluster.nodes:
                node.kill()
            with pytest.raises((RequestTimeout, ConnectionFailed)):
                await client.query(1, "calls", YEAR, timeout=0.3)

    run(work())


@pytest.mark.parametrize("seed", range(4))
def test_any_mix_of_troubles_counts_once(seed: int) -> None:
    async def work() -> None:
        dice = random.Random(seed)
        async with cluster_of() as cluster, client_of(cluster) as client:
            await make_calls(client)
            fates = ["ok", "ok", "lose", "lose_answer", "no_leader", "leader_changed", "overloaded"]
            for node in cluster.nodes:
                node.plan = [dice.choice([*fates, dice.choice(cluster.addresses)]) for _ in range(15)]

            disturbing = asyncio.ensure_future(leaders_come_and_go(cluster, dice))
            asked = [client.ingest(calls(n if n % 2 else f"{n}", dice.randrange(1, 500))) for n in range(12)]
            results = await asyncio.gather(*asked)
            await disturbing
            assert all(result.duplicates == result.refused == 0 for result in results)
            for n, result in enumerate(results):
                assert await total(client, n if n % 2 else f"{n}") == result.stored

    run(work())


# ---- alerts ----


def test_alerts_of_all_groups_are_merged_and_have_a_cursor_each() -> None:
    async def work() -> None:
        async with cluster_of() as cluster, client_of(cluster) as client:
            await make_calls(client)
            for nth in range(3):
                for group in range(4):
                    await client.ingest(calls(cluster.account_of(group, nth + 1), 10))
            alerts = await client.alerts()
            assert sorted((alert.group, alert.number) for alert in alerts) == [
                (group, number) for group in range(4) for number in (1, 2, 3)
            ]
            assert [alert.triggered_at for alert in alerts] == sorted(alert.triggered_at for alert in alerts)
            assert len(await client.alerts(since=2)) == 4
            assert len(await client.alerts(since={0: 3, 1: 1})) == 8
            assert len(await client.alerts(since=[3, 3, 3, 2])) == 1
            assert await client.alerts(limit=5) == alerts[:5]
            mine = await client.alerts(cluster.account_of(2, 1), since={2: 0})
            assert [(alert.group, alert.number, alert.account) for alert in mine] == [(2, 1, cluster.account_of(2, 1))]
            for wrong in ([1, 2], {7: 1}, -1, "x"):
                with pytest.raises(InvalidArgument, match="since"):
                    await client.alerts(since=wrong)  # type: ignore[arg-type]

    run(work())


@pytest.mark.parametrize("trouble", ["dies", "hangs", "is deposed"])
def test_a_watcher_of_alerts_survives_a_failover_and_sees_each_alert_once(trouble: str) -> None:
    async def work() -> None:
        async with cluster_of() as cluster, client_of(cluster) as client:
            await make_calls(client)
            watch = client.watch_alerts()
            seen: list[tuple[int, int]] = []

            async def see(count: int) -> None:
                for _ in range(count):
                    alert = await anext(watch)
                    seen.append((alert.group, alert.number))

            for group in range(4):
                await client.ingest(calls(cluster.account_of(group, 1), 10))
            await see(4)
            lost, heir, _ = cluster.nodes
            if trouble == "dies":
                lost.kill()
            elif trouble == "hangs":
                lost.hang()
            cluster.replace(lost, heir)
            for group in range(4):
                await client.ingest(calls(cluster.account_of(group, 2), 10))
            await see(4)
            assert sorted(seen) == [(group, number) for group in range(4) for number in (1, 2)]
            await watch.aclose()  # type: ignore[attr-defined]

    run(work())


# ---- operators, and programs without a loop ----


def test_an_operators_request_goes_to_any_node() -> None:
    async def work() -> None:
        async with cluster_of() as cluster, client_of(cluster) as client:
            assert await client.cluster("transfer", group=1, to=3) == {"echo": {"op": "transfer", "group": 1, "to": 3}}

    run(work())


def test_the_blocking_client_does_the_same() -> None:
    async def work() -> None:
        async with cluster_of() as cluster:
            events = everywhere(cluster, 5)

            def blocking() -> None:
                with unimeter.Client(cluster.addresses[2:]) as client:
                    client.metrics.create(MetricSchema("calls", AggType.SUM))
                    assert client.ingest(events).stored == 20
                    assert client.query(1, "calls", YEAR).value.count == 1
                    assert client.topology().groups == 4
                    assert client.cluster("status")["echo"] == {"op": "status"}
                    assert client.alerts() == []

            await asyncio.to_thread(blocking)

    run(work())
