"""Claims about the node as a pure function: what it says, when, and what survives a crash at that moment."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.harness import JAN_1, SMALL, Bench, v1, v1_event, v1_ingest, v1_metric, v1_usage
from unimeter.config import BLOCK_BYTES
from unimeter.core import checkpoint
from unimeter.core.effects import Write
from unimeter.core.inputs import StopRequested
from unimeter.kernels import protocol as wire

HOUR = 3_600_000_000_000


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.disk()
    assert made.node.ready, made.halted
    made.link()
    assert made.ask(1, v1_metric("calls", 1, ("region",), (("big", 100),))) == (0, b"")
    return made


def usage(bench: Bench, account: int, start: int = 0, end: int = 2**62, code: str = "calls") -> tuple[int, ...]:
    status, payload = bench.ask(1, v1_usage(account, code, start, end))
    assert status == 0, payload
    return wire.V1_AGGREGATE.unpack(payload)


def test_a_sync_event_is_answered_only_after_its_write_is_durable(bench: Bench) -> None:
    bench.feed(1, v1_ingest(v1_event("calls", 7, 5, JAN_1)))
    bench.turn()
    assert bench.pending, "the record must be on its way to the disk"
    assert bench.take(1) == b"", "answered before durable"
    bench.disk()
    assert bench.take(1) == wire.V1_RESPONSE_HEADER.pack(0, 1, 16) + struct.pack("<IIQ", 1, 0, 1)
    assert usage(bench, 7)[:3] == (5, 0, 1)


def test_an_async_event_is_answered_when_ordered_and_seen_by_the_next_query(bench: Bench) -> None:
    bench.feed(1, v1_ingest(v1_event("calls", 7, 5, JAN_1), sync=False, request_id=9))
    bench.turn()
    assert bench.take(1)[4:8] == struct.pack("<I", 9), "the place in the log is known: answer"
    bench.feed(1, v1_usage(7, "calls", 0, 2**62))
    bench.turn()
    assert bench.take(1) == b"", "the query must wait for the acknowledged write"
    bench.disk()
    assert wire.V1_AGGREGATE.unpack(bench.take(1)[12:])[2] == 1


def test_requests_that_arrive_during_a_write_share_the_next_one(bench: Bench) -> None:
    before = bench.node.journal.records_written
    for n in range(20):
        bench.feed(1, v1_ingest(v1_event("calls", n, 1, JAN_1 + n)))
        bench.turn()
    bench.disk()
    assert bench.node.journal.records_written == before + 2


def test_a_resent_batch_adds_nothing_also_after_a_restart(bench: Bench) -> None:
    batch = v1_ingest(v1_event("calls", 7, 5, JAN_1), v1_event("calls", 7, 5, JAN_1))
    assert bench.ask(1, batch)[1] == struct.pack("<IIQ", 2, 0, 2)
    again = bench.restart()
    again.link()
    assert again.ask(1, batch)[1] == struct.pack("<IIQ", 0, 2, 4)
    assert usage(again, 7)[0] == 10


def test_the_state_after_a_restart_is_the_state_before_it(bench: Bench) -> None:
    for n in range(300):
        bench.ask(
            1,
            v1_ingest(
                *[v1_event("calls", k, n, JAN_1 + n * HOUR + k, properties={"region": f"r{k % 3}"}) for k in range(20)]
            ),
        )
    again = bench.restart()
    before, after = bench.node.groups[0].state.meta(), again.node.groups[0].state.meta()
    assert after.digest == before.digest
    began = {"applied_index": 0, "applied_term": 0, "stamp_ns": 0}  # the new term has an entry of its own
    assert after._replace(**began) == before._replace(**began)


def test_a_clean_stop_leaves_a_checkpoint_and_nothing_to_replay(bench: Bench) -> None:
    bench.ask(1, v1_ingest(v1_event("calls", 7, 5, JAN_1)))
    bench.step(StopRequested())
    bench.disk()
    assert bench.halted is not None and bench.halted.reason is None
    again = bench.restart()
    assert again.node.recovered.replayed_bytes == 0
    again.link()
    assert usage(again, 7)[0] == 5


def _checkpointed(bench: Bench) -> str:
    """One event, a clean stop; the name of the checkpoint."""
    bench.ask(1, v1_ingest(v1_event("calls", 7, 5, JAN_1)))
    bench.step(StopRequested())
    bench.disk()
    (name,) = (name for name in bench.files if name.startswith("checkpoint/"))
    return name


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda data: data[:-BLOCK_BYTES], "last block is missing"),
        (lambda data: data[: BLOCK_BYTES + 100], "incomplete"),
        (lambda data: data[:BLOCK_BYTES] + bytes(100) + data[BLOCK_BYTES + 100 :], "chunk 0 at offset 4096 is damaged"),
    ],
    ids=["without its end", "cut off", "damaged"],
)
def test_a_checkpoint_that_is_not_used_is_told_of_and_nothing_is_missing(
    bench: Bench, spoil: Callable[[bytes], bytes], why: str
) -> None:
    name = _checkpointed(bench)
    bench.files[name] = bytearray(spoil(bytes(bench.files[name])))
    again = bench.restart()
    (line,) = again.node.take_notices()
    assert line.startswith(f"{name} is not used (")
    assert why in line
    again.link()
    assert usage(again, 7)[0] == 5


def test_a_checkpoint_of_another_version_is_told_of_and_nothing_is_missing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = _checkpointed(bench)
    monkeypatch.setattr(checkpoint, "VERSION", checkpoint.VERSION + 1)
    again = bench.restart()
    assert again.node.take_notices() == [
        f"{name} is not used (written by format {checkpoint.VERSION - 1}, this program reads {checkpoint.VERSION}); "
        "the journal, which has everything, is read instead"
    ]
    again.link()
    assert usage(again, 7)[0] == 5


def test_a_start_on_a_whole_checkpoint_has_nothing_to_tell(bench: Bench) -> None:
    _checkpointed(bench)
    assert bench.restart().node.take_notices() == []


def test_a_range_that_cuts_an_hour_is_exact_to_the_nanosecond(bench: Bench) -> None:
    times = [JAN_1 + n for n in (0, 1, 10, HOUR - 1, HOUR, HOUR + 5)]
    bench.ask(1, v1_ingest(*[v1_event("calls", 7, 1, t) for t in times]))
    for start, end in [
        (JAN_1 + 1, JAN_1 + 10),
        (JAN_1 + 1, JAN_1 + 11),
        (JAN_1 + 10, JAN_1 + HOUR + 5),
        (JAN_1, JAN_1 + HOUR),
    ]:
        assert usage(bench, 7, start, end)[2] == sum(start <= t < end for t in times), (start - JAN_1, end - JAN_1)


def test_an_unknown_metric_is_refused_and_the_rest_is_stored(bench: Bench) -> None:
    status, payload = bench.ask(1, v1_ingest(v1_event("nope", 7, 1, JAN_1), v1_event("calls", 7, 2, JAN_1)))
    assert status == wire.V1_STATUS_UNKNOWN_METRIC
    assert struct.unpack("<IIQ", payload)[:2] == (1, 0)
    assert usage(bench, 7)[0] == 2


def test_garbage_is_answered_with_an_error_and_closes_only_its_own_link(bench: Bench) -> None:
    bench.link(2)
    bench.feed(2, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + bytes(40))
    bench.turn()
    assert bench.closed == [2]
    assert bench.take(2)[0] == wire.V1_STATUS_ERROR
    assert bench.ask(1, v1_ingest(v1_event("calls", 7, 2, JAN_1)))[0] == 0


def test_good_requests_before_a_malformed_one_are_answered_before_the_link_is_closed(bench: Bench) -> None:
    bench.link(2)
    bad = v1(1, struct.pack("<II", 5, 0))
    bench.feed(2, v1_ingest(v1_event("calls", 7, 2, JAN_1), request_id=1) + bad)
    bench.feed(2, v1_ingest(v1_event("calls", 7, 2, JAN_1 + 1), request_id=3))
    bench.disk()
    answers = bench.take(2)
    assert sorted(request_ids(answers)) == [(0, 1), (wire.V1_STATUS_ERROR, 1)] and bench.closed == [2]
    assert usage(bench, 7)[2] == 1, "nothing after the malformed frame is taken"


def request_ids(answers: bytes) -> list[tuple[int, int]]:
    """(status, request id) of each answer."""
    found = []
    while answers:
        status, request_id, length = wire.V1_RESPONSE_HEADER.unpack_from(answers)
        found.append((status, request_id))
        answers = answers[12 + length :]
    return found


def test_a_torn_tail_is_cut_off_and_what_was_acknowledged_stays(bench: Bench) -> None:
    bench.ask(1, v1_ingest(v1_event("calls", 7, 5, JAN_1)))
    bench.feed(1, v1_ingest(*[v1_event("calls", 7, 1, JAN_1 + n + 1) for n in range(100)]))
    bench.turn()
    write = next(e for e in bench.pending if getattr(e, "file", "").startswith("journal"))
    content = bench.files[write.file]
    content[write.offset : write.offset + 1024] = write.data[:1024]  # only the first two sectors made it
    again = bench.restart()
    assert again.node.recovered.torn_tail
    again.link()
    assert usage(again, 7)[0] == 5


def test_rot_in_the_middle_is_never_silent(bench: Bench) -> None:
    bench.ask(1, v1_ingest(v1_event("calls", 7, 5, JAN_1)))
    place = bench.node.journal.position.offset
    bench.ask(1, v1_ingest(v1_event("calls", 7, 6, JAN_1 + 1)))
    bench.ask(1, v1_ingest(v1_event("calls", 7, 7, JAN_1 + 2)))
    bench.files["journal/0000000001.seg"][place + 100] ^= 1
    again = bench.restart()
    assert again.halted is not None and again.halted.reason is not None
    assert f"offset {place}" in again.halted.reason


def test_a_full_disk_refuses_writes_and_serves_again_when_there_is_room(bench: Bench) -> None:
    bench.full = True
    statuses = set()
    acknowledged = 0
    for n in range(60):
        status, _ = bench.ask(
            1,
            v1_ingest(
                *[v1_event("calls", 7, 1, JAN_1 + n * 1000 + k, properties={"region": "x" * 60}) for k in range(300)]
            ),
        )
        statuses.add(status)
        acknowledged += 300 if status == 0 else 0
        bench.now_ns += 1_000_000_000
    assert statuses == {wire.V1_STATUS_OK}, "the first segment has a successor already"
    bench = fill(bench)
    bench.full = False
    bench.now_ns += 1_000_000_000
    bench.turn()
    bench.disk()
    assert bench.ask(1, v1_ingest(v1_event("calls", 8, 1, JAN_1)))[0] == 0
    assert usage(bench, 8)[2] == 1


def fill(bench: Bench) -> Bench:
    """Ingest until the node says that the disk is full; every acknowledged event must be there."""
    count = usage(bench, 7)[2]
    for n in range(10_000):
        events = [
            v1_event("calls", 7, 1, JAN_1 + 10**9 + n * 1000 + k, properties={"region": "y" * 60}) for k in range(300)
        ]
        status, payload = bench.ask(1, v1_ingest(*events))
        if status != 0:
            assert status == wire.V1_STATUS_BACKPRESSURE, payload
            assert b"disk" in payload
            break
        count += 300
    else:
        pytest.fail("the disk never filled")
    assert usage(bench, 7)[2] == count
    return bench


TIMES = itertools.count(JAN_1)


def is_lone(bench: Bench, link: int, *accounts: int) -> bool:
    """Requests with an event each arrive together: is the write that they make a lone one?"""
    bench.feed(link, b"".join(v1_ingest(v1_event("calls", account, 1, next(TIMES))) for account in accounts))
    bench.turn()
    (write,) = bench.pending
    assert isinstance(write, Write)
    bench.disk()
    return write.lone


def test_a_write_is_lone_when_requests_have_come_by_one_connection_for_a_while(bench: Bench) -> None:
    bench.link(2)
    need = bench.config.lone_arrivals
    assert not is_lone(bench, 2, 7)
    assert [is_lone(bench, 1, 7) for _ in range(need + 2)] == [False] * need + [True] * 2
    assert [is_lone(bench, 1 + n % 2, 7) for n in range(4)] == [True, False, False, False], "two by turns"
    assert [is_lone(bench, 1, 7) for _ in range(need + 1)][-1]
    bench.feed(1, v1_ingest(*[v1_event("calls", 7, 1, next(TIMES)) for _ in range(60)] * 6))
    bench.turn()
    assert [effect.lone for effect in bench.pending if isinstance(effect, Write)] == [False], "that is not short"


@pytest.mark.parametrize("groups", [1, 2])
def test_a_write_of_several_requests_is_lone_only_where_there_is_one_group(groups: int) -> None:
    """Else whoever sent so many has others on their way, in the other groups' records."""
    bench = Bench(config=replace(SMALL, group_count=groups))
    bench.disk()
    bench.link(1)
    assert bench.ask(1, v1_metric("calls")) == (0, b"")
    assert [is_lone(bench, 1, 7) for _ in range(bench.config.lone_arrivals + 1)][-1]
    assert is_lone(bench, 1, 7, 7) is (groups == 1), "of one group"
    assert is_lone(bench, 1, 7, 8) is (groups == 1), "of two, if there are so many"
    assert is_lone(bench, 1, 7)


def test_a_record_with_several_entries_is_read_once(bench: Bench) -> None:
    """Found by the simulator (swarm, seed 5): a record with two entries of a group became two stripes."""
    for n in range(4):  # the first goes out alone, the others are ordered while it is being written
        bench.feed(1, v1_ingest(v1_event("calls", 7, n, JAN_1 + n), sync=False))
        bench.turn()
    bench.disk()
    bench.take(1)
    _, payload = bench.ask(1, v1(wire.V1_TYPE_EVENTS_LIST, struct.pack("<Qqq", 7, 0, 2**62)))
    assert struct.unpack_from("<I", payload)[0] == 4
    assert usage(bench, 7, JAN_1 + 1, JAN_1 + 3)[2] == 2


def test_an_alert_fires_once_is_listed_and_pushed(bench: Bench) -> None:
    bench.link(3)
    bench.ask(3, v1(wire.V1_TYPE_ALERT_ENABLE))
    for n in range(30):
        bench.ask(1, v1_ingest(v1_event("calls", 7, 10, JAN_1 + n)))
    push = bench.take(3)
    assert len(push) == 12 + 144 and push[0] == wire.V1_TYPE_ALERT_PUSH
    status, payload = bench.ask(1, v1(wire.V1_TYPE_ALERTS_LIST, struct.pack("<QQ", 7, 0)))
    assert status == 0 and struct.unpack_from("<I", payload)[0] == 1
    assert payload[8:144] == push[12:148]
    assert struct.unpack_from("<Q", payload, 8 + 112)[0] == 100


def test_events_are_listed_in_log_order_without_duplicates(bench: Bench) -> None:
    for n in range(5):
        batch = v1_ingest(v1_event("calls", 7, n, JAN_1 + n), v1_event("calls", 8, n, JAN_1 + n))
        bench.ask(1, batch)
        bench.ask(1, batch)
    status, payload = bench.ask(1, v1(wire.V1_TYPE_EVENTS_LIST, struct.pack("<Qqq", 7, JAN_1 + 1, JAN_1 + 3)))
    assert status == 0
    (count,) = struct.unpack_from("<I", payload)
    values = [wire.V1_EVENT_RECORD.unpack_from(payload, 8 + n * 104)[4] for n in range(count)]
    assert values == [1, 2, 3]
