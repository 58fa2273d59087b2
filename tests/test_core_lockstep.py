"""Claims about clients that all wait for one disk: while a record is written, what arrives gets its place in several
entries; the next record takes about half of what waits, so that there is always something to write and somebody to answer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.aside_bench import ALL_TIME, AsideBench, answers, ingest, stored, total
from tests.cluster_bench import CLUSTER, ClusterBench
from tests.harness import JAN_1, SMALL, v1, v1_event, v1_ingest, v1_metric, v1_usage
from tests.test_core_cluster import Clients
from unimeter.config import KIB, NodeConfig
from unimeter.core.effects import Write
from unimeter.core.entry import ENTRY_BYTES, head_of
from unimeter.core.group import Group
from unimeter.core.inputs import FramesArrived, Input
from unimeter.core.lockstep import RECORD_PERCENT, Lockstep
from unimeter.kernels import protocol as wire

ROWS = 300  # of a request: worth an entry of its own
CONFIG = replace(
    SMALL,
    frame_bytes_max=500 * KIB,
    entry_bytes_max=512 * KIB,
    apply_busy_rows=ROWS,
    apply_aside_rows=ROWS,
    apply_replicated_rows=ROWS,
    apply_aside_rows_max=100 * ROWS,
    apply_behind_rows_max=100 * ROWS,
)
CLIENTS = range(1, 9)
SPARK = 9  # whose request keeps the disk busy


def started(config: NodeConfig = CONFIG) -> AsideBench:
    bench = AsideBench(config=config)
    bench.disk()
    assert bench.node.ready, bench.halted
    for link in (*CLIENTS, SPARK):
        bench.link(link)
    assert bench.ask(1, v1_metric("calls")) == (0, b"")
    return bench


@pytest.fixture
def bench() -> AsideBench:
    return started()


def group_of(bench: AsideBench) -> Group:
    group = bench.node.groups[0]
    assert isinstance(group, Group)
    return group


def busy(bench: AsideBench) -> None:
    """A record is on its way to the disk."""
    bench.feed(SPARK, ingest(1, 10**6))
    bench.no_more()
    assert [type(effect) for effect in bench.pending] == [Write]


def unsaved(group: Group) -> list[int]:
    """The rows of each entry that has its place in the log, and that the journal has not been given."""
    raft = group.raft
    rows = []
    for index in range(raft.saving_index + 1, raft.log.last_index + 1):
        entry = raft.log.entry(index)
        assert entry is not None
        rows.append(head_of(entry.data).row_count)
    return rows


def assert_counted(group: Group) -> None:
    """What the group says that waits is what waits."""
    raft = group.raft
    sizes = []
    for index in range(raft.saving_index + 1, raft.log.last_index + 1):
        entry = raft.log.entry(index)
        assert entry is not None
        sizes.append(len(entry.data))
    assert (group._unsaved, group.unsaved_bytes) == (len(sizes), sum(sizes))
    opened = ENTRY_BYTES + group.open.used_bytes if group.open.batch_count else 0
    assert group.waiting_bytes() == sum(sizes) + opened


def next_record(bench: AsideBench) -> list[int]:
    """The record in flight is durable, all that can be applied is, and the next one is on its way: the rows of each of its
    entries."""
    group = group_of(bench)
    before = group.raft.stable_index
    (write,) = bench.pending
    assert isinstance(write, Write)
    bench.pending.clear()
    bench._do(write)
    bench.turn()
    while bench.jobs and not group.tentative:
        bench.done()
    assert group.raft.stable_index > before
    raft = group.raft
    entries = [raft.log.entry(index) for index in range(raft.stable_index + 1, raft.saving_index + 1)]
    return [head_of(entry.data).row_count for entry in entries if entry is not None]


def requests(bench: AsideBench, links: Sequence[int], rows: int = ROWS, sync: bool = True, number: int = 1) -> None:
    for link in links:
        bench.feed(link, ingest(rows, 1000 * link + 100_000 * number, request_id=number, sync=sync))


# ---- halves ----


def test_of_what_arrives_while_the_disk_is_busy_the_next_record_takes_half_and_the_one_after_it_the_rest(
    bench: AsideBench,
) -> None:
    busy(bench)
    requests(bench, CLIENTS)
    waits = unsaved(group_of(bench))
    assert sum(waits) == 8 * ROWS and len(waits) >= 6, "what is much gets its place at once"
    first = next_record(bench)
    assert 0.4 * 8 * ROWS <= sum(first) <= 0.7 * 8 * ROWS
    assert unsaved(group_of(bench)) == waits[len(first) :]
    assert [link for link in CLIENTS if bench.take(link)] == [], "none of it is durable yet"
    second = next_record(bench)
    assert first + second == waits
    early = [link for link in CLIENTS if link in bench.sent]
    assert early == list(CLIENTS)[: sum(first) // ROWS], "the first half is answered while the second is written"
    for link in early:
        assert stored(bench.take(link)) == [(1, ROWS)]
    bench.settle()
    late = [link for link in CLIENTS if link in bench.sent]
    assert early + late == list(CLIENTS)
    for link in late:
        assert stored(bench.take(link)) == [(1, ROWS)]
    assert stored(bench.take(SPARK)) == [(1, 1)]
    assert total(bench) == 8 * ROWS + 1 == total(bench.crash())


def test_clients_that_send_anew_when_they_are_answered_keep_two_halves_going(bench: AsideBench) -> None:
    """Neither is there ever a record without rows, nor one that takes all."""
    busy(bench)
    requests(bench, CLIENTS)
    sent = dict.fromkeys(CLIENTS, 1)
    heard: dict[int, list[tuple[int, int]]] = {link: [] for link in CLIENTS}
    records = []
    for _ in range(12):
        records.append(sum(next_record(bench)))
        assert_counted(group_of(bench))
        for link in CLIENTS:
            told = stored(bench.take(link))
            heard[link] += told
            if told:
                sent[link] += 1
                requests(bench, [link], number=sent[link])
    assert all(2 * ROWS <= rows <= 6 * ROWS for rows in records[:-1])
    bench.settle()
    for link in CLIENTS:
        heard[link] += stored(bench.take(link))
        assert heard[link] == [(number, ROWS) for number in range(1, sent[link] + 1)]
    assert total(bench) == sum(sent.values()) * ROWS + 1


def test_a_lone_client_with_one_large_request_is_written_whole_at_once(bench: AsideBench) -> None:
    rows = 4000
    assert rows * 32 > 2 * CONFIG.lockstep_bytes_min
    for number in (1, 2, 3):
        bench.feed(1, ingest(rows, 10_000 * number, request_id=number))
        bench.turn()
        (write,) = bench.pending
        assert isinstance(write, Write) and len(write.data) > rows * 32
        assert unsaved(group_of(bench)) == [] and not group_of(bench).open.batch_count
        bench.settle()
        assert stored(bench.take(1)) == [(number, rows)]
    assert total(bench) == 3 * rows


def test_one_large_request_that_finds_the_disk_busy_is_in_the_next_record(bench: AsideBench) -> None:
    busy(bench)
    bench.feed(1, ingest(4000))
    bench.turn()
    assert next_record(bench) == [4000]
    assert unsaved(group_of(bench)) == [] and not group_of(bench).open.batch_count
    bench.settle()
    assert stored(bench.take(1)) == [(1, 4000)]


def test_little_is_not_halved(bench: AsideBench) -> None:
    links = list(CLIENTS)[:4]
    assert len(links) * (ROWS * 32 + 200) < CONFIG.lockstep_bytes_min
    busy(bench)
    requests(bench, links)
    assert len(unsaved(group_of(bench))) >= 3
    assert sum(next_record(bench)) == 4 * ROWS
    assert unsaved(group_of(bench)) == []


def test_few_rows_get_no_entry_of_their_own(bench: AsideBench) -> None:
    busy(bench)
    requests(bench, CLIENTS, rows=ROWS // 8 - 1)
    assert unsaved(group_of(bench)) == []
    assert next_record(bench) == [8 * (ROWS // 8 - 1)]


def test_async_requests_are_not_halved_and_wait_for_no_disk(bench: AsideBench) -> None:
    busy(bench)
    requests(bench, CLIENTS, sync=False)
    bench.turn()
    for link in CLIENTS:
        assert len(answers(bench.take(link))) == 1, "its place in the log is known"
    assert sum(unsaved(group_of(bench))) == 8 * ROWS
    assert sum(next_record(bench)) == 8 * ROWS
    assert unsaved(group_of(bench)) == []
    bench.settle()
    assert total(bench) == 8 * ROWS + 1


def test_an_async_request_behind_many_others_is_answered_at_the_end_of_the_turn(bench: AsideBench) -> None:
    """The record that begins in that turn takes but half of what has its place."""
    busy(bench)
    bench.link(10)  # so the end of the write is not the end of the turn
    bench._do(bench.pending.pop())
    requests(bench, list(CLIENTS)[:7])
    assert not bench.pending and sum(unsaved(group_of(bench))) == 7 * ROWS
    bench.feed(8, ingest(1, 999_999, sync=False))
    bench.turn()
    assert len(bench.pending) == 1 and unsaved(group_of(bench)), "half of it is on its way"
    assert len(answers(bench.take(8))) == 1


def test_a_change_of_the_metrics_among_halves_has_its_place(bench: AsideBench) -> None:
    busy(bench)
    requests(bench, [1, 2, 3, 4, 5, 6])
    bench.feed(7, v1(wire.V1_TYPE_METRIC_DELETE, b"calls".ljust(64, b"\0")))
    bench.feed(8, v1_usage(7, "calls", *ALL_TIME))
    bench.settle()
    for link in range(1, 7):
        assert len(answers(bench.take(link))) == 1
    assert [status for _, status, _ in answers(bench.take(7))] == [0]
    assert len(answers(bench.take(8))) == 1
    assert_counted(group_of(bench))


def test_what_is_open_goes_on_gathering_while_the_next_record_is_full_without_it(bench: AsideBench) -> None:
    busy(bench)
    requests(bench, list(CLIENTS)[:7])
    requests(bench, [8], rows=5)
    first = next_record(bench)
    assert unsaved(group_of(bench)) and group_of(bench).open.row_count == 5
    requests(bench, [8], rows=6, number=2)
    second = next_record(bench)
    assert second[-1] == 11 and sum(first + second) == 7 * ROWS + 11
    bench.settle()
    assert stored(bench.take(8)) == [(1, 5), (2, 6)]


# ---- bounds ----


def test_no_more_entries_wait_than_may() -> None:
    bench = started(replace(CONFIG, entries_waiting_max=4))
    group = group_of(bench)
    busy(bench)
    for number in (1, 2):
        for link in CLIENTS:
            requests(bench, [link], number=number)
            assert len(unsaved(group)) <= 4
            assert_counted(group)
    assert len(unsaved(group)) == 4 and group.open.row_count == 16 * ROWS - sum(unsaved(group))
    while bench.pending:
        next_record(bench)
        assert len(unsaved(group)) <= 5, "and the one that a record seals"
    bench.settle()
    for link in CLIENTS:
        assert stored(bench.take(link)) == [(1, ROWS), (2, ROWS)]
    assert total(bench) == 16 * ROWS + 1


def test_what_waits_in_entries_of_its_own_is_bounded_in_bytes() -> None:
    """As it is for async requests: half of what an open entry may hold."""
    bench = started(replace(CONFIG, frame_bytes_max=60 * KIB, entry_bytes_max=128 * KIB))
    group = group_of(bench)
    busy(bench)
    for number in (1, 2):
        for link in CLIENTS:
            requests(bench, [link], number=number)
            assert group.unsaved_bytes <= 64 * KIB
    assert len(unsaved(group)) < bench.config.entries_waiting_max and group.open.row_count > ROWS
    bench.settle()
    answered = sum(count for link in CLIENTS for _, count in stored(bench.take(link)))
    assert answered == 16 * ROWS and total(bench) == answered + 1


def test_a_record_in_halves_leaves_no_half_of_a_segment_empty(bench: AsideBench) -> None:
    journal = bench.node.journal
    assert journal.position.segment == 1
    number = 0
    while journal.position.segment == 1:
        number += 1
        offset = journal.position.offset
        busy(bench)
        requests(bench, CLIENTS, number=number)
        bench.settle()
        for link in (*CLIENTS, SPARK):
            assert len(stored(bench.take(link))) == 1
    assert offset + 3 * 8 * (ROWS * 32 + 200) > bench.config.segment_bytes


# ---- accounts ----


@pytest.mark.parametrize("entries", [3, 16])
def test_part_of_what_was_sealed_can_be_given_to_the_journal(entries: int) -> None:
    bench = started(replace(CONFIG, entries_waiting_max=entries))
    group = group_of(bench)
    busy(bench)
    assert_counted(group)
    requests(bench, CLIENTS)
    requests(bench, [1], rows=5, number=2)
    while bench.pending:
        assert_counted(group)
        next_record(bench)
    bench.settle()
    assert_counted(group)
    assert group.waiting_bytes() == group.unsaved_bytes == group.unanswered_bytes() == 0


@pytest.mark.parametrize("seed", range(6))
def test_whatever_order_things_come_in_each_request_is_answered_once_in_order_and_counted(seed: int) -> None:
    """Sync and async, large and small, while the disk and the other thread take their time."""
    dice = random.Random(seed)
    config = replace(CONFIG, entries_waiting_max=dice.choice([1, 2, 5, 16]), group_count=1)
    bench = started(config)
    group = group_of(bench)
    numbers = dict.fromkeys(CLIENTS, 0)
    heard: dict[int, list[int]] = {link: [] for link in CLIENTS}
    awaited: dict[int, list[int]] = {link: [] for link in CLIENTS}  # sync ones
    counted = 0
    for _ in range(250):
        chance = dice.random()
        if chance < 0.6:
            link, rows, sync = dice.choice(CLIENTS), dice.choice([1, 20, ROWS, ROWS, 2 * ROWS]), dice.random() < 0.85
            numbers[link] += 1
            counted += rows
            awaited[link] += [numbers[link]] if sync else []
            requests(bench, [link], rows, sync, numbers[link])
        elif chance < 0.75:
            bench.turn()
        elif chance < 0.9 and bench.pending:
            bench._do(bench.pending.pop(0))
        elif bench.jobs:
            bench.done()
        assert_counted(group)
        for link in CLIENTS:
            heard[link] += [number for number, status, _ in answers(bench.take(link)) if not status]
    bench.settle()
    for link in CLIENTS:
        heard[link] += [number for number, status, _ in answers(bench.take(link)) if not status]
        assert sorted(heard[link]) == list(range(1, numbers[link] + 1))
        assert [number for number in heard[link] if number in awaited[link]] == awaited[link]
    assert_counted(group)
    assert total(bench) == counted == total(bench.crash())


# ---- where others decide too ----


def eight_in_step(bench: ClusterBench, rounds: int) -> int:
    """Eight clients of the leader send 20 rows each at the same time, so many times: all are answered and counted. Returns the leader."""
    bench.start()
    bench.run(5000, bench.ready)
    clients = Clients(bench)
    assert clients.anywhere(v1_metric("calls"))[0] == 0
    leader = bench.leader(0)
    links = [bench.client(leader) for _ in range(8)]
    for round_ in range(rounds):
        for link in links:
            events = [v1_event("calls", link, 1, JAN_1 + 100 * round_ + n) for n in range(20)]
            bench._arrive(leader, link, v1_ingest(*events))
        bench.run(200)
        for link in links:
            assert stored(bench.machines[leader].answers.pop(link)) == [(1, 20)]
    assert [clients.count(link) for link in links] == [20 * rounds] * 8
    return leader


class Watched(ClusterBench):
    many = 0  # so often more arrived where much was open already

    def step(self, number: int, event: Input) -> None:
        machine = self.machines[number]
        node = machine.node
        crowd = node is not None and isinstance(event, FramesArrived) and event.link not in machine.other_end
        if not crowd or not (node._turn_pending or node._crowded):
            super().step(number, event)
            return
        before = [group.raft.log.last_index for group in node.groups]
        super().step(number, event)
        assert [group.raft.log.last_index for group in node.groups] == before
        self.many += sum(group.open.row_count >= self.config.apply_aside_rows for group in node.groups if group.leading)


def test_where_entries_are_replicated_nothing_gets_its_place_before_the_end_of_the_turn() -> None:
    config = replace(
        CLUSTER, apply_busy_rows=10, apply_aside_rows=10, apply_replicated_rows=10, apply_aside_rows_max=40
    )
    bench = Watched(3, 1, config)
    eight_in_step(bench, rounds=3)
    assert bench.many >= 6


def test_of_what_is_replicated_a_record_may_take_all() -> None:
    bench = ClusterBench(3, 1, replace(CLUSTER, entry_bytes_max=512 * KIB))
    bench.start()
    bench.run(5000, bench.ready)
    clients = Clients(bench)
    assert clients.anywhere(v1_metric("calls"))[0] == 0
    leader = bench.leader(0)
    node = bench.machines[leader].node
    assert node is not None
    for link in [bench.client(leader) for _ in range(6)]:
        bench._arrive(leader, link, v1_ingest(*[v1_event("calls", 7, 1, JAN_1 + n) for n in range(500)]))
        group = node.groups[0]
        assert Lockstep(bench.config).record_bytes(group, 2**30) == 2**30
    assert group.unanswered_bytes() > CONFIG.lockstep_bytes_min
    assert node.groups[0].waiting_bytes() > CONFIG.lockstep_bytes_min
    assert 50 <= RECORD_PERCENT < 100
