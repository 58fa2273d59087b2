"""Claims about a lone usage query that is answered at a glance: it says what the general way says, or nothing."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.aside_bench import ALL_TIME, ROWS, ingest, started
from tests.harness import JAN_1, v1, v1_event, v1_ingest, v1_metric, v1_usage
from tests.test_driver import Still
from tests.test_twins import accounts, examples, instants, roomy
from tests.twin_strategies import METRICS, Play, Turn, plays, turns, v1_frame
from tests.twins import NATIVE, Twins
from unimeter.core import front_v1
from unimeter.core.inputs import LinkEnded
from unimeter.core.node import Node
from unimeter.io.driver import Driver
from unimeter.kernels import protocol as wire
from unimeter.kernels.api import Bytes, QuerySpec
from unimeter.kernels.layout import UM_AGG_UNIQUE

WHOLE_FRAME = 16 + wire.V1_USAGE_QUERY.size


def frame_of(account: int, code: bytes, start: int, end: int, request_id: int = 9, filters: int = 0) -> bytes:
    """`start` and `end` as the 64 bits that a client would send."""
    payload = struct.pack("<QQQ64sB7x", account, start % 2**64, end % 2**64, code, filters)
    return v1_frame(wire.V1_TYPE_USAGE_QUERY, request_id, payload)


def glances(twins: Twins, data: bytes) -> bytes | None:
    answer: bytes | None = twins.pair(
        lambda twin: twins.states[twin].glance(twins.catalogs[twin], twins.catalogs[twin], data)
    )
    return answer


def in_general(twins: Twins, account: int, metric: int, start: int, end: int) -> bytes | None:
    """The answer by way of a query's rows; None: the journal is needed."""
    query = twins.states[NATIVE].query(twins.catalogs[NATIVE], QuerySpec(account, metric, start, end, (), ()), 1)
    if query.needs_scan:
        return None
    unique = METRICS[metric].aggregation == UM_AGG_UNIQUE
    return front_v1.encode(wire.V1_STATUS_OK, 9, front_v1.aggregate(query.rows()[0], unique))


def played(play: Play) -> Twins:
    twins = Twins(play)
    for turn in play.turns:
        twins.turn(turn)
    return twins


def ask_all(twins: Twins, data: st.DataObject) -> None:
    for _ in range(12):
        account, number = (
            data.draw(accounts.filter(lambda who: isinstance(who, int))),
            data.draw(st.sampled_from(range(len(METRICS)))),
        )
        start, end = data.draw(instants), data.draw(instants)
        assert isinstance(account, int)
        found = glances(twins, frame_of(account, METRICS[number].code, start, end))
        if METRICS[number].alive and 0 <= start <= end:
            assert found == in_general(twins, account, number, start, end)
        else:
            assert found is None, "somebody else refuses it"


@examples(60)
@given(st.lists(turns, min_size=1, max_size=8), st.data())
def test_a_glance_says_what_a_query_says_or_nothing(script: list[Turn], data: st.DataObject) -> None:
    twins = played(roomy(script))
    ask_all(twins, data)


@examples(30)
@given(plays(), st.data())
def test_also_where_limits_were_met(play: Play, data: st.DataObject) -> None:
    twins = played(play)
    ask_all(twins, data)


@examples(80)
@given(st.lists(turns, min_size=1, max_size=2), st.data())
def test_whatever_is_not_exactly_one_such_frame_is_left_alone(script: list[Turn], data: st.DataObject) -> None:
    twins = played(roomy(script))
    frame = bytearray(frame_of(1, METRICS[0].code, 0, 2**63 - 1))
    assert glances(twins, bytes(frame)) is not None
    at = data.draw(st.one_of(st.sampled_from(range(16)), st.just(16 + 88)))
    before = frame[at]
    frame[at] = data.draw(st.sampled_from(range(256)).filter(lambda byte: byte != before))
    found = glances(twins, bytes(frame))
    if at in (6, 7):
        assert found is not None, "the partition is advice"
    elif at >= 12 and at < 16:
        assert found is not None and found[4:8] == frame[12:16], "the request's number is the answer's"
    else:
        assert found is None
    cut = data.draw(st.integers(0, WHOLE_FRAME - 1))
    whole = frame_of(1, METRICS[0].code, 0, 2**63 - 1)
    assert (
        glances(twins, whole[:cut]) is None
        and glances(twins, whole + b"\0") is None
        and glances(twins, whole * 2) is None
    )
    assert glances(twins, frame_of(1, b"no-such-metric", 0, 1)) is None
    assert glances(twins, frame_of(1, b"x" * 64, 0, 1)) is None


USAGE = v1_usage(7, "calls", *ALL_TIME)


def count_in(answer: bytes | None) -> int:
    assert answer is not None
    return int(wire.V1_AGGREGATE.unpack_from(answer, 12)[2])


def test_nothing_is_told_that_is_not_durable_and_nothing_is_left_out_that_was_acknowledged() -> None:
    for worked in (True, False):
        bench = started(worked=worked)
        bench.ask(1, ingest(3, 10_000))
        assert count_in(bench.node.glance(2, USAGE)) == 3
        bench.feed(1, ingest(ROWS))
        bench.turn()
        assert bench.node.groups[0].tentative and bench.node.glance(2, USAGE) is None, "many rows are applied already"
        bench.done()
        assert bench.node.glance(2, USAGE) is None
        bench.disk()
        assert bench.take(1) and count_in(bench.node.glance(2, USAGE)) == 3 + ROWS
        bench.feed(1, ingest(5, 20_000, sync=False))
        bench.turn()
        assert bench.take(1) and bench.pending, "answered when ordered, before it is durable"
        assert bench.node.glance(2, USAGE) is None, "a read shows it, once it can"
        bench.settle()
        assert count_in(bench.node.glance(2, USAGE)) == 3 + ROWS + 5


def test_rows_that_nobody_was_told_of_do_not_keep_a_read_waiting() -> None:
    bench = started()
    bench.feed(1, ingest(3))
    assert bench.pending and not bench.sent, "being written"
    assert count_in(bench.node.glance(2, USAGE)) == 0
    bench.disk()
    assert bench.take(1) and count_in(bench.node.glance(2, USAGE)) == 3


def test_it_is_the_general_answer_byte_by_byte() -> None:
    bench = started()
    bench.ask(1, ingest(ROWS - 1))
    bench.feed(2, USAGE)
    bench.settle()
    assert bench.node.glance(2, USAGE) == bench.take(2)
    assert bench.sent == {}, "a glance sends nothing by itself"


def test_who_is_leaving_or_unknown_or_asks_something_else_is_not_answered_so() -> None:
    bench = started()
    assert bench.node.glance(3, USAGE) is None, "no such link"
    assert bench.node.glance(2, v1(wire.V1_TYPE_CLUSTER_STATUS, b"", 1)) is None
    assert bench.node.glance(2, v1_usage(7, "unknown", *ALL_TIME)) is None
    assert bench.node.glance(2, v1_usage(7, "calls", 2, 1)) is None
    bench.feed(2, ingest(1, sync=True))
    bench.step(LinkEnded(2))
    assert bench.node.glance(2, USAGE) is None, "it asks nothing more"


def test_a_range_that_cuts_an_hour_needs_the_journal() -> None:
    bench = started()
    bench.ask(1, v1_ingest(v1_event("calls", 7, 1, JAN_1 + 5), v1_event("calls", 7, 1, JAN_1 + 50)))
    assert bench.node.glance(2, v1_usage(7, "calls", JAN_1 + 10, JAN_1 + 100)) is None
    assert count_in(bench.node.glance(2, v1_usage(7, "calls", JAN_1 + 5, JAN_1 + 100))) == 2


def test_a_deleted_metric_is_unknown_at_a_glance_too() -> None:
    bench = started()
    assert bench.ask(1, v1_metric("gone"))[0] == 0
    asked = v1_usage(7, "gone", *ALL_TIME)
    assert count_in(bench.node.glance(2, asked)) == 0
    assert bench.ask(1, v1(wire.V1_TYPE_METRIC_DELETE, b"gone".ljust(64, b"\0")))[0] == 0
    assert bench.node.glance(2, asked) is None


class Listening(Still):
    """A world that keeps what leaves, by the way that it left."""

    def __init__(self) -> None:
        super().__init__()
        self.answered: list[tuple[int, bytes]] = []
        self.sent: list[tuple[int, bytes]] = []

    def answer(self, link: int, data: Bytes) -> None:
        self.answered.append((link, bytes(data)))

    def send(self, link: int, data: Bytes) -> None:
        self.sent.append((link, bytes(data)))


def test_the_driver_glances_at_whole_requests_and_feeds_pieces_to_the_framer() -> None:
    bench = started()
    bench.ask(1, ingest(4))
    world = Listening()
    node: Any = bench.node
    assert isinstance(node, Node)
    driver = Driver(node, world, world, world, world, bench.kernels, replace(bench.config))
    driver.link_opened(5, "test")
    driver.bytes_arrived(5, USAGE)
    assert len(world.answered) == 1 and count_in(world.answered[0][1]) == 4 and world.sent == []
    for cut in (1, 15, 50, WHOLE_FRAME - 1):
        driver.bytes_arrived(5, USAGE[:cut])
        driver.bytes_arrived(5, USAGE[cut:])
    driver.bytes_arrived(5, USAGE + USAGE)
    assert len(world.answered) == 1, "only what comes whole and alone"
    assert {link for link, _ in world.answered + world.sent} == {5}
    assert b"".join(data for _, data in world.sent) == 6 * world.answered[0][1]
    driver.bytes_arrived(5, USAGE)
    assert len(world.answered) == 2
    driver.bytes_arrived(5, b"garbage, and then")
    driver.bytes_arrived(5, USAGE)
    assert len(world.answered) == 2, "after a broken frame nothing more is taken"
