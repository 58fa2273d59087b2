"""The paper, sentence by sentence: each test opens with what Ongaro and Ousterhout wrote ("In Search of an
Understandable Consensus Algorithm", extended version), and shows that it holds here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.raft_harness import MS, SETTINGS, Cluster, log_of, make_raft, save_all
from unimeter.core.raft import Conf, Entry, HardState, Kind, Message, Raft, Role

FIGURE_7_LEADER = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
FIGURE_7_FOLLOWERS = {
    "a": [1, 1, 1, 4, 4, 5, 5, 6, 6],
    "b": [1, 1, 1, 4],
    "c": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    "d": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    "e": [1, 1, 1, 4, 4, 4, 4],
    "f": [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
}


def sent(raft: Raft, kind: Kind | None = None) -> list[Message]:
    save_all(raft)
    return [message for message in raft.take_messages() if kind is None or message.kind is kind]


def vote_request(sender: int, term: int, index: int = 0, log_term: int = 0) -> Message:
    return Message(Kind.VOTE, 1, sender, term, index, log_term)


def append(term: int, index: int, log_term: int, entries: list[Entry], commit: int = 0) -> Message:
    return Message(Kind.APPEND, 1, 2, term, index, log_term, commit, entries=tuple(entries))


# ---- 5.1 terms ----


@pytest.mark.parametrize("kind", [Kind.APPEND, Kind.HEARTBEAT, Kind.VOTE])
def test_a_larger_term_is_adopted(kind: Kind) -> None:
    """ "If one server's current term is smaller than the other's, then it updates its current term to the larger
    value." (5.1)"""
    raft = make_raft()
    raft.receive(0, Message(kind, 1, 2, 7))
    assert raft.term == 7


@pytest.mark.parametrize("kind", [Kind.APPEND_REPLY, Kind.HEARTBEAT_REPLY, Kind.VOTE_REPLY])
def test_a_leader_of_an_old_term_reverts_to_follower(kind: Kind) -> None:
    """ "If a candidate or leader discovers that its term is out of date, it immediately reverts to follower state."
    (5.1)"""
    leader = Cluster().found((1, 2, 3)).elect(1)
    leader.receive(0, Message(kind, 1, 2, leader.term + 1, reject=True))
    assert leader.role is Role.FOLLOWER and leader.leader == 0


@pytest.mark.parametrize("kind", [Kind.APPEND, Kind.HEARTBEAT, Kind.VOTE, Kind.PREVOTE])
def test_a_request_of_an_old_term_is_rejected(kind: Kind) -> None:
    """ "If a server receives a request with a stale term number, it rejects the request." (5.1)"""
    raft = make_raft(entries=log_of([1]), hard=HardState(3, 0, 0))
    raft.receive(0, Message(kind, 1, 2, 2, 1, 1, entries=tuple(log_of([2], 2)) if kind is Kind.APPEND else ()))
    assert raft.log.last_index == 1 and raft.term == 3 and raft.leader == 0
    assert [(reply.reject, reply.term) for reply in sent(raft)] == [(True, 3)]


# ---- 5.2 leader election ----


def test_servers_begin_as_followers() -> None:
    """ "When servers start up, they begin as followers." (5.2)"""
    assert make_raft().role is Role.FOLLOWER


def test_a_follower_that_hears_nothing_begins_an_election() -> None:
    """ "If a follower receives no communication over a period of time called the election timeout, then it assumes
    there is no viable leader and begins an election to choose a new leader." (5.2)"""
    raft = make_raft()
    raft.tick(raft.deadline_ns - 1)
    assert raft.role is Role.FOLLOWER
    raft.tick(raft.deadline_ns)
    assert raft.role is Role.PRE_CANDIDATE
    assert [message.to for message in sent(raft, Kind.PREVOTE)] == [2, 3]


def test_a_candidate_votes_for_itself_in_a_new_term() -> None:
    """ "To begin an election, a follower increments its current term and transitions to candidate state. It then votes
    for itself and issues RequestVote RPCs in parallel to each of the other servers in the cluster." (5.2)"""
    raft = make_raft(hard=HardState(4, 2, 0))
    raft.campaign(0)
    raft.receive(0, Message(Kind.PREVOTE_REPLY, 1, 2, 5))
    assert (raft.role, raft.term, raft.vote) == (Role.CANDIDATE, 5, 1)
    assert [(message.to, message.term) for message in sent(raft, Kind.VOTE)] == [(2, 5), (3, 5)]


@pytest.mark.parametrize(
    ("voters", "votes", "wins"),
    [((1,), (), True), ((1, 2), (), False), ((1, 2), (2,), True), ((1, 2, 3), (3,), True), ((1, 2, 3, 4), (2,), False),
     ((1, 2, 3, 4, 5), (2,), False), ((1, 2, 3, 4, 5), (2, 5), True)],
)  # fmt: skip
def test_a_candidate_wins_with_a_majority(voters: tuple[int, ...], votes: tuple[int, ...], wins: bool) -> None:
    """ "A candidate wins an election if it receives votes from a majority of the servers in the full cluster for the
    same term." (5.2)"""
    raft = make_raft(conf=Conf(voters))
    raft.campaign(0)
    for peer in voters[1:]:
        raft.receive(0, Message(Kind.PREVOTE_REPLY, 1, peer, 1))
    save_all(raft)
    for peer in votes:
        raft.receive(0, Message(Kind.VOTE_REPLY, 1, peer, 1))
        raft.receive(0, Message(Kind.VOTE_REPLY, 1, peer, 1))  # said twice, counted once
    assert (raft.role is Role.LEADER) == wins


def test_one_vote_in_a_term() -> None:
    """ "Each server will vote for at most one candidate in a given term, on a first-come-first-served basis." (5.2)"""
    raft = make_raft()
    raft.receive(0, vote_request(2, 1))
    raft.receive(0, vote_request(3, 1))
    raft.receive(0, vote_request(2, 1))
    assert [(reply.to, reply.reject) for reply in sorted(sent(raft), key=lambda reply: reply.to)] == [
        (2, False), (2, False), (3, True),
    ]  # fmt: skip


def test_a_vote_survives_a_crash() -> None:
    """ "Persistent state on all servers (updated on stable storage before responding to RPCs)" (figure 2)"""
    raft = make_raft()
    raft.receive(0, vote_request(2, 1))
    assert raft.take_messages() == [], "not said before it is durable"
    save = raft.take_save()
    assert save is not None and save.hard == HardState(1, 2, 0)
    raft.persisted(0, save.token)
    assert [reply.reject for reply in raft.take_messages()] == [False]
    again = make_raft(hard=save.hard)
    again.receive(0, vote_request(3, 1))
    assert [reply.reject for reply in sent(again)] == [True]


def test_a_candidate_recognizes_the_leader_of_its_term() -> None:
    """ "If the leader's term (included in its RPC) is at least as large as the candidate's current term, then the
    candidate recognizes the leader as legitimate and returns to follower state." (5.2)"""
    raft = make_raft()
    raft.campaign(0)
    raft.receive(0, Message(Kind.PREVOTE_REPLY, 1, 2, 1))
    assert raft.role is Role.CANDIDATE
    raft.receive(0, Message(Kind.HEARTBEAT, 1, 3, 1))
    assert raft.role is Role.FOLLOWER and raft.leader == 3


def test_election_timeouts_differ() -> None:
    """ "Raft uses randomized election timeouts to ensure that split votes are rare and that they are resolved quickly."
    (5.2)"""
    drawn = set()
    raft = make_raft()
    for _ in range(50):
        raft.rearm(0)
        assert SETTINGS.election_min_ns <= raft.deadline_ns <= SETTINGS.election_max_ns
        drawn.add(raft.deadline_ns)
    assert len(drawn) > 40


def test_split_votes_end() -> None:
    """ "Each candidate will time out and start a new election" (5.2): and one of them is first."""
    cluster = Cluster().found((1, 2, 3, 4))
    for replica in (1, 2, 3, 4):
        cluster.act(replica, lambda raft: raft.campaign(0))
    cluster.run(2_000 * MS)
    assert cluster.leader() is not None


# ---- 5.3 log replication ----


def test_a_leader_only_appends() -> None:
    """ "Leader Append-Only: a leader never overwrites or deletes entries in its log; it only appends new entries."
    (figure 3)"""
    leader = Cluster().found((1, 2, 3)).elect(1)
    with pytest.raises(AssertionError):
        leader.truncate(1)
    with pytest.raises(AssertionError):
        leader.append(0, [Entry(1, leader.term, b"another first")])


@pytest.mark.parametrize(("index", "log_term", "fits"), [(0, 0, True), (1, 1, True), (2, 2, True), (2, 1, False),
                                                         (3, 2, False), (9, 2, False)])  # fmt: skip
def test_consistency_check(index: int, log_term: int, fits: bool) -> None:
    """ "If the follower does not find an entry in its log with the same index and term, then it refuses the new
    entries." (5.3)"""
    raft = make_raft(entries=log_of([1, 2]))
    raft.receive(0, append(2, index, log_term, []))
    assert [reply.reject for reply in sent(raft)] == [not fits]


@pytest.mark.parametrize(
    ("index", "log_term", "new", "result"),
    [(2, 2, [3], [1, 2, 3]), (1, 1, [3, 4], [1, 3, 4]), (0, 0, [3, 4], [3, 4]), (0, 0, [1], [1, 2]),
     (0, 0, [1, 2], [1, 2]), (1, 1, [2, 4], [1, 2, 4])],
)  # fmt: skip
def test_conflicting_entries_are_overwritten(index: int, log_term: int, new: list[int], result: list[int]) -> None:
    """ "If an existing entry conflicts with a new one (same index but different terms), delete the existing entry and
    all that follow it. Append any new entries not already in the log." (figure 2)"""
    raft = make_raft(entries=log_of([1, 2]))
    raft.receive(0, append(4, index, log_term, log_of(new, index + 1)))
    assert [raft.log.term(at) for at in range(1, raft.log.last_index + 1)] == result
    save = raft.take_save()
    assert save is not None
    disk = log_of([1, 2])
    if save.entries:
        disk[save.entries[0].index - 1 :] = save.entries
    assert disk == log_of(result)


@pytest.mark.parametrize(("commit", "index", "new", "result"), [(1, 0, [], 0), (1, 1, [], 1), (9, 1, [], 1),
                                                                (9, 1, [2, 2], 3), (2, 1, [2, 2], 2)])  # fmt: skip
def test_a_follower_commits_what_it_is_told_and_has(commit: int, index: int, new: list[int], result: int) -> None:
    """ "If leaderCommit > commitIndex, set commitIndex = min(leaderCommit, index of last new entry)" (figure 2)"""
    raft = make_raft(entries=log_of([1, 2]))
    raft.receive(0, append(2, index, 1 if index else 0, log_of(new, index + 1), commit))
    assert raft.commit == result


def test_requests_are_idempotent() -> None:
    """ "Raft RPCs are idempotent, so this causes no harm." (5.5)"""
    raft = make_raft()
    late, early = append(1, 1, 1, log_of([1, 1], 2), 3), append(1, 0, 0, log_of([1]), 1)
    for message in (early, late, late, early):
        raft.receive(0, message)
    assert raft.log.last_index == raft.commit == 3
    assert max(reply.index for reply in sent(raft)) == 3


@pytest.mark.parametrize("name", sorted(FIGURE_7_FOLLOWERS))
def test_figure_7(name: str) -> None:
    """ "the leader must find the latest log entry where the two logs agree, delete any entries in the follower's log
    after that point, and send the follower all of the leader's entries after that point." (5.3)"""
    cluster = Cluster()
    conf = Conf((1, 2, 3))
    cluster.add(1, conf, log_of(FIGURE_7_LEADER), HardState(7, 0, 0))
    cluster.add(2, conf, log_of(FIGURE_7_FOLLOWERS[name]))
    cluster.add(3, conf)
    cluster.elect(1)
    cluster.run(100 * MS)
    assert cluster.replicas[2].entries == cluster.replicas[1].entries
    assert cluster.raft(2).commit == len(FIGURE_7_LEADER) + 1


# ---- 5.4 safety ----


@pytest.mark.parametrize(
    ("mine", "index", "log_term", "grant"),
    [([1], 1, 1, True), ([1], 2, 1, True), ([1, 1], 1, 1, False), ([1, 1], 1, 2, True), ([1, 2], 9, 1, False),
     ([], 0, 0, True)],
)  # fmt: skip
def test_election_restriction(mine: list[int], index: int, log_term: int, grant: bool) -> None:
    """ "If the logs have last entries with different terms, then the log with the later term is more up-to-date. If the
    logs end with the same term, then whichever log is longer is more up-to-date." (5.4.1)"""
    raft = make_raft(entries=log_of(mine))
    raft.receive(0, vote_request(2, 5, index, log_term))
    assert [reply.reject for reply in sent(raft)] == [not grant]


def test_figure_8() -> None:
    """ "Raft never commits log entries from previous terms by counting replicas. Only log entries from the leader's
    current term are committed by counting replicas" (5.4.2)"""
    cluster = Cluster(settings=replace(SETTINGS, append_bytes_max=1))
    conf = Conf((1, 2, 3, 4, 5))
    for replica, terms in ((1, [1, 2]), (2, [1, 2]), (3, [1]), (4, [1]), (5, [1, 3])):
        cluster.add(replica, conf, log_of(terms), HardState(3, 0, 0))
    cluster.act(1, lambda raft: raft.campaign(0))
    held = []
    while cluster.flight:
        message = cluster.flight.pop(0)
        of_term_4 = any(entry.term == 4 for entry in message.entries)
        if of_term_4 and cluster.raft(message.to).log.term(message.index) == message.log_term:
            held.append(message)  # it would fit: entries of the leader's own term come later; those of term 2 do not
        else:
            cluster.deliver(message)
    leader = cluster.raft(1)
    holders = [name for name, one in cluster.replicas.items() if one.raft.log.term(2) == 2]
    assert leader.role is Role.LEADER and len(holders) >= 3
    assert leader.commit == 0, "a majority has the entry of term 2, and it is not committed"
    cluster.flight = held
    cluster.settle()
    assert leader.commit == 3


def test_the_leader_counts_itself_like_others() -> None:
    """ "the leader... may... be writing to its disk in parallel with replicating" (the thesis, 10.2.1): a majority
    may be without it, and it is one of the majority only when its own disk is done."""
    cluster = Cluster().found((1, 2, 3))
    cluster.elect(1)
    cluster.slow = {1, 2, 3}
    cluster.propose(1, "x")
    cluster.settle()
    cluster.persist(2)
    cluster.settle()
    assert cluster.raft(1).commit == 1
    cluster.persist(3)
    cluster.settle()
    assert cluster.raft(1).commit == 2 and cluster.raft(1).stable_index == 1


# ---- 6 membership ----


def test_a_configuration_is_in_force_when_it_is_appended_and_not_when_it_is_overwritten() -> None:
    """ "a server always uses the latest configuration in its log, regardless of whether the entry is committed" (6)"""
    raft = make_raft()
    joint = Conf((1, 2, 4), (), (1, 2, 3))
    raft.receive(0, append(1, 0, 0, [Entry(1, 1, b"conf", joint)]))
    assert raft.conf == joint
    raft.receive(0, append(2, 0, 0, [Entry(1, 2, b"x")]))
    assert raft.conf == Conf((1, 2, 3))


@pytest.mark.parametrize(("yes", "enough"), [((1, 2, 3), False), ((1, 4, 5), False), ((1, 2, 4), True),
                                             ((2, 3, 4, 5), True), ((2, 4), False)])  # fmt: skip
def test_joint_consensus_needs_both_majorities(yes: tuple[int, ...], enough: bool) -> None:
    """ "Agreement (for elections and entry commitment) requires separate majorities from both the old and new
    configurations." (6)"""
    conf = Conf((1, 4, 5), (), (1, 2, 3))
    assert conf.quorum(lambda replica: replica in yes) == enough
    assert (conf.quorum_index({replica: int(replica in yes) for replica in range(1, 6)}) == 1) == enough


def test_a_leader_that_is_left_out_steps_down_when_that_is_committed() -> None:
    """ "In this case, the leader steps down (returns to follower state) once it has committed the Cnew log entry." (6)"""
    cluster = Cluster().found((1, 2, 3))
    cluster.elect(1)
    assert cluster.propose_conf(1, Conf((2, 3), (), (1, 2, 3))) is None
    cluster.settle()
    assert cluster.raft(1).role is Role.FOLLOWER and cluster.raft(1).commit == 3
    assert cluster.leader() is not None and cluster.leader() is not cluster.raft(1)


def test_votes_are_refused_while_a_leader_is_heard() -> None:
    """ "if a server receives a RequestVote RPC within the minimum election timeout of hearing from a current leader, it
    does not update its term or grant its vote." (6)"""
    raft = make_raft()
    raft.receive(0, Message(Kind.HEARTBEAT, 1, 2, 1))
    raft.receive(SETTINGS.election_min_ns - 1, vote_request(3, 2))
    assert raft.term == 1 and sent(raft, Kind.VOTE_REPLY) == []
    raft.receive(SETTINGS.election_min_ns, vote_request(3, 2))
    assert raft.term == 2 and [reply.reject for reply in sent(raft, Kind.VOTE_REPLY)] == [False]


def test_new_servers_without_a_vote_count_for_nothing() -> None:
    """ "the new servers join the cluster as non-voting members (the leader replicates log entries to them, but they are
    not considered for majorities)" (6)"""
    cluster = Cluster().found((1, 2), (3,))
    cluster.elect(1)
    cluster.cuts = {(1, 2), (2, 1)}
    cluster.propose(1, "x")
    cluster.settle()
    assert cluster.raft(3).log.last_index == 2 and cluster.raft(1).commit == 1
    cluster.act(3, lambda raft: raft.campaign(0))
    assert cluster.raft(3).role is Role.FOLLOWER


# ---- 8 client interaction ----


def test_no_reads_before_an_entry_of_the_own_term_is_committed() -> None:
    """ "Raft handles this by having each leader commit a blank no-op entry into the log at the start of its term." (8)"""
    cluster = Cluster().found((1, 2, 3))
    cluster.slow = {2, 3}
    cluster.act(1, lambda raft: raft.campaign(0))
    for _ in range(4):
        cluster.settle()
        if cluster.raft(1).role is not Role.LEADER:
            cluster.persist(2)
    cluster.read(1, 7)
    cluster.settle()
    assert cluster.raft(1).role is Role.LEADER and cluster.raft(1).commit == 0 and cluster.reads_done == {}
    cluster.persist(2)
    cluster.settle()
    assert cluster.reads_done == {7: 1}


def test_reads_need_a_majority() -> None:
    """ "Raft handles this by having the leader exchange heartbeat messages with a majority of the cluster before
    responding to read-only requests." (8)"""
    cluster = Cluster().found((1, 2, 3))
    cluster.elect(1)
    cluster.cuts = {(1, 2), (1, 3)}
    cluster.read(1, 7)
    cluster.settle()
    assert cluster.reads_done == {}
    cluster.cuts = {(1, 2)}
    cluster.run(SETTINGS.heartbeat_ns)
    assert cluster.reads_done == {7: 1}
