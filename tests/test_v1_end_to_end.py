"""What a published v1 client sees: a client written from the protocol page alone against a node process."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import v1_client as v1
from tests.v1_client import Event, V1Client
from unimeter.commands.bench_node import NodeProcess

HOUR_NS = 3_600_000_000_000
DAY_NS = 24 * HOUR_NS
T0 = 1_700_000_000_000_000_000  # 2023-11-14T22:13:20Z: not on an hour


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with NodeProcess(tmp_path_factory.mktemp("v1") / "data", "--memory-max", "256M") as process:
        yield process


@pytest.fixture
def client(node: NodeProcess) -> Iterator[V1Client]:
    with V1Client("127.0.0.1", node.port) as connected:
        yield connected


def status_of(client: V1Client, packet_type: int, payload: bytes) -> int:
    return client.receive(client.send(packet_type, payload)).status


def assert_still_serves(client: V1Client) -> None:
    assert client.cluster_status().node_count >= 1


# ---- totals ----


def test_five_aggregations_give_their_totals(client: V1Client) -> None:
    kinds = {"n": v1.COUNT, "s": v1.SUM, "m": v1.MAX, "l": v1.LATEST, "u": v1.COUNT_UNIQUE}
    for suffix, kind in kinds.items():
        client.metric_put(f"five_{suffix}", kind)
    values = [5, 1, 9, 9, 2]
    stamps = [T0 + i * HOUR_NS for i in (3, 1, 4, 0, 2)]  # out of order: the last arrived is not the latest
    for suffix in kinds:
        events = [Event(f"five_{suffix}", 42, at, value) for at, value in zip(stamps, values, strict=True)]
        answer = client.ingest(events)
        assert (answer.status, answer.stored, answer.duplicates) == (v1.OK, 5, 0)
    everything = (T0 - DAY_NS, T0 + DAY_NS)
    for suffix in "nsml":
        got = client.query(42, f"five_{suffix}", *everything)
        assert (got.count, got.sum, got.max) == (5, 26, 9)
        assert (got.last_value, got.last_timestamp_ns) == (9, T0 + 4 * HOUR_NS)
    assert client.query(42, "five_u", *everything).count == 4
    assert client.query(43, "five_s", *everything) == v1.Aggregate(0, 0, 0, 0, 0, 0)


def test_ranges_are_exact_to_the_nanosecond(client: V1Client) -> None:
    client.metric_put("exact", v1.SUM)
    stamps = [T0, T0 + 1, T0 + 2, T0 + 90 * 60 * 10**9, T0 + 5 * HOUR_NS]
    client.ingest([Event("exact", 7, at, 1 << i) for i, at in enumerate(stamps)])
    for start, end in ((T0, T0 + 1), (T0 + 1, T0 + 3), (T0 + 2, T0 + 5 * HOUR_NS), (T0, T0 + 5 * HOUR_NS + 1)):
        wanted = sum(1 << i for i, at in enumerate(stamps) if start <= at < end)
        assert client.query(7, "exact", start, end).sum == wanted


def test_a_sum_goes_beyond_64_bits(client: V1Client) -> None:
    client.metric_put("big", v1.SUM)
    largest = 2**63 - 1
    client.ingest([Event("big", 1, T0 + i, largest) for i in range(5)])
    assert client.query(1, "big", T0, T0 + 10).sum == 5 * largest


def test_unique_members_are_added_and_removed(client: V1Client) -> None:
    client.metric_put("members", v1.COUNT_UNIQUE)
    client.metric_put("seats", v1.COUNT_UNIQUE, recurring=True)
    for code in ("members", "seats"):
        plan = [(0, 1, v1.ADD), (1, 2, v1.ADD), (2, 1, v1.REMOVE), (3, 3, v1.NONE)]
        client.ingest([Event(code, 9, T0 + hour * HOUR_NS, who, op) for hour, who, op in plan])
    assert client.query(9, "members", T0, T0 + DAY_NS).count == 2
    assert client.query(9, "members", T0, T0 + 2 * HOUR_NS).count == 2
    assert client.query(9, "members", T0 + 2 * HOUR_NS, T0 + DAY_NS).count == 1
    assert client.query(9, "seats", T0 + 2 * HOUR_NS, T0 + DAY_NS).count == 2  # 2 was added before the range


def test_filters_and_breakdown_add_up_to_the_total(client: V1Client) -> None:
    client.metric_put("dims", v1.SUM, dimensions=["region", "model"])
    events: list[Event] = []
    wanted: dict[tuple[str, str], int] = {}
    for i in range(60):
        region, model = ("eu", "us", "")[i % 3], ("a", "b")[i % 2]
        pairs = (("ignored", str(i)), ("model", model), *((("region", region),) if region else ()))
        events.append(Event("dims", 3, T0 + i * 10**12, i, properties=tuple(sorted(pairs))))
        wanted[region, model] = wanted.get((region, model), 0) + i
    assert client.ingest(events).stored == 60
    everything = (T0, T0 + DAY_NS)
    total = client.query(3, "dims", *everything)
    assert (total.sum, total.count) == (sum(range(60)), 60)
    rows = client.breakdown(3, "dims", *everything, ["region", "model"])
    assert {key: row.sum for key, row in rows.items()} == wanted
    swapped = client.breakdown(3, "dims", *everything, ["model", "region"])
    assert {(b, a): row for (a, b), row in swapped.items()} == rows
    one = client.query(3, "dims", *everything, filters={"region": ["eu"]})
    assert one.sum == wanted["eu", "a"] + wanted["eu", "b"]
    two = client.query(3, "dims", *everything, filters={"region": ["eu", ""], "model": ["b", "nope"]})
    assert two.sum == wanted["eu", "b"] + wanted["", "b"]
    assert client.query(3, "dims", *everything, filters={"model": ["nope"]}).count == 0


def test_realtime_is_the_current_period_and_zero_means_now(client: V1Client) -> None:
    client.metric_put("live", v1.COUNT, period=(v1.DAY, 0))
    before_ns = time.time_ns()
    client.ingest([Event("live", 5), Event("live", 5), Event("live", 5, T0)])
    got = client.realtime(5, "live")
    assert got.count == 2 or time.time_ns() // DAY_NS != before_ns // DAY_NS
    assert got.last_timestamp_ns >= before_ns - 10**9
    assert client.query(5, "live", T0, T0 + 1).count == 1


# ---- lists ----


def test_events_are_listed_within_inclusive_bounds(client: V1Client) -> None:
    client.metric_put("listed", v1.SUM)
    client.ingest([Event("listed", 11, T0 + i * HOUR_NS, i + 1, v1.ADD if i else v1.NONE) for i in range(5)])
    got = [event for event in client.events(11, T0 + HOUR_NS, T0 + 3 * HOUR_NS) if event.code == "listed"]
    assert [(e.timestamp_ns, e.account, e.code, e.value, e.operation) for e in got] == [
        (T0 + i * HOUR_NS, 11, "listed", i + 1, v1.ADD) for i in (1, 2, 3)
    ]
    assert [e.offset for e in got] == sorted({e.offset for e in got})
    assert client.events(2**40, 0, 2**62) == []


def test_thresholds_fire_once_and_are_pushed(node: NodeProcess, client: V1Client) -> None:
    client.metric_put("quota", v1.SUM, thresholds=[("soft", 10, False), ("hard", 20, False)], period=(v1.DAY, 0))
    with V1Client("127.0.0.1", node.port) as listener:
        listener.alert_enable()
        client.ingest([Event("quota", 21, T0 + i, 4) for i in range(4)])
        push, node_id = listener.next_alert_push()
        assert (push.account, push.code, push.threshold, push.value) == (21, "quota", "soft", 12)
        assert node_id == client.cluster_status().node_id
        client.ingest([Event("quota", 21, T0 + 10 + i, 4) for i in range(4)])
        assert listener.next_alert_push()[0].threshold == "hard"
        assert_still_serves(listener)
        assert listener.pushes == []
    got = client.alerts(21)
    assert [(a.threshold, a.value) for a in got] == [("soft", 12), ("hard", 20)]
    assert client.alerts(21, got[0].offset) == got[1:]
    assert set(got) <= set(client.alerts())
    assert client.alerts(22) == []
    assert client.query(21, "quota", T0 // DAY_NS * DAY_NS, T0 // DAY_NS * DAY_NS + DAY_NS).alert_bits == 0b11


def test_metrics_are_listed_as_they_were_put_until_deleted(client: V1Client) -> None:
    thresholds = [("t1", 5, True), ("t2", 2**62, False)]
    client.metric_put("meta", v1.MAX, dimensions=["k1", "k2"], thresholds=thresholds, period=(v1.MONTH, 15))
    client.metric_put("meta", v1.MAX, dimensions=["k1", "k2"], thresholds=thresholds, period=(v1.MONTH, 15))
    (got,) = [metric for metric in client.metric_list() if metric.code == "meta"]
    assert got == v1.Metric("meta", v1.MAX, False, ("k1", "k2"), tuple(thresholds), v1.MONTH, 15)
    client.metric_delete("meta")
    assert "meta" not in {metric.code for metric in client.metric_list()}
    assert client.ingest([Event("meta", 1, T0)]).status == v1.UNKNOWN_METRIC


def test_a_changed_aggregation_is_refused(client: V1Client) -> None:
    client.metric_put("fixed", v1.SUM)
    with pytest.raises(v1.Refused, match="status 2"):
        client.metric_put("fixed", v1.COUNT)
    assert [m.aggregation for m in client.metric_list() if m.code == "fixed"] == [v1.SUM]


def test_status_and_map_name_this_node_for_every_partition(node: NodeProcess, client: V1Client) -> None:
    assert client.partition_map() == [(node.address, node.address)] * 256 or {
        leader for leader, _ in client.partition_map()
    } == {node.address}
    status = client.cluster_status()
    assert status.node_count == 1
    assert status.uptime_ns > 0
    assert {(role, leader) for _, _, role, leader in status.partitions} == {(0, status.node_id)}
    assert status.aggregate_keys > 0
    assert status.segments >= 1


# ---- what is refused ----


def test_unknown_metrics_are_refused_and_the_rest_is_stored(client: V1Client) -> None:
    client.metric_put("known", v1.COUNT)
    answer = client.ingest([Event("known", 1, T0), Event("nope", 1, T0), Event("known", 1, T0 + 1)])
    assert (answer.status, answer.stored) == (v1.UNKNOWN_METRIC, 2)
    assert client.query(1, "known", T0, T0 + 2).count == 2
    assert client.ingest([Event("nope", 1, T0)], sync=False).status == v1.UNKNOWN_METRIC
    assert client.receive(client.send(v1.QUERY, struct.pack("<Qqq64s8x", 1, 0, 1, b"nope"))).status in (
        v1.ERROR,
        v1.UNKNOWN_METRIC,
    )
    assert_still_serves(client)


def test_refused_events_alone_never_fill_the_node(client: V1Client) -> None:
    client.metric_put("open_door", v1.COUNT)
    refused = v1.ingest_payload([Event("nope", 1, T0 + i) for i in range(20_000)])
    for _ in range(40):  # more notes of refused events than an open entry has room for
        assert client.receive(client.send(v1.INGEST_SYNC, refused)).status == v1.UNKNOWN_METRIC
    assert client.ingest([Event("open_door", 1, T0)]).status == v1.OK


def test_a_value_above_63_bits_refuses_the_whole_batch(client: V1Client) -> None:
    client.metric_put("wide", v1.SUM)
    for sync in (True, False):
        answer = client.ingest([Event("wide", 1, T0, 1), Event("wide", 1, T0 + 1, 2**63)], sync=sync)
        assert (answer.status, answer.stored) == (v1.ERROR, 0)
    assert client.query(1, "wide", T0, T0 + 2).count == 0


def test_offsets_grow_with_every_accepted_batch(client: V1Client) -> None:
    client.metric_put("offsets", v1.COUNT)
    offsets = [client.ingest([Event("offsets", 1, T0 + i)]).last_offset for i in range(20)]
    assert offsets == sorted(set(offsets))


# ---- exactly once ----


def test_a_resent_batch_adds_nothing_and_equal_events_in_one_batch_count(client: V1Client) -> None:
    client.metric_put("again", v1.SUM)
    batch = [Event("again", 1, T0, 5), Event("again", 1, T0, 5), Event("again", 1, T0 + 1, 7), Event("again", 2, T0, 5)]
    assert (first := client.ingest(batch)).stored == 4
    for sync in (True, True, False):
        answer = client.ingest(batch, sync=sync)
        assert answer.status in (v1.OK, v1.DUPLICATE)
        if sync:
            assert (answer.stored, answer.duplicates) == (0, 4)
    assert client.query(1, "again", T0, T0 + 2).sum == 17
    assert client.query(2, "again", T0, T0 + 2).sum == 5
    assert len([event for event in client.events(1, T0, T0 + 2) if event.code == "again"]) == 3
    third = client.ingest([*batch, Event("again", 1, T0, 5)])  # a third equal one: ordinal 2 was never seen
    assert (third.stored, third.duplicates) == (1, 4)
    assert first.status == v1.OK


def test_same_moment_with_any_difference_is_another_event(client: V1Client) -> None:
    client.metric_put("differ", v1.COUNT, dimensions=["k"])
    client.metric_put("differ2", v1.COUNT)
    base = Event("differ", 1, T0, 5)
    others = [base._replace(value=6), base._replace(account=2), base._replace(timestamp_ns=T0 + 1), base._replace(operation=v1.ADD),
              base._replace(properties=(("k", "v"),)), base._replace(code="differ2")]  # fmt: skip
    assert client.ingest([base]).stored == 1
    assert client.ingest(others).stored == len(others)


# ---- many requests ----


def test_many_requests_in_flight_on_one_connection_are_all_answered(client: V1Client) -> None:
    client.metric_put("many", v1.SUM)
    ids = []
    for i in range(2000):
        events = [Event("many", i % 10, T0 + i, i)]
        ids.append(client.send(v1.INGEST_ASYNC if i % 3 else v1.INGEST_SYNC, v1.ingest_payload(events)))
    answers = [client.ingested(request_id) for request_id in reversed(ids)]
    assert {(a.status, a.stored, a.duplicates) for a in answers} == {(v1.OK, 1, 0)}
    totals = [client.query(account, "many", T0, T0 + 2000) for account in range(10)]
    assert sum(t.sum for t in totals) == sum(range(2000))
    assert [t.count for t in totals] == [200] * 10


def test_acknowledged_writes_are_visible_to_queries_pipelined_behind_them(client: V1Client) -> None:
    client.metric_put("fresh", v1.COUNT)
    for i in range(50):
        client.ingested(client.send(v1.INGEST_ASYNC, v1.ingest_payload([Event("fresh", 1, T0 + i)])))
        assert client.query(1, "fresh", T0, T0 + 50).count == i + 1


def test_a_frame_may_arrive_in_pieces(client: V1Client) -> None:
    client.metric_put("pieces", v1.COUNT)
    whole = b"".join(
        v1.frame(v1.INGEST_SYNC, v1.ingest_payload([Event("pieces", 1, T0 + i)]), 100_000 + i) for i in range(3)
    )
    for at in range(0, len(whole), 37):
        client.send_raw(whole[at : at + 37])
    assert [client.ingested(100_000 + i).stored for i in range(3)] == [1, 1, 1]
    assert client.query(1, "pieces", T0, T0 + 3).count == 3


def test_a_large_batch_is_taken_whole(client: V1Client) -> None:
    client.metric_put("large", v1.SUM)
    answer = client.ingest([Event("large", i % 100, T0 + i, 1) for i in range(20_000)])
    assert (answer.status, answer.stored) == (v1.OK, 20_000)
    assert client.query(17, "large", T0, T0 + DAY_NS).count == 200


# ---- malformed frames ----

ONE = v1.ingest_payload([Event("bad", 1, T0 + 500)])
MALFORMED = {
    "bad magic": b"\x00" + v1.frame(v1.INGEST_SYNC, ONE, 1)[1:],
    "bad version": v1.frame(v1.INGEST_SYNC, ONE, 1)[:4] + b"\x09" + v1.frame(v1.INGEST_SYNC, ONE, 1)[5:],
    "impossible length": struct.pack("<IBBHII", v1.MAGIC, 1, v1.INGEST_SYNC, 0xFFFF, 2**32 - 1, 1),
    "more events than bytes": v1.frame(v1.INGEST_SYNC, struct.pack("<I", 2) + ONE[4:], 1),
    "more properties than bytes": v1.frame(v1.INGEST_SYNC, ONE[:4] + struct.pack("<I", 1) + ONE[8:], 1),
    "trailing bytes": v1.frame(v1.INGEST_SYNC, ONE + bytes(8), 1),
    "ingest without counts": v1.frame(v1.INGEST_SYNC, b"", 1),
    "count that overflows": v1.frame(v1.INGEST_SYNC, struct.pack("<II", 2**32 - 1, 2**32 - 1) + ONE[8:], 1),
    "short query": v1.frame(v1.QUERY, bytes(40), 1),
    "long query": v1.frame(v1.QUERY, struct.pack("<Qqq64sB7x", 1, 0, 1, b"bad", 0) + b"x", 1),
    "short metric": v1.frame(v1.METRIC_PUT, bytes(12), 1),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_frames_get_status_2_and_only_their_connection_is_closed(
    node: NodeProcess, client: V1Client, name: str
) -> None:
    client.metric_put("bad", v1.COUNT)
    with V1Client("127.0.0.1", node.port) as offender:
        offender.send_raw(MALFORMED[name] + v1.frame(v1.INGEST_SYNC, ONE, 2))
        statuses = offender.read_to_end()
        assert statuses in ([v1.ERROR], []) if name.startswith("bad ") else statuses == [v1.ERROR]
    assert client.query(1, "bad", T0, T0 + 1000).count == 0
    assert_still_serves(client)


def test_the_good_requests_before_a_malformed_one_are_stored_and_answered(node: NodeProcess, client: V1Client) -> None:
    client.metric_put("before", v1.COUNT)
    frames = [v1.frame(v1.INGEST_SYNC, v1.ingest_payload([Event("before", 1, T0 + i)]), i + 10) for i in range(5)]
    with V1Client("127.0.0.1", node.port) as offender:
        offender.send_raw(b"".join(frames) + MALFORMED["trailing bytes"])
        assert sorted(offender.read_to_end()) == [v1.OK] * 5 + [v1.ERROR]
    assert client.query(1, "before", T0, T0 + 10).count == 5


# ---- restarts ----


def test_totals_dedup_and_metrics_survive_a_clean_restart(tmp_path: Path) -> None:
    batch = [Event("kept", i % 7, T0 + i, i) for i in range(1000)]
    with NodeProcess(tmp_path / "data", "--memory-max", "256M") as process:
        with V1Client("127.0.0.1", process.port) as client:
            client.metric_put("kept", v1.SUM)
            client.ingest(batch)
            before = [client.query(account, "kept", T0, T0 + 1000) for account in range(7)]
            offset = client.ingest([Event("kept", 99, T0)]).last_offset
        assert process.stop() == 0
        process.start()
        with V1Client("127.0.0.1", process.port) as client:
            assert [client.query(account, "kept", T0, T0 + 1000) for account in range(7)] == before
            assert client.ingest(batch).duplicates == 1000
            assert client.ingest([Event("kept", 99, T0 + 1)]).last_offset > offset
            assert len(client.events(3, T0, T0 + 1000)) == before[3].count
