"""Random schedules: safety at every step, liveness when the weather is calm; and planted bugs that must be found."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.raft_chaos import play
from tests.raft_harness import MS, Cluster
from unimeter.core.raft import Kind, Message, Role, election, replication
from unimeter.core.raft import raft as raft_module
from unimeter.core.raft.conf import Conf
from unimeter.core.raft.membership import Refusal
from unimeter.core.raft.progress import Progress
from unimeter.core.raft.stable import Stable
from unimeter.core.raft.state import RaftState

SEEDS = 100
STEPS = 400
SEEDS_FOR_A_BUG = 1000  # reading without asking is noticed once in 250


@pytest.mark.parametrize("first", range(0, SEEDS, 20))
def test_any_schedule_is_safe_and_ends_well(first: int) -> None:
    for seed in range(first, first + 20):
        try:
            play(seed, STEPS)
        except AssertionError as failure:
            raise AssertionError(f"seed {seed}: {failure}") from failure


def test_schedules_do_something() -> None:
    clusters = [play(seed, STEPS) for seed in range(20)]
    assert sum(len(cluster.committed) for cluster in clusters) > 300
    assert sum(len(cluster.leaders) for cluster in clusters) > 20
    assert sum(len(cluster.reads_done) for cluster in clusters) > 60


def test_a_schedule_is_its_seed() -> None:
    assert play(7, STEPS).events == play(7, STEPS).events


# ---- canaries: each bug is planted, and found ----


def promises_before_they_are_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    def send(state: RaftState, message: Message, index: int = 0) -> None:
        if message.to == state.replica:
            state.stable.hold(state.stable.hard_token(state.term, state.vote), index, message)
        else:
            state.send(message)

    monkeypatch.setattr(RaftState, "send_durable", send)


def the_first_save_is_taken_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Acknowledgements leave with the first part of what they speak of."""
    real = Stable.hold

    def hold(stable: Stable, token: int, index: int, message: Message) -> None:
        real(stable, token or 1, min(index, stable.index + 1), message)

    monkeypatch.setattr(Stable, "hold", hold)


def votes_for_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(election, "_is_up_to_date", lambda *_: True)


def votes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    real = election.on_vote

    def on_vote(state: RaftState, now_ns: int, message: Message) -> None:
        if state.role is Role.FOLLOWER:
            state.vote = 0
        real(state, now_ns, message)

    monkeypatch.setitem(raft_module._HANDLERS, Kind.VOTE, on_vote)


def reads_without_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "_confirmed", lambda _: True)


def truncated_entries_count_as_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stable, "truncated", lambda *_: None)


def a_majority_of_one_half_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Conf, "quorum_index", lambda conf, match: sorted(match[one] for one in conf.voters)[len(conf.voters) // 2]
    )


def lost_messages_are_never_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "_poke", lambda *_: None)
    monkeypatch.setattr(Progress, "rejected", lambda *_: False)


@pytest.mark.parametrize(
    "bug",
    [
        promises_before_they_are_durable, the_first_save_is_taken_for_all, votes_for_anybody, votes_twice,
        reads_without_asking, truncated_entries_count_as_durable, a_majority_of_one_half_is_enough,
        lost_messages_are_never_missed,
    ],
    ids=lambda bug: bug.__name__,
)  # fmt: skip
def test_a_planted_bug_is_found(bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    for seed in range(SEEDS_FOR_A_BUG):
        try:
            play(seed, STEPS)
        except (AssertionError, IndexError, KeyError):
            return
    pytest.fail(f"{bug.__name__}: nothing noticed it")


# ---- liveness with time limits ----


def test_a_dead_leader_is_replaced_within_two_election_timeouts() -> None:
    for seed in range(20):
        cluster = Cluster(seed).found((1, 2, 3))
        cluster.run(300 * MS)
        old = cluster.leader()
        assert old is not None
        cluster.crash(old.replica)
        cluster.run(400 * MS)
        new = cluster.leader()
        assert new is not None and new.term > old.term


def test_a_broken_link_to_the_leader_makes_the_election_quick() -> None:
    for seed in range(20):
        cluster = Cluster(seed).found((1, 2, 3))
        cluster.elect(1)
        cluster.crash(1)
        for replica in (2, 3):
            cluster.act(replica, lambda raft: raft.peer_lost(0, 1))
        began_ns = cluster.now_ns
        cluster.run(40 * MS)
        assert cluster.leader() is not None and cluster.now_ns - began_ns < cluster.settings.election_min_ns


def test_refusals_have_names() -> None:
    cluster = Cluster().found((1, 2, 3))
    assert cluster.raft(1).propose_conf(Conf((1, 2, 3), (4,))) is Refusal.NOT_LEADER
