"""Small parts of the core by themselves: the registry, the topology, calls, links that leave, subscriptions, the archive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core_journal import KERNELS
from tests.harness import SMALL
from unimeter.core import peer_wire, registry
from unimeter.core.archive import Archive
from unimeter.core.calls import CALL_NS, CALLS_MAX, Calls
from unimeter.core.effects import Close, Dial, Send
from unimeter.core.journal import Position
from unimeter.core.links import Links, Mark
from unimeter.core.outbox import Outbox
from unimeter.core.pace import Pace
from unimeter.core.peers import Peers
from unimeter.core.refusal import Refused
from unimeter.core.registry import NodeRecord, Registry
from unimeter.core.subscriptions import Subscriptions
from unimeter.core.topology import Topology

# ---- the registry and the topology ----


def nodes(count: int) -> Registry:
    return Registry(1, 3, {n: NodeRecord(n, f"c{n}", f"p{n}", 10 * n) for n in range(1, count + 1)})


def test_a_registry_comes_back_as_it_was_written_and_every_change_is_a_new_version() -> None:
    made = nodes(2).with_node(NodeRecord(9, "c9", "p9", 0, registry.DRAINING)).with_node(NodeRecord(3, "c3", "p3", 30))
    assert made.version == 3 and list(made.nodes) == [1, 2, 3, 9]
    assert registry.decode(made.encode()) == made
    assert made.without(9).version == 4 and list(made.without(9).nodes) == [1, 2, 3]


def test_a_replica_is_on_one_node_or_on_none() -> None:
    assert [nodes(3).node_of(replica) for replica in (10, 30, 31)] == [1, 3, 0]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 3)), max_size=40))
@settings(max_examples=100, deadline=None)
def test_the_leader_is_that_of_the_latest_term_anybody_told_of(told: list[tuple[int, int, int]]) -> None:
    topology = Topology(1, 3, nodes(3))
    best = [(0, 0)] * 3
    for group, term, node in told:
        epoch, before = topology.epoch, topology.leader(group)
        topology.learn_leader(group, term, node)
        if term >= best[group][0]:
            best[group] = (term, node)
        assert (topology.term(group), topology.leader(group)) == best[group]
        assert (topology.epoch > epoch) == (topology.leader(group) != before)
    assert topology.complete() == all(node for _, node in best)


def test_an_older_registry_is_not_believed() -> None:
    topology = Topology(1, 1, nodes(3))
    assert not topology.learn_registry(nodes(2)) and len(topology.registry.nodes) == 3
    assert topology.learn_registry(nodes(3).without(2)) and topology.address(2) == ""


def test_a_node_that_is_lost_leads_nothing_until_it_says_so_again() -> None:
    topology = Topology(1, 2, nodes(3))
    topology.learn_leader(0, 4, 2)
    topology.learn_leader(1, 4, 3)
    topology.lost(2)
    assert [topology.leader(0), topology.leader(1)] == [0, 3]
    assert topology.learn_leader(0, 4, 2) and topology.leader_address(0) == "c2"


# ---- calls ----


class Wire:
    """Two peers of node 1 without anything behind them: node 2 on link 2, node 3 on link 3."""

    def __init__(self, serve: Callable[..., None] | None = None) -> None:
        self.out = Outbox()
        self.peers = Peers(self.out, SMALL, KERNELS)
        self.topology = Topology(1, 3, nodes(3))
        for number in (2, 3):
            self.peers.opened(0, number, 0)
            self.peers.greeted(number, {"v": peer_wire.VERSION, "node": number, "replica": 10 * number, "cluster": 1})
            self.topology.learn_leader(number - 1, 1, number)
        self.topology.learn_leader(0, 1, 1)
        self.calls = Calls(self.peers, self.topology, serve or self._serve)
        self.answers: list[Any] = []
        self.said()

    def _serve(self, what: str, group: int, body: dict[str, Any], done: Callable[[Any], None]) -> None:
        if what == "refuse":
            raise Refused("bad_request", "no", "do not")
        done({"what": what, "group": group, **body})

    def ask(self, group: int, what: str = "x", now_ns: int = 0) -> None:
        self.calls.ask(now_ns, group, what, {"a": 1}, self.answers.append)

    def said(self) -> list[tuple[int, int, dict[str, Any]]]:
        """(link, type, body) of the frames that were sent."""
        found = []
        for effect in self.out.take():
            assert isinstance(effect, Send | Close | Dial)
            if isinstance(effect, Send):
                data = bytes(effect.data)
                for frame in (lambda table: [table[n] for n in range(len(table))])(KERNELS.frame_scan(data, 1 << 20)):
                    body = msgpack.unpackb(data[frame.payload_off : frame.payload_off + frame.payload_len])
                    found.append((effect.link, frame.type, body))
        return found

    def codes(self) -> list[str]:
        return [answer.code if isinstance(answer, Refused) else "ok" for answer in self.answers]


def test_what_this_node_leads_is_served_here_and_at_once() -> None:
    wires = Wire()
    wires.ask(0)
    wires.ask(0, "refuse")
    assert wires.answers[0] == {"what": "x", "group": 0, "a": 1} and wires.codes() == ["ok", "bad_request"]
    assert wires.said() == []


def test_a_call_goes_to_the_leader_and_its_answer_comes_back_once() -> None:
    wires = Wire()
    wires.ask(2)
    ((link, type_, body),) = wires.said()
    assert (link, type_) == (3, peer_wire.CALL) and (body["group"], body["what"], body["body"]) == (2, "x", {"a": 1})
    for _ in range(2):  # the second is nobody's
        wires.calls.returned({"call": body["call"], "answer": {"b": 2}})
    assert wires.answers == [{"b": 2}]


def test_a_refusal_comes_back_as_it_was_said() -> None:
    wires = Wire()
    wires.ask(1)
    wires.calls.returned({"call": wires.said()[0][2]["call"], "refused": ["disk_full", "it is full", "free some"]})
    (answer,) = wires.answers
    assert (answer.code, answer.message, answer.fix) == ("disk_full", "it is full", "free some")


def test_a_call_is_refused_when_its_link_breaks_and_others_are_not() -> None:
    wires = Wire()
    wires.ask(1)
    wires.ask(2)
    wires.calls.link_lost(2)
    assert wires.codes() == ["leader_changed"]
    wires.calls.returned({"call": wires.said()[1][2]["call"], "answer": {}})
    assert wires.codes() == ["leader_changed", "ok"]


def test_a_call_is_refused_when_its_time_has_come_and_not_before() -> None:
    wires = Wire()
    wires.ask(1, now_ns=5)
    assert wires.calls.turn(4 + CALL_NS) == 5 + CALL_NS and wires.answers == []
    wires.calls.turn(5 + CALL_NS)
    assert wires.codes() == ["leader_changed"]
    wires.calls.returned({"call": wires.said()[0][2]["call"], "answer": {}})
    assert len(wires.answers) == 1, "an answer that comes too late is nobody's"


def test_nobody_is_asked_for_a_group_without_a_leader_or_when_too_many_wait() -> None:
    wires = Wire()
    wires.topology.lost(2)
    wires.ask(1)
    assert wires.codes() == ["no_leader"]
    for _ in range(CALLS_MAX + 1):
        wires.ask(2)
    assert wires.codes() == ["no_leader", "overloaded"]


def test_who_calls_is_answered_on_its_link_unless_that_is_gone() -> None:
    held: list[Callable[[Any], None]] = []
    wires = Wire(lambda _what, _group, _body, done: held.append(done))
    wires.calls.called(wires.peers.of_link(2), {"call": 7, "group": 0, "what": "x", "body": {}})
    wires.calls.called(wires.peers.of_link(3), {"call": 7, "group": 0, "what": "x", "body": {}})
    wires.peers.closed(3)
    for done in held:
        done({"fine": True})
    assert wires.said() == [(2, peer_wire.RETURN, {"call": 7, "answer": {"fine": True}})]


# ---- links that leave ----


def closed(out: Outbox) -> list[int]:
    return [effect.link for effect in out.take() if isinstance(effect, Close)]


def test_a_link_that_leaves_is_closed_when_all_that_it_asked_has_its_answer() -> None:
    out = Outbox()
    links = Links(out, 10)
    links.opened(1)
    links.asked(1)
    links.hang_up(1, Mark((4, 2), 3))
    assert not links.listening(1)
    links.close_leaving(lambda mark: mark != Mark((4, 2), 3))
    assert closed(out) == [], "it is not past its mark"
    links.close_leaving(lambda _: True)
    assert closed(out) == [], "a control request has no answer"
    links.answer_asked(1, b"there")
    links.close_leaving(lambda _: True)
    effects = out.take()
    assert {type(effect) for effect in effects} == {Send, Close} and len(links) == 0
    links.send(1, b"late")
    assert out.take() == []


# ---- subscriptions ----


class Alarms:
    """A group's alerts, numbered from 1."""

    def __init__(self, count: int) -> None:
        self.count = count

    def alerts(self, since: int, account: None, limit: int) -> list[Any]:  # noqa: ARG002
        return [type("Alarm", (), {"number": n})() for n in range(since + 1, min(self.count, since + limit) + 1)]


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), max_size=30),
    st.dictionaries(st.integers(0, 2), st.integers(0, 12)),
    st.integers(1, 4),
)
@settings(max_examples=100, deadline=None)
def test_every_alert_of_a_wanted_group_is_pushed_once_and_in_order(
    grown: list[tuple[int, int]], since: dict[int, int], bound: int
) -> None:
    made = Subscriptions(bound)
    made.add(5, since, lambda group, alert: bytes((group, alert.number)))
    counts = [0, 0, 0]
    got: list[tuple[int, int]] = []
    for group, more in grown:
        counts[group] += more
        state: Any = Alarms(counts[group])
        for _ in range(100):
            pushed = list(made.due(group, state, counts[group] + 1))
            assert all(link == 5 and len(data) <= 2 * bound for link, data in pushed)
            got += [(data[at], data[at + 1]) for _, data in pushed for at in range(0, len(data), 2)]
            if not made.behind(group, counts[group] + 1):
                break
        else:
            raise AssertionError("it never catches up")
    for group in range(3):
        wanted = range(since[group] + 1, counts[group] + 1) if group in since else ()
        assert [number for g, number in got if g == group] == list(wanted)


def test_whoever_is_gone_is_told_nothing() -> None:
    made = Subscriptions(4)
    made.add(5, {0: 0}, lambda _group, _alert: b"x")
    made.remove(5)
    state: Any = Alarms(3)
    assert not len(made) and list(made.due(0, state, 4)) == [] and not made.behind(0, 4)


# ---- the archive ----


def place(number: int, length: int = 100) -> tuple[Position, int]:
    return Position(1, 4096 + 100 * number, number, number * 7), length


def test_stripes_join_records_that_stand_end_to_end_and_no_others() -> None:
    archive = Archive(1000)
    for number, rows in [(0, 5), (1, 5), (3, 5)]:
        archive.add(*place(number), 1 + 5 * number, 1 + 5 * number + rows, number, number + 1)
    found = list(archive.select(((0, 100),), 1, 1000))
    assert [(s.offset, s.length, s.first_row, s.end_row) for s in found] == [(4096, 200, 1, 11), (4396, 100, 16, 21)]


def test_no_stripe_goes_on_behind_a_record_with_a_superseded_entry() -> None:
    archive = Archive(1000)
    archive.add(*place(0), 1, 11, 0, 1)  # the record holds rows 11 to 20, too, of an entry that lost its place
    archive.add(*place(1), 11, 14, 0, 1, {(1, 4096): None})
    archive.add(*place(2), 14, 30, 0, 1)
    found = list(archive.select(((0, 100),), 1, 1000))
    assert [(s.offset, s.first_row, s.end_row) for s in found] == [(4096, 1, 11), (4196, 11, 30)]


def test_two_entries_of_one_record_are_one_stripe_also_when_it_is_dirty() -> None:
    archive = Archive(1000)
    archive.add(*place(0), 1, 5, 0, 1)
    archive.add(*place(0), 5, 9, 0, 1, {(1, 4096): None})
    archive.add(*place(1), 9, 12, 0, 1, {(1, 4096): None})
    assert [(s.length, s.first_row, s.end_row) for s in archive.select(((0, 9),), 1, 99)] == [(100, 1, 9), (100, 9, 12)]


@pytest.mark.parametrize("count", [0, 3])
def test_an_archive_comes_back_and_its_last_stripe_grows_no_more(count: int) -> None:
    archive = Archive(1000)
    for number in range(count):
        archive.add(*place(number), 1 + number, 2 + number, 0, 1)
    again = Archive(1000)
    again.load(archive.dump())
    again.add(*place(count), 1 + count, 2 + count, 0, 1)
    assert len(again) == (2 if count else 1)
    assert list(again.select(((5, 9),), 1, 99)) == [], "no row of that time"


def test_catching_up_under_load_gains_by_the_base_and_is_unlimited_when_nobody_writes() -> None:
    base, second = 6 << 20, 10**9
    pace = Pace(base)
    journal = led = now_ns = served = 0
    while (
        now_ns < 10 * second
    ):  # a journal that grows by 20 MiB/s, half of it led here; a follower takes all that it may
        now_ns += second // 100
        journal += (20 << 20) // 100
        led += (10 << 20) // 100
        while pace.wait_ns(now_ns, journal, led) == 0:
            pace.took(1 << 20)
            served += 1 << 20
    gained = (served - led) / 10
    assert 0.9 * base < gained < 1.2 * base
    assert pace.wait_ns(now_ns, journal, led) > 0
    assert pace.wait_ns(now_ns + second // 4, journal, led) == 0
    pace.took(64 << 20)
    assert pace.wait_ns(now_ns + second // 2, journal, led) == 0
