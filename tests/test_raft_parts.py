"""The parts of Raft by themselves: the log, configurations, what is durable, the flow to one follower."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.raft_harness import EVERYTHING, MS, SETTINGS, Cluster, epochs_of, log_of, make_raft, save_all
from unimeter.core.raft import Conf, Entry, HardState, Kind, Message, RaftLog, Refusal, Role
from unimeter.core.raft.log import BEYOND
from unimeter.core.raft.stable import COMMIT_RIDES_FROM_BYTES, COMMITS_UNSAVED_MAX

replica_ids = st.integers(1, 2**64 - 1)


# ---- the log ----


@given(st.lists(st.integers(1, 5), max_size=20).map(sorted), st.integers(0, 20), st.data())
@settings(max_examples=200, deadline=None)
def test_log_answers_like_a_list(terms: list[int], cached: int, data: st.DataObject) -> None:
    entries = log_of(terms)
    log = RaftLog(epochs_of(entries), len(entries), entries[max(0, len(entries) - cached) :])
    if entries and data.draw(st.booleans()):
        first = data.draw(st.integers(1, len(entries)))
        log.truncate(first)
        del entries[first - 1 :]
    for entry in log_of(
        [max([entry.term for entry in entries] or [1]) + data.draw(st.integers(0, 2))], len(entries) + 1
    ):
        log.append(entry)
        entries.append(entry)
    log.trim(data.draw(st.integers(0, len(entries))), data.draw(st.integers(0, 40)))
    log._check()
    assert log.last_index == len(entries) and log.last_term == entries[-1].term
    assert log.epochs == epochs_of(entries)
    assert log.term(0) == 0 and log.term(len(entries) + 1) == BEYOND
    assert [log.term(index) for index in range(1, len(entries) + 1)] == [entry.term for entry in entries]
    tail = entries[log.first_cached - 1 :]
    assert log.cached_bytes == sum(len(entry.data) for entry in tail)
    for index in range(1, len(entries) + 2):
        assert log.entry(index) == (entries[index - 1] if log.first_cached <= index <= len(entries) else None)
        found = log.slice(index, len(entries) + 1, EVERYTHING)
        assert found == (entries[index - 1 :] if index >= log.first_cached or index > len(entries) else None)
        for term in range(7):
            expected = max([entry.index for entry in entries[:index] if entry.term <= term] or [0])
            assert log.last_not_above(index, term) == expected


def test_a_slice_holds_at_least_one_entry_and_then_what_fits() -> None:
    entries = [Entry(index, 1, bytes(10)) for index in range(1, 6)]
    log = RaftLog([(1, 1)], 5, entries)
    assert log.slice(1, 6, 1) == entries[:1]
    assert log.slice(1, 6, 29) == entries[:2]
    assert log.slice(1, 6, 30) == entries[:3]
    assert log.slice(2, 4, 1000) == entries[1:3]


def test_trim_keeps_what_is_not_durable() -> None:
    log = RaftLog([(1, 1)], 5, [Entry(index, 1, bytes(10)) for index in range(1, 6)])
    log.trim(3, 0)
    assert log.first_cached == 4 and log.cached_bytes == 20
    log.trim(5, 15)
    assert log.first_cached == 5 and log.cached_bytes == 10


# ---- configurations ----


@given(st.lists(replica_ids, min_size=1, max_size=7, unique=True), st.lists(replica_ids, max_size=5, unique=True),
       st.lists(replica_ids, max_size=5, unique=True))  # fmt: skip
def test_conf_survives_encoding(voters: list[int], learners: list[int], outgoing: list[int]) -> None:
    conf = Conf(
        tuple(sorted(voters)), tuple(sorted(one for one in learners if one not in voters)), tuple(sorted(outgoing))
    )
    assert Conf.decode(conf.encode()) == conf
    for data in (conf.encode()[:-1], conf.encode() + b"\0", b"", conf.encode()[:8]):
        with pytest.raises(ValueError):  # noqa: PT011
            Conf.decode(data)


@pytest.mark.parametrize(
    "lists", [((2, 1),), ((1, 1),), ((0, 1),), ((1,), (1,)), ((), (1,)), ((), (), (1,)), ((2**64,),)]
)
def test_malformed_confs_are_refused(lists: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        Conf(*lists)


@given(st.sets(st.integers(1, 5), min_size=1), st.sets(st.integers(1, 5)), st.sets(st.integers(1, 5)))
def test_quorums_intersect(voters: set[int], yes: set[int], also: set[int]) -> None:
    for outgoing in ((), (1, 2, 3)):
        conf = Conf(tuple(sorted(voters)), (), outgoing)
        if conf.quorum(lambda one: one in yes) and conf.quorum(lambda one: one in also):
            assert yes & also


@given(st.sets(st.integers(1, 5), min_size=1), st.lists(st.integers(0, 9), min_size=5, max_size=5))
def test_quorum_index_is_the_greatest_index_that_a_quorum_has(voters: set[int], match: list[int]) -> None:
    for outgoing in ((), (1, 2, 3)):
        conf = Conf(tuple(sorted(voters)), (), outgoing)
        best = max(index for index in range(10) if conf.quorum(lambda one, index=index: match[one - 1] >= index))
        assert conf.quorum_index(dict(enumerate(match, start=1))) == best


def test_which_configuration_may_follow() -> None:
    cluster = Cluster().found((1, 2, 3))
    leader = cluster.elect(1)
    joint = Conf((1, 2), (3, 4), (1, 2, 3))
    assert leader.propose_conf(Conf((1, 2, 3), (4,))) is None
    assert leader.propose_conf(joint) is None
    assert leader.propose_conf(Conf((1, 2))) is Refusal.ILLEGAL, "voters never change at once"
    assert leader.propose_conf(Conf((1, 2), (), (1, 3))) is Refusal.ILLEGAL
    assert leader.next_conf() is None
    cluster.cuts = {(1, 2), (1, 3)}
    assert cluster.propose_conf(1, joint) is None
    assert leader.propose_conf(Conf((1, 2), (3, 4))) is Refusal.PENDING
    assert leader.next_conf() is None


def test_a_voter_becomes_a_learner() -> None:
    cluster = Cluster().found((1, 2, 3))
    cluster.elect(1)
    cluster.propose_conf(1, Conf((1, 2), (3,), (1, 2, 3)))
    cluster.run(100 * MS)
    assert cluster.raft(3).conf == Conf((1, 2), (3,)) and cluster.raft(3).commit == 3


# ---- durability ----


def test_acknowledgements_wait_for_the_disk_and_the_last_one_says_all() -> None:
    raft = make_raft()
    for index in range(3):
        entries = tuple(log_of([1], index + 1))
        raft.receive(0, Message(Kind.APPEND, 1, 2, 1, index, min(index, 1), entries=entries))
    assert raft.take_messages() == []
    save = raft.take_save()
    assert save is not None and [entry.index for entry in save.entries] == [1, 2, 3]
    assert save.hard == HardState(1, 0, 0)
    raft.receive(0, Message(Kind.APPEND, 1, 2, 1, 3, 1, 2, entries=tuple(log_of([1], 4))))
    raft.persisted(0, save.token)
    assert [reply.index for reply in raft.take_messages()] == [3]
    later = raft.take_save()
    assert later is not None and later.hard is None, "beside a small entry a commit index would cost something"
    raft.persisted(0, later.token)
    assert [reply.index for reply in raft.take_messages()] == [4]


def test_the_commit_index_rides_along_with_much_and_now_and_then() -> None:
    raft = make_raft()

    def appended(index: int, commit: int, data: bytes) -> HardState | None:
        entry = Entry(index, 1, data)
        raft.receive(0, Message(Kind.APPEND, 1, 2, 1, index - 1, min(index - 1, 1), commit, entries=(entry,)))
        save = raft.take_save()
        assert save is not None
        raft.persisted(0, save.token)
        return save.hard

    assert appended(1, 0, b"1") == HardState(1, 0, 0), "a new term is saved at once"
    assert appended(2, 1, b"2") is None
    assert appended(3, 2, bytes(COMMIT_RIDES_FROM_BYTES)) == HardState(1, 0, 2)
    last = 3 + COMMITS_UNSAVED_MAX
    saved = [appended(index, index - 1, b"small") for index in range(4, last + 1)]
    assert [hard for hard in saved if hard] == [HardState(1, 0, 2 + COMMITS_UNSAVED_MAX)], "no later than that"


def test_a_commit_index_alone_is_not_saved() -> None:
    raft = make_raft(entries=log_of([1]))
    raft.receive(0, Message(Kind.HEARTBEAT, 1, 2, 1, commit=1))
    assert raft.commit == 1 and raft.take_save() is None


def test_what_is_durable_is_acknowledged_at_once() -> None:
    raft = make_raft(entries=log_of([1, 1]))
    raft.receive(0, Message(Kind.APPEND, 1, 2, 1, 0, 0, entries=tuple(log_of([1, 1]))))
    assert [reply.index for reply in raft.take_messages()] == [2]


def test_a_promise_that_a_later_term_overtakes_is_not_made() -> None:
    raft = make_raft()
    raft.receive(0, Message(Kind.APPEND, 1, 2, 1, 0, 0, entries=tuple(log_of([1, 1]))))
    save = raft.take_save()
    assert save is not None
    raft.receive(0, Message(Kind.APPEND, 1, 3, 2, 0, 0, entries=tuple(log_of([2]))))
    raft.persisted(0, save.token)
    assert raft.take_messages() == [] and raft.stable_index == 0, "what is durable was overwritten meanwhile"
    save_all(raft)
    assert [(reply.to, reply.term, reply.index) for reply in raft.take_messages()] == [(3, 2, 1)]


def test_a_candidate_with_a_slow_disk_does_not_hurry_it() -> None:
    raft = make_raft(conf=Conf((1,)))
    raft.campaign(0)
    assert (raft.role, raft.term) == (Role.CANDIDATE, 1)
    for _ in range(5):
        raft.tick(raft.deadline_ns)
    assert (raft.role, raft.term) == (Role.CANDIDATE, 1)
    save_all(raft)
    assert raft.role is Role.LEADER and raft.needs_noop


# ---- the flow to a follower ----


def test_the_window_bounds_what_is_in_flight() -> None:
    few = replace(SETTINGS, append_bytes_max=1, inflight_messages_max=3)
    cluster = Cluster(settings=few).found((1, 2, 3))
    leader = cluster.elect(1)
    cluster.propose(1, *"abcdefgh")
    to_2 = [message for message in cluster.flight if message.to == 2]
    assert len(to_2) == 3
    cluster.settle()
    assert leader.commit == 9 and cluster.raft(2).log.last_index == 9
    small = replace(SETTINGS, append_bytes_max=10, inflight_bytes_max=20, inflight_messages_max=100)
    cluster = Cluster(settings=small).found((1, 2, 3))
    cluster.elect(1)
    cluster.propose(1, *["0123456789"] * 8)
    assert sum(message.to == 2 for message in cluster.flight) == 2
    cluster.settle()
    assert cluster.raft(2).log.last_index == 9


def test_a_follower_far_behind_is_fed_from_storage_one_fetch_at_a_time() -> None:
    cluster = Cluster(cached_bytes_max=0).found((1, 2, 3))
    leader = cluster.elect(1)
    cluster.crash(3)
    cluster.propose(1, *["0123456789"] * 50)
    cluster.settle()
    assert leader.log.first_cached == leader.log.last_index + 1
    cluster.restart(3)
    leader.peer_back(cluster.now_ns, 3)
    probe = leader.take_messages()[-1]
    assert (probe.kind, list(probe.entries)) == (Kind.APPEND, []), "a probe needs no entries"
    leader.receive(0, Message(Kind.APPEND_REPLY, 1, 3, leader.term, 1))
    assert leader.take_fetches() == [(3, 2, SETTINGS.append_bytes_max)]
    leader.receive(0, Message(Kind.APPEND_REPLY, 1, 3, leader.term, 1))
    assert leader.take_fetches() == []
    leader.supply(0, 3, [])
    assert leader.take_fetches() == [], "what cannot be read is not asked for at once again"
    cluster.run(100 * MS)
    assert cluster.raft(3).log.last_index == 51


def test_entries_that_come_too_late_from_storage_are_not_sent() -> None:
    cluster = Cluster(cached_bytes_max=0).found((1, 2, 3))
    leader = cluster.elect(1)
    cluster.crash(3)
    cluster.propose(1, "a", "b")
    cluster.settle()
    leader.peer_back(0, 3)
    leader.receive(0, Message(Kind.APPEND_REPLY, 1, 3, leader.term, 1))
    assert len(leader.take_fetches()) == 1
    leader.peer_lost(0, 3)
    leader.take_messages()
    leader.supply(0, 3, cluster.replicas[1].entries[1:])
    assert leader.take_messages() == []
    leader.receive(0, Message(Kind.APPEND, 1, 2, leader.term + 1, 3, 1))
    leader.supply(0, 3, cluster.replicas[1].entries[1:])
    assert [message.kind for message in leader.take_messages()] == [] and leader.role is Role.FOLLOWER


def test_a_fresh_replica_gets_everything_from_the_first_entry() -> None:
    cluster = Cluster(cached_bytes_max=0).found((1, 2))
    cluster.add(7, Conf(()))
    cluster.elect(1)
    cluster.propose(1, *["0123456789"] * 30)
    cluster.settle()
    cluster.propose_conf(1, Conf((1, 2), (7,)))
    cluster.run(100 * MS)
    cluster.propose_conf(1, Conf((2, 7), (), (1, 2)))
    cluster.run(500 * MS)
    assert cluster.replicas[7].entries == cluster.replicas[2].entries
    assert cluster.raft(7).conf == Conf((2, 7))
    leader = cluster.leader()
    assert leader is not None and leader.replica in (2, 7)


def test_a_leader_without_a_quorum_gives_up() -> None:
    cluster = Cluster().found((1, 2, 3))
    leader = cluster.elect(1)
    cluster.crash(2)
    cluster.crash(3)
    cluster.read(1, 5)
    cluster.run(SETTINGS.election_max_ns + 2 * SETTINGS.heartbeat_ns)
    assert leader.role is not Role.LEADER and cluster.reads_failed == [5]


def test_status_tells_of_every_follower() -> None:
    cluster = Cluster().found((1, 2), (3,))
    cluster.elect(1)
    cluster.crash(3)
    cluster.run(SETTINGS.election_max_ns + 100 * MS)
    status = cluster.raft(1).status(cluster.now_ns)
    assert [(peer.replica, peer.active) for peer in status.followers] == [(2, True), (3, False)]
    assert status.commit == 1 and status.leader == 1
