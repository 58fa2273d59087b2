"""The judge of the chaos runs, judged: histories made by hand that it must accept, and ones that it must not."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from tests.chaos.checker import (
    Answered,
    Replica,
    Seen,
    Total,
    Write,
    add_up,
    check_key,
    check_listed,
    check_reads,
    check_replicas,
    check_total,
    check_troubles,
    gap_around,
    outages,
    sent_to,
    tags_of,
    unwell,
)
from tests.chaos.history import UNKNOWN, Fault, History, Trouble
from tests.chaos.plan import BLOCK, METRICS, SEATS, T0, Kind, cast_of, tag_of

CAST = cast_of(seed=5, groups=2, sessions=1, ids=1, stamped=1, v1=1)
SESSION, _, STAMPED, V1 = range(4)
MANY = 5000  # events: enough that every account has some


def history_of(*batches: tuple[int, int, int, float, float]) -> History:
    history = History(CAST)
    for writer, first, count, invoke, complete in batches:
        row = history.add_batch(writer, first, count, invoke)
        if complete != UNKNOWN:
            history.acknowledge(row, complete)
    return history


# ---- reads ----


def test_a_read_may_see_a_write_on_its_way_or_not() -> None:
    writes = [Write(1.0, 2.0, 10, 100), Write(3.0, 6.0, 5, 50)]
    for count, total in ((10, 100), (15, 150)):
        assert not check_key("k", writes, [Seen(4.0, 5.0, count, total)])


def test_a_read_that_misses_an_acknowledged_write_is_wrong() -> None:
    wrong = check_key("k", [Write(1.0, 2.0, 10, 100)], [Seen(3.0, 4.0, 0, 0)])
    assert len(wrong) == 1
    assert "10, 100 had been acknowledged before" in wrong[0]


def test_a_read_that_has_the_count_but_not_the_sum_is_wrong() -> None:
    assert check_key("k", [Write(1.0, 2.0, 10, 100)], [Seen(3.0, 4.0, 10, 99)])


def test_a_read_that_tells_more_than_was_sent_is_wrong() -> None:
    wrong = check_key("k", [Write(1.0, 2.0, 10, 100), Write(5.0, 6.0, 1, 1)], [Seen(3.0, 4.0, 11, 101)])
    assert len(wrong) == 1
    assert "only 10, 100 had been sent" in wrong[0]


def test_a_batch_nobody_knows_about_may_be_seen_and_need_not() -> None:
    writes = [Write(1.0, UNKNOWN, 10, 100)]
    assert not check_key("k", writes, [Seen(50.0, 51.0, 0, 0)])
    assert not check_key("k", writes, [Seen(50.0, 51.0, 10, 100)])
    assert check_key("k", writes, [Seen(50.0, 51.0, 20, 200)]), "counted twice"


def test_a_read_that_goes_back_is_wrong_even_if_nothing_was_acknowledged() -> None:
    writes = [Write(1.0, UNKNOWN, 10, 100)]
    wrong = check_key("k", writes, [Seen(2.0, 3.0, 10, 100), Seen(4.0, 5.0, 0, 0)])
    assert len(wrong) == 1
    assert "after another read had told of 10" in wrong[0]


def test_reads_at_the_same_time_may_differ_either_way() -> None:
    writes = [Write(1.0, UNKNOWN, 10, 100)]
    assert not check_key("k", writes, [Seen(2.0, 5.0, 10, 100), Seen(4.0, 6.0, 0, 0)])


def test_reads_of_a_whole_history_are_judged_by_the_plan() -> None:
    first = next(iter(CAST.events(SESSION, 0, 1)))
    key = first.account * len(METRICS) + first.metric
    history = history_of((SESSION, 0, 1, 1.0, 2.0))
    history.add_read(key, 0, 3.0, 4.0, 1, first.value)
    assert not check_reads(history)
    history.add_read(key, 0, 5.0, 6.0, 0, 0)
    assert check_reads(history)


def test_a_read_of_a_key_that_nobody_wrote_must_be_empty() -> None:
    history = history_of()
    history.add_read(3, 0, 1.0, 2.0, 1, 0)
    assert check_reads(history)


# ---- lists ----


def listed(history: History, account: int, tags: list[tuple[int, int]]) -> list[str]:
    return check_listed("a", sent_to(history, [account])[account], tags)


def tags_sent(history: History, account: int) -> list[tuple[int, int]]:
    return [
        (batch.writer, event.n)
        for batch in history.batches()
        for event in CAST.events(batch.writer, batch.first, batch.count)
        if event.account == account
    ]


def test_a_list_with_every_acknowledged_event_once_is_right() -> None:
    history = history_of((SESSION, 0, MANY, 1.0, 2.0), (V1, 0, MANY, 1.0, UNKNOWN))
    tags = tags_sent(history, 3)
    assert len({writer for writer, _ in tags}) == 2
    assert not listed(history, 3, tags)
    assert not listed(history, 3, [tag for tag in tags if tag[0] == SESSION]), "in doubt: may be missing"


def test_a_list_without_an_acknowledged_event_is_wrong() -> None:
    history = history_of((SESSION, 0, MANY, 1.0, 2.0))
    wrong = listed(history, 3, tags_sent(history, 3)[1:])
    assert "1 acknowledged events are not listed" in wrong[0]


@pytest.mark.parametrize("complete", [2.0, UNKNOWN])
def test_an_event_that_is_listed_twice_is_wrong_known_or_not(complete: float) -> None:
    history = history_of((SESSION, 0, MANY, 1.0, complete))
    tags = tags_sent(history, 3)
    wrong = listed(history, 3, [*tags, tags[0]])
    assert "1 events are listed twice" in wrong[0]


def test_an_event_that_nobody_sent_is_wrong() -> None:
    history = history_of((SESSION, 0, MANY, 1.0, 2.0))
    tags = tags_sent(history, 3)
    assert "that nobody sent" in listed(history, 3, [*tags, (SESSION, 10**6)])[0]
    assert "that nobody sent" in listed(history, 3, [*tags, *tags_of([(T0 + 1, 5)])])[0]


def test_every_event_is_recognised_by_what_a_list_tells_of_it() -> None:
    now = 1_790_000_000_000_000_000
    for writer in (SESSION, STAMPED, V1):
        for event in CAST.events(writer, 12_345, 100):
            assert tag_of(event.timestamp_ns or now, event.value) == (writer, event.n)


def test_the_plan_is_the_same_whichever_way_it_is_cut() -> None:
    for writer in range(len(CAST.kinds)):
        whole = list(CAST.events(writer, 5, 300))
        parts = [event for first in range(5, 305, 3) for event in CAST.events(writer, first, 3)]
        assert parts[:300] == whole
    assert 1 << BLOCK < 300, "or no batch would cross a block"


# ---- totals ----


def test_totals_equal_to_what_was_acknowledged_are_right() -> None:
    history = history_of((SESSION, 0, 2000, 1.0, 2.0), (STAMPED, 0, 200, 1.0, 2.0))
    for number, account in add_up(history, {}).items():
        for metric, total in enumerate(account.totals):
            assert not check_total("k", total, (0, 0), truth(total, metric, account.stamped)), CAST.accounts[number]


def truth(total: Total, metric: int, stamped: bool) -> Answered:
    last = None if stamped else total.latest[1]
    unique = total.unique if metric == SEATS else None
    return Answered(total.count, total.sum, total.max or 0, last, unique, dict(total.of_regions))


@cache
def the_members() -> Total:
    """The count-unique total with the most events of a long history."""
    accounts = add_up(history_of((SESSION, 0, 20 * MANY, 1.0, 2.0)), {}).values()
    return max((account.totals[SEATS] for account in accounts), key=lambda total: total.count)


def a_total() -> Total:
    total = the_members()
    assert total.count > 100
    assert set(total.of_regions) >= {"eu", "us"}
    return total


@pytest.mark.parametrize("field", ["count", "sum", "max", "last", "unique"])
@pytest.mark.parametrize("by", [-1, 1])
def test_any_total_that_is_off_by_one_is_wrong(field: str, by: int) -> None:
    total = a_total()
    answered = truth(total, SEATS, False)
    setattr(answered, field, getattr(answered, field) + by)
    assert check_total("k", total, (0, 0), answered)


def test_a_region_that_is_off_is_wrong_though_the_total_is_right() -> None:
    total = a_total()
    answered = truth(total, SEATS, False)
    assert answered.of_regions is not None
    (count, amount), (other_count, other_amount) = answered.of_regions["eu"], answered.of_regions["us"]
    answered.of_regions |= {"eu": (count + 1, amount), "us": (other_count - 1, other_amount)}
    assert check_total("k", total, (0, 0), answered)


def test_doubt_allows_a_total_to_be_larger_but_only_once_and_never_smaller() -> None:
    total = a_total()
    for more, right in ((0, True), (7, True), (8, False), (-1, False)):
        answered = Answered(total.count + more, total.sum)
        assert (not check_total("k", total, (7, 100), answered)) == right


def test_events_in_doubt_that_are_listed_count_and_the_others_of_that_account_do_not() -> None:
    history = history_of((SESSION, 0, MANY, 1.0, UNKNOWN))
    tags = tags_sent(history, 3)
    account = add_up(history, {3: set(tags[:2])})[3]
    assert sum(total.count for total in account.totals) == 2
    assert not any(account.doubt_count)
    other = add_up(history, {3: set(tags[:2])})[4]
    assert sum(other.doubt_count) > 0
    assert not any(total.count for total in other.totals)


# ---- replicas, errors, outages ----


def test_replicas_that_agree_are_right_and_a_group_that_a_node_does_not_hold_is_no_matter() -> None:
    assert not check_replicas(
        {1: Replica([5, 7], ["a", "b"]), 2: Replica([5, 7], ["a", "b"]), 3: Replica([0, 7], ["-", "b"])}
    )


def test_replicas_with_other_digests_or_other_indexes_are_wrong() -> None:
    assert "digests differ" in check_replicas({1: Replica([5], ["a"]), 2: Replica([5], ["b"])})[0]
    assert "different indexes" in check_replicas({1: Replica([5], ["a"]), 2: Replica([4], ["a"])})[0]


def test_a_majority_is_missing_only_while_two_of_three_are_touched_at_once() -> None:
    faults = [Fault("kill", 1, 10.0, 20.0), Fault("stop", 1, 12.0, 14.0), Fault("cut", 2, 15.0, 18.0)]
    assert unwell(faults, 3, grace=0.0) == [(15.0, 18.0)]
    assert unwell(faults[:2], 3, grace=0.0) == []
    assert unwell(faults[:1], 1, grace=0.0) == [(10.0, 20.0)]


def test_a_call_that_failed_though_a_majority_was_there_is_wrong() -> None:
    faults = [Fault("kill", 1, 0.0, 40.0)]
    wrong, excused = check_troubles([Trouble(35.0, 30.0, "IngestIncomplete")], faults, 3)
    assert len(wrong) == 1
    assert not excused


def test_a_call_that_failed_while_there_was_no_majority_is_excused() -> None:
    faults = [Fault("kill", 1, 0.0, 40.0), Fault("kill", 2, 7.0, 40.0)]
    wrong, excused = check_troubles([Trouble(35.0, 30.0, "IngestIncomplete")], faults, 3)
    assert not wrong
    assert excused == 1


def test_a_call_that_failed_long_before_its_timeout_is_wrong_whatever_happened() -> None:
    faults = [Fault("kill", 1, 0.0, 40.0), Fault("kill", 2, 0.0, 40.0)]
    assert check_troubles([Trouble(35.0, 0.5, "InternalError")], faults, 3)[0]


def test_the_outage_is_the_longest_gap_at_or_after_the_blow() -> None:
    acks = [1.0, 2.0, 3.0, 5.5, 6.0, 7.0, 50.0, 99.0]
    assert gap_around(acks, 3.2) == 2.5
    assert gap_around([], 3.2) is None


def test_outages_are_counted_for_groups_whose_leader_was_killed() -> None:
    probe = CAST.writers(Kind.PROBE)[1]
    history = history_of(*((probe, n, 1, at - 0.01, at) for n, at in enumerate((1.0, 2.0, 4.0, 5.0))))
    history.faults = [
        Fault("kill", 1, 2.1, 3.0, leads=(1,)),
        Fault("kill", 2, 9.1, 9.5),
        Fault("stop", 1, 1.1, 2.0, leads=(1,)),
    ]
    assert outages(history) == [2.0]


def test_the_outage_of_a_leader_is_not_judged_while_something_is_done_to_another_node() -> None:
    probe = CAST.writers(Kind.PROBE)[1]
    history = history_of(*((probe, n, 1, at - 0.01, at) for n, at in enumerate((1.0, 2.0, 4.0, 5.0))))
    history.faults = [Fault("kill", 1, 2.1, 3.0, leads=(1,)), Fault("stop", 2, 2.5, 2.6)]
    assert outages(history) == []


def test_a_history_is_the_same_after_it_was_kept_and_read_again(tmp_path: Path) -> None:
    history = history_of((SESSION, 0, MANY, 1.0, 2.0), (V1, 0, 20, 1.5, UNKNOWN))
    history.add_read(3, 1, 1.0, 2.0, 4, 5)
    history.faults.append(Fault("kill", 1, 1.0, 2.0, "x", (1, 2)))
    history.save(tmp_path / "history.json.gz")
    again = History.load(tmp_path / "history.json.gz")
    assert list(again.batches()) == list(history.batches())
    assert list(again.reads()) == list(history.reads())
    assert again.faults == history.faults
    assert (again.events_acked, again.events_unknown) == (MANY, 20)
