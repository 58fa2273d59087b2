"""What recovery makes of a group's entries as they stand in the journal, in whatever order leaders and crashes left them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core_journal import KERNELS, TINY, entry, hard
from tests.harness import LIMITS
from unimeter.core.entry import head_of
from unimeter.core.group import Group
from unimeter.core.journal import Position
from unimeter.core.raft import Conf, HardState
from unimeter.core.replay import Replay
from unimeter.kernels import layout

FOUNDED = Conf((1, 2, 3))


def replay(alone: bool = False) -> Replay:
    return Replay(Group(0, KERNELS, TINY, LIMITS), FOUNDED, alone)


def take(made: Replay, *records: tuple[bytes, ...], seq: int = 0) -> Replay:
    """Each record's entries, at a place of its own."""
    for number, entries in enumerate(records, seq):
        for one in entries:
            made.take(one, head_of(one), Position(1, 4096 + 4096 * number, number, 0), 4096)
    return made


def log_of(made: Replay) -> list[tuple[int, int]]:
    """(index, term) of all that the log has, as far as it is known entry by entry."""
    log, _, _ = made.raft_parts()
    return [(index, log.term(index)) for index in range(1, log.last_index + 1)]


def test_entries_wait_in_memory_until_a_hard_state_says_that_they_are_committed() -> None:
    made = take(replay(), (entry(0, 1, 1), entry(0, 2, 1), hard(0, 1, 2, 0)))
    assert made.group.applied_index == 0 and made.last_index == 2
    take(made, (entry(0, 3, 1), hard(0, 1, 2, 2)), seq=1)
    assert made.group.applied_index == 2
    log, state, confs = made.raft_parts()
    assert (log.last_index, log.first_cached, state) == (3, 3, HardState(1, 2, 2)) and confs == [(0, FOUNDED)]


def test_a_superseding_entry_takes_the_place_of_all_from_its_index_on() -> None:
    made = take(replay(), (entry(0, 1, 1), entry(0, 2, 1), entry(0, 3, 1)), (entry(0, 2, 4), hard(0, 4, 0, 1)))
    assert log_of(made) == [(1, 1), (2, 4)]
    assert made.raft_parts()[0].epochs == [(1, 1), (2, 4)]


def test_the_vote_of_an_earlier_term_is_nobodys_in_the_log_s_last_term() -> None:
    made = take(replay(), (entry(0, 1, 1), hard(0, 1, 3, 1)), (entry(0, 2, 6),))
    assert made.raft_parts()[1] == HardState(6, 0, 1)


def test_a_hard_state_of_an_earlier_term_changes_nothing() -> None:
    made = take(replay(), (entry(0, 1, 5), hard(0, 5, 2, 0)), (hard(0, 4, 3, 1),))
    assert made.hard == HardState(5, 2, 0) and made.group.applied_index == 0


def test_a_configuration_that_was_superseded_is_forgotten() -> None:
    other = entry(0, 2, 1, Conf((1, 2, 3), (4,)).encode(), layout.UM_ENTRY_CONF)
    made = take(replay(), (entry(0, 1, 1), other))
    assert made.raft_parts()[2] == [(0, FOUNDED), (2, Conf((1, 2, 3), (4,)))]
    take(made, (entry(0, 2, 2),), seq=1)
    assert made.raft_parts()[2] == [(0, FOUNDED)]


def test_a_gap_is_impossible_and_said() -> None:
    with pytest.raises(ValueError, match="entry 3 after 1"):
        take(replay(), (entry(0, 1, 1), entry(0, 3, 1)))


def test_everything_is_committed_in_a_journal_from_before_there_were_replicas() -> None:
    made = take(replay(alone=True), (entry(0, 1, 1),), (entry(0, 2, 1), entry(0, 3, 1)))
    assert made.group.applied_index == 3 and made.raft_parts()[1] == HardState(1, 0, 3)
    take(made, (hard(0, 2, 9, 3), entry(0, 4, 2)), seq=2)  # from then on it is not
    assert made.group.applied_index == 3 and made.last_index == 4


# ---- behind a checkpoint ----


def checkpointed(applied: list[tuple[int, int]], hard_state: tuple[int, int, int]) -> Replay:
    """A replica as a checkpoint has it, with these entries (index, term) applied."""
    made = take(replay(), tuple(entry(0, index, term) for index, term in applied), (hard(0, *hard_state),))
    assert made.group.applied_index == len(applied)
    epochs = [pair for pair in applied if not any(t == pair[1] and i < pair[0] for i, t in applied)]
    fresh = replay()
    fresh.group = made.group
    fresh.restore({"epochs": epochs, "confs": [(0, FOUNDED.encode())], "hard": list(hard_state)})
    return fresh


def test_entries_that_the_checkpoint_has_are_passed_over() -> None:
    made = checkpointed([(1, 1), (2, 1)], (1, 0, 2))
    take(made, (entry(0, 1, 1), entry(0, 2, 1)), (entry(0, 3, 1),), seq=2)
    assert log_of(made) == [(1, 1), (2, 1), (3, 1)]


# Replaying begins where the slowest group must: before entries of this group that were superseded by what the checkpoint
# has applied. The journal of the following tests is
#     record 2: 2 3 of term 1     record 3: 4 of term 1     record 4: 2 of term 2, committed and applied: the log's end

EARLIER = (entry(0, 2, 1), entry(0, 3, 1)), (entry(0, 4, 1),), (entry(0, 2, 2),)


def test_entries_superseded_before_the_checkpoint_stay_superseded() -> None:
    made = checkpointed([(1, 1), (2, 2)], (2, 0, 2))
    take(made, *EARLIER, seq=2)
    assert log_of(made) == [(1, 1), (2, 2)]


def test_superseded_entries_whose_beginning_is_not_read_again_are_no_rot() -> None:
    made = checkpointed([(1, 1), (2, 2)], (2, 0, 2))
    take(made, *EARLIER[1:], seq=3)
    assert log_of(made) == [(1, 1), (2, 2)]


# ---- any history ----

Steps = list[tuple[str, int, int]]


def history(steps: Steps) -> tuple[list[tuple[bytes, ...]], list[tuple[int, int]], int]:
    """Records of one replica's journal; its log at the end as (index, term), and how far it is committed."""
    log: list[int] = []
    term, commit = 1, 0
    records: list[tuple[bytes, ...]] = []
    for what, count, extra in steps:
        if what == "append" and count:
            fresh = [entry(0, len(log) + n + 1, term) for n in range(count)]
            log += [term] * count
            records.append((*fresh, hard(0, term, extra, commit)) if extra else tuple(fresh))
        elif what != "supersede":
            commit = max(commit, len(log) - count)
            records.append((hard(0, term, extra, commit),))
        else:
            term += 1
            keep = max(commit, len(log) - count)
            del log[keep:]
            log.append(term)
            records.append((entry(0, keep + 1, term), hard(0, term, extra, commit)))
    return records, [(index, at) for index, at in enumerate(log, 1)], commit


steps = st.lists(
    st.tuples(st.sampled_from(["append", "append", "commit", "supersede"]), st.integers(0, 4), st.integers(0, 3)),
    min_size=1,
    max_size=25,
)


@given(steps)
@settings(max_examples=150, deadline=None)
def test_the_log_is_that_of_the_last_writes_whatever_came_before(done: Steps) -> None:
    records, log, commit = history(done)
    made = take(replay(), *records)
    assert log_of(made) == log
    assert made.group.applied_index <= made.raft_parts()[1].commit <= commit
    digest = take(
        replay(), tuple(entry(0, i, t) for i, t in log[: made.group.applied_index]), (hard(0, 99, 0, commit),)
    )
    assert digest.group.state.meta() == made.group.state.meta()


@given(steps, st.integers(0, 24), st.integers(0, 24))
@settings(max_examples=150, deadline=None)
def test_a_checkpoint_anywhere_and_replaying_from_anywhere_before_it_is_the_same(
    done: Steps, at: int, back: int
) -> None:
    records, log, commit = history(done)
    at = min(at, len(records) - 1)
    upto, then, _ = history(done[: at + 1])
    whole = take(replay(), *upto)
    applied = [pair for pair in then if pair[0] <= whole.group.applied_index]
    if not applied:
        return
    _, state, _ = whole.raft_parts()
    made = checkpointed(applied, (state.term, state.vote, len(applied)))
    oldest = whole.group.places.began(whole.group.applied_index + 1)
    begin = max(0, (at + 1 if oldest is None else oldest.seq) - back)
    took = take(made, *records[begin:], seq=begin)
    assert log_of(took) == log and took.group.applied_index <= commit
