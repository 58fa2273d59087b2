"""Leaders that are cut off from the others: what they sealed meanwhile never counts, what they answer is never stale, and
they know their place soon."""

from __future__ import annotations

import struct

import pytest

from tests.cluster_bench import ClusterBench
from tests.harness import JAN_1, v1, v1_event, v1_ingest, v1_metric, v1_usage
from tests.test_core_cluster import HOUR, Clients, answer_v1, operate, ready
from unimeter.config import MS_NS
from unimeter.core.raft.state import Role
from unimeter.kernels import protocol as wire

ACCOUNT = 0  # of group 0


@pytest.fixture
def bench() -> ClusterBench:
    made = ready(3, 2)
    assert Clients(made).raw(1, v1_metric("calls"), 2000)[0] == 0
    return made


def cut(bench: ClusterBench, number: int, inward: bool = True, outward: bool = True) -> None:
    for other in bench.machines:
        if other != number:
            bench.cuts |= {(number, other)} if outward else set()
            bench.cuts |= {(other, number)} if inward else set()


def leads(bench: ClusterBench, number: int, group: int = 0) -> bool:
    node = bench.machines[number].node
    return node is not None and node.groups[group].raft.role is Role.LEADER


def others_lead(bench: ClusterBench, number: int, group: int = 0) -> bool:
    return any(leads(bench, other, group) for other in bench.machines if other != number)


def lead_by(bench: ClusterBench, number: int, group: int = 0) -> None:
    """Leadership to that node."""
    if not leads(bench, number, group):
        operate(bench, number, op="transfer", group=group, to=number)
        bench.run(1000, lambda: leads(bench, number, group) and bench.ready() and bench.leader(group) == number)


def ask_leading(clients: Clients, number: int, data: bytes) -> bytes:
    """Have that node lead, and answer."""
    for _ in range(10):  # the coordinator may balance the leaders meanwhile
        lead_by(clients.bench, number)
        status, raw = clients.raw(number, data, 2000)
        if status == 0:
            return raw
        assert status in (wire.V1_STATUS_REDIRECT, wire.V1_STATUS_NOT_LEADER), raw
    raise AssertionError(f"node {number} does not lead for long enough to answer")


def events(clients: Clients, number: int, account: int = ACCOUNT, until: int = 2**62) -> list[tuple[int, int]]:
    """(time, value) of the account's events, as that node lists them, in the log's order."""
    body = wire.V1_EVENTS_LIST.pack(account, 0, until)
    raw = ask_leading(clients, number, v1(wire.V1_TYPE_EVENTS_LIST, body))
    records = [wire.V1_EVENT_RECORD.unpack_from(raw, 8 + at * 104) for at in range(struct.unpack_from("<I", raw)[0])]
    assert [row[0] for row in records] == sorted({row[0] for row in records})
    return [(row[1], row[4]) for row in records]


def usage(clients: Clients, number: int, start: int, end: int, account: int = ACCOUNT) -> tuple[int, int]:
    low, _, count, *_ = wire.V1_AGGREGATE.unpack(ask_leading(clients, number, v1_usage(account, "calls", start, end)))
    return low, count


def check_everywhere(bench: ClusterBench, wanted: list[tuple[int, int]], open_: list[tuple[int, int]]) -> None:
    """Every node, as the leader, lists these events, and adds up cut hours to match. Of the `open_` ones each may be there
    or not, but then it is so for all: what was superseded may be sent again by the node that has it."""
    bench.cuts.clear()
    bench.run(6000, bench.ready)
    bench.run(1000)
    clients = Clients(bench)
    found = events(clients, 1)
    assert len(dict.fromkeys(found)) == len(found), "nothing is there twice"
    wanted = wanted + [event for event in open_ if event in found]
    times = sorted(at for at, _ in wanted)
    for number in bench.machines:
        assert sorted(events(clients, number)) == sorted(wanted)
        for start, end in [
            (times[0], times[-1]),
            (times[1], times[-1] + 1),
            (times[len(times) // 2], times[-1] + HOUR),
        ]:
            inside = [value for at, value in wanted if start <= at < end]
            assert usage(clients, number, start, end) == (sum(inside), len(inside)), (
                number,
                start - JAN_1,
                end - JAN_1,
            )
    assert len({node.groups[0].state.meta().digest for node in bench.nodes()}) == 1


def fill(clients: Clients, first: int, count: int, value: int = 1, size: int = 3) -> list[tuple[int, int]]:
    """Acknowledged events, several entries of `size` each."""
    made = []
    for n in range(first, first + count):
        batch = [(JAN_1 + 1000 * n + k, value) for k in range(size)]
        assert clients.anywhere(v1_ingest(*[v1_event("calls", ACCOUNT, v, at) for at, v in batch]))[0] == 0
        made += batch
    return made


def sealed_in_vain(
    bench: ClusterBench, old: int, count: int, sync: bool = True, size: int = 4, first: int = 0
) -> list[tuple[int, int]]:
    """Let a cut off leader seal entries, in records of its own. Returns their events."""
    link = bench.client(old)
    sealed = []
    for n in range(first, first + count):
        batch = [(JAN_1 + 1_000_000 + 1000 * n + k, 1_000_000) for k in range(size)]
        bench.ask(old, link, v1_ingest(*[v1_event("calls", ACCOUNT, v, at) for at, v in batch], sync=sync), 3)
        sealed += batch
    return sealed


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
@pytest.mark.parametrize("died", ["", "apart", "rejoined", "both"])
def test_rows_of_entries_that_were_superseded_never_count(bench: ClusterBench, sync: bool, died: str) -> None:
    clients = Clients(bench)
    wanted = fill(clients, 0, 4)
    old = bench.leader(0)
    cut(bench, old)
    sealed = sealed_in_vain(bench, old, 5, sync)
    assert bench.machines[old].node.groups[0].raft.log.last_index > bench.machines[old].node.groups[0].raft.commit
    if died in ("apart", "both"):  # what its clients had sent is gone with it: only the journal has it
        bench.kill(old)
        bench.start(old)
        sealed = []
    bench.run(4000, lambda: others_lead(bench, old))
    clients = Clients(bench)
    new = next(number for number in bench.machines if number != old and leads(bench, number))
    for n in range(10, 16):  # the same row numbers are given out again, over fewer and more rows
        batch = [(JAN_1 + 1000 * n + k, 7) for k in range(1 + n % 5)]
        assert clients.raw(new, v1_ingest(*[v1_event("calls", ACCOUNT, v, at) for at, v in batch]), 2000)[0] == 0
        wanted += batch
    bench.cuts.clear()
    bench.run(3000, lambda: not leads(bench, old))
    if died in ("rejoined", "both"):
        bench.run(1000)
        for number in (old, new):
            bench.kill(number)
            bench.start(number)
            bench.run(5000, bench.ready)
    wanted += fill(Clients(bench), 100, 3)
    check_everywhere(bench, wanted, sealed)


def test_the_same_again_and_again_with_every_leader(bench: ClusterBench) -> None:
    wanted = fill(Clients(bench), 0, 2)
    sealed = []
    for turn in range(5):
        old = bench.leader(0)
        cut(bench, old)
        sealed += sealed_in_vain(bench, old, 1 + turn, turn % 2 == 0, 1 + 2 * turn, 100 * turn)
        bench.run(5000, lambda old=old: others_lead(bench, old))
        if turn in (1, 2):
            bench.kill(old)
            bench.start(old)
        bench.cuts.clear()
        bench.run(6000, lambda: bench.ready() and bench.leader(0) != 0)
        bench.run(500)
        wanted += fill(Clients(bench), 10 * (turn + 1), 2, size=1 + turn)
    check_everywhere(bench, wanted, sealed)


@pytest.mark.parametrize(("inward", "outward"), [(True, True), (True, False), (False, True)], ids=["both", "in", "out"])
def test_a_leader_cut_off_either_way_is_followed_by_one_that_serves(
    bench: ClusterBench, inward: bool, outward: bool
) -> None:
    fill(Clients(bench), 0, 1)
    old = bench.leader(0)
    cut(bench, old, inward, outward)
    bench.run(8000, lambda: others_lead(bench, old) and not leads(bench, old))
    clients = Clients(bench)
    new = next(number for number in bench.machines if number != old and leads(bench, number))
    status, raw = clients.raw(new, v1_ingest(v1_event("calls", ACCOUNT, 5, JAN_1 + 77)), 4000)
    assert (status, struct.unpack_from("<II", raw)) == (0, (1, 0))
    assert usage(clients, new, JAN_1, JAN_1 + HOUR)[1] == 4
    bench.cuts.clear()
    bench.run(8000, lambda: bench.ready() and len({n.groups[0].applied_index for n in bench.nodes()}) == 1)


@pytest.mark.parametrize(("inward", "outward"), [(True, True), (True, False), (False, True)], ids=["both", "in", "out"])
def test_a_read_of_a_cut_off_leader_is_never_stale(bench: ClusterBench, inward: bool, outward: bool) -> None:
    """Asked every few milliseconds while the others elect and count on; every count must be as great as those that had been
    answered anywhere when it was asked."""
    fill(Clients(bench), 0, 2)
    clients = Clients(bench)
    old = bench.leader(0)
    cut(bench, old, inward, outward)
    known = 6  # events that somebody was told of
    waiting: dict[int, int] = {}  # link of a read at the old leader -> what it must count at least
    answered = refused = 0
    written = 0
    for step in range(500):
        if step % 10 == 0:
            link = bench.client(old)
            waiting[link] = known
            bench._arrive(old, link, v1_usage(ACCOUNT, "calls", JAN_1, JAN_1 + HOUR))
        bench.run(5)
        new = next((n for n in bench.machines if n != old and leads(bench, n)), 0)
        if new and step % 5 == 0:
            written += 1
            event = v1_event("calls", ACCOUNT, 1, JAN_1 + 10_000_000 + written)
            status, raw = clients.raw(new, v1_ingest(event), 200)
            if status == 0 and struct.unpack_from("<I", raw)[0] == 1:
                known += 1
        for link in list(waiting):
            answer = bench.machines[old].answers.pop(link, b"")
            if answer:
                least = waiting.pop(link)
                status, raw = answer_v1(answer)
                refused += status != 0
                if status == 0:
                    answered += 1
                    assert wire.V1_AGGREGATE.unpack(raw)[2] >= least, "a stale read"
    assert known > 20 and refused > 5
    bench.cuts.clear()
    bench.run(6000, lambda: bench.ready() and bench.leader(0) != 0)
    assert Clients(bench).count(ACCOUNT) >= known


def test_a_read_that_waits_at_an_isolated_leader_fails_and_may_be_asked_again(bench: ClusterBench) -> None:
    fill(Clients(bench), 0, 1)
    old = bench.leader(0)
    cut(bench, old)
    link = bench.client(old)
    assert bench.ask(old, link, v1_usage(ACCOUNT, "calls", JAN_1, JAN_1 + HOUR), 100) == b""
    answer = bench.ask(old, link, b"", 2 * bench.config.election_max_ns // MS_NS)
    assert answer and answer_v1(answer)[0] in (wire.V1_STATUS_NOT_LEADER, wire.V1_STATUS_BACKPRESSURE), answer


def test_a_write_that_waits_at_an_isolated_leader_is_answered_once_it_is_decided(bench: ClusterBench) -> None:
    fill(Clients(bench), 0, 1)
    old = bench.leader(0)
    cut(bench, old)
    link = bench.client(old)
    assert bench.ask(old, link, v1_ingest(v1_event("calls", ACCOUNT, 1, JAN_1 + 500)), 4000) == b""
    bench.cuts.clear()
    bench.run(6000, lambda: link in bench.machines[old].answers)
    status, raw = answer_v1(bench.machines[old].answers[link])
    stored = struct.unpack_from("<I", raw)[0] if status == 0 else 0
    assert Clients(bench).count(ACCOUNT) == 3 + stored


def test_a_minority_of_one_never_grows_its_terms(bench: ClusterBench) -> None:
    number = bench.leader(0) % 3 + 1
    before = bench.machines[number].node.groups[0].raft.term
    cut(bench, number)
    bench.run(10_000)
    assert bench.machines[number].node.groups[0].raft.term == before
    leader = bench.leader(0)
    bench.cuts.clear()
    bench.run(3000)
    assert bench.leader(0) == leader, "its return disturbs nobody"
