"""Several groups: requests that are split, forwarded, answered in parts or failed. Both kernels do alike, and what a
client is told is what one group would have told it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.splitting import ENDS, V1_FAILURE, V2_FAILURE, Cluster, hinted
from tests.test_twins import examples, roomy
from tests.twin_plays import ROOM, Author
from tests.twin_strategies import BASE, HOUR, Event, Play, v1_batch, v1_frame, v2_batch, v2_frame
from tests.twins import both, plain, same
from unimeter.kernels import layout as lay
from unimeter.kernels import load
from unimeter.kernels import protocol as p
from unimeter.kernels.api import Kernels
from unimeter.kernels.frame import Reply
from unimeter.kernels.reference.splitter import group_of

OPEN_SESSION = 1
ASYNC, VERDICTS = 1, 2
WIDE = Play((*ROOM[:12], 300, *ROOM[13:]), 3000, 1000, HOUR)


@pytest.fixture(params=["native", "reference"])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return load(request.param)


def told(replies: list[Reply], kernels: Kernels) -> list[tuple[int, int, int, bytes]]:
    """(link, request id, status, payload) of every answer."""
    found = []
    for reply in replies:
        at = 0
        while at < len(reply.data):
            protocol = 2 if reply.data[at : at + 4] == p.V2_MAGIC.to_bytes(4, "little") else 1
            table = kernels.response_scan(reply.data[at:], protocol, 1 << 20)
            for n in range(1 if protocol == 1 else len(table)):
                frame = table[n]
                start = at + frame.payload_off
                payload = reply.data[start : start + frame.payload_len]
                found.append((reply.link, frame.request_id, frame.status, payload))
            last = table[0 if protocol == 1 else len(table) - 1]
            at += last.payload_off + last.payload_len
    return found


def v2_result(payload: bytes) -> tuple[dict[str, int], list[tuple[int, int]]]:
    values = p.V2_INGEST_RESULT.unpack_from(payload)
    result = dict(zip(p.FIELDS["V2_INGEST_RESULT"], values, strict=True))
    return result, list(p.V2_EXCEPTION.iter_unpack(payload[p.V2_INGEST_RESULT.size :]))


def spread(count: int, **more: Any) -> list[Event]:
    """Events of accounts 0, 1, 2, ..."""
    return [Event(n, b"plain", 10 + n, BASE, **more) for n in range(count)]


# ---- both kernels alike ----


def play_of(seed: int, group_count: int, ends: tuple[str, ...], intake_bytes: int) -> None:
    """Random turns: requests come in, then every group's entry ends in one of the ways, in any order."""
    author = Author(seed)
    dice = author.dice
    author.accounts = [*author.accounts, *range(7), *(b"text %d" % n for n in range(5))]
    play = author.play(0)
    pair = [Cluster(kernels, group_count, play, intake_bytes) for kernels in both()]

    def do(what: str, *how: object) -> None:
        same([plain(getattr(cluster, what)(*how)) for cluster in pair])
        same([cluster.counts() for cluster in pair])

    for _ in range(dice.randint(1, 6)):
        for _ in range(dice.randint(1, 5)):
            hints = [0, 0, 0, 1, 2, 3, 9, 65_535, 65_536, 2**32 - 1]
            data = b"".join(hinted(author.frame(), dice.choice(hints)) for _ in range(dice.randint(1, 3)))
            labels = [0, 1, 1, 1, 1, 1, 2, 2, 2, 255]
            local = bytes(dice.choices(labels, k=group_count)) if author.chance(0.4) else None
            do("take", data, dice.randint(1, 3), local, dice.randint(0, 1))
        if author.chance(0.4):
            for group in range(group_count):
                same([cluster.intakes[group].immediate() for cluster in pair])
        for group in dice.sample(range(group_count), group_count):
            do(dice.choice(ends), group)
            if author.chance(0.2):
                do("take", author.frame(), 9)
    for group in range(group_count):
        do("fail", group)
        same([cluster.states[group].digest() for cluster in pair])
    assert all(cluster.splitter.spans_open == 0 for cluster in pair)


@examples(120)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 3, 8]), st.sampled_from([1 << 20, 3000, 900]))
def test_splitters_take_and_answer_alike_however_the_groups_end(seed: int, group_count: int, intake_bytes: int) -> None:
    play_of(seed, group_count, ENDS if seed % 2 else ("lead", "forward"), intake_bytes)


def test_as_many_groups_as_there_can_be_are_split_alike() -> None:
    for seed in range(3):
        play_of(seed, 64, ("lead", "forward", "fail"), 1 << 20)


# ---- what one group would have said ----


@examples(60)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 8]), st.sampled_from(["lead", "forward"]))
def test_a_client_cannot_tell_how_many_groups_there_are(seed: int, group_count: int, end: str) -> None:
    author = Author(seed)
    author.accounts = [*author.accounts, *range(7), b"t", b"u"]
    author.session_share = 0.0  # sessions remember numbers per group, which a client may notice
    kernels = load("native")
    one, many = (Cluster(kernels, groups, WIDE) for groups in (1, group_count))
    for _ in range(author.dice.randint(1, 4)):
        sent = [(author.frame(), author.dice.randint(1, 3)) for _ in range(author.dice.randint(1, 5))]
        answers = []
        for cluster in (one, many):
            for data, link in sent:
                cluster.take(data, link)
            replies = [reply for group in range(cluster.group_count) for reply in getattr(cluster, end)(group)]
            answers.append(sorted(without_offset(found) for found in told(replies, kernels)))
        assert answers[0] == answers[1]
    assert many.splitter.spans_open == 0


def without_offset(found: tuple[int, int, int, bytes]) -> tuple[int, int, int, bytes]:
    link, request_id, status, payload = found
    if len(payload) == p.V1_INGEST_RESULT.size:
        payload = payload[:8]
    elif len(payload) >= p.V2_INGEST_RESULT.size and (len(payload) - p.V2_INGEST_RESULT.size) % 8 == 0:
        payload = payload[:16] + payload[24:]
    return link, request_id, status, payload


def test_one_group_is_taken_as_without_a_splitter(kernels: Kernels) -> None:
    cluster = Cluster(kernels, 1, WIDE)
    data = b"".join(Author(3).frame() for _ in range(20))
    cluster.take(data)
    plain_intake = kernels.intake(0, 1 << 20, 100)
    plain_intake.take(cluster.catalog, data, kernels.frame_scan(data, 1 << 20), 0, 1)
    place = (0, 1, 1, BASE, 7)
    assert bytes(cluster.intakes[0].seal(*place)) == bytes(plain_intake.seal(*place))
    assert cluster.intakes[0].immediate() == plain_intake.immediate()


# ---- where rows go ----


def test_rows_go_to_the_group_of_their_account_in_the_order_sent(kernels: Kernels) -> None:
    cluster = Cluster(kernels, 3, WIDE)
    accounts: list[int | bytes] = [5, b"a", 261, 2**64 - 1, b"acme", 256, 0, 255, b"z" * 128]
    events = [Event(account, b"plain", n, BASE) for n, account in enumerate(accounts)]
    assert cluster.take(v2_frame(2, 1, v2_batch(events))) == (lay.UM_STOP_END, 1)
    for group in range(3):
        expected = [n for n, account in enumerate(accounts) if group_of(account, 3) == group]
        body = bytes(cluster.intakes[group].bundle()[0])
        found, at = [], lay.BATCH.size
        while at < len(body):
            head = lay.RowHead._make(lay.ROW.unpack_from(body, at))
            found.append(head.value)
            at += lay.ROW.size + head.tail_len
        assert found == expected
    assert [group_of(account, 3) for account in (5, 261, 256, 255)] == [5 % 3, 5 % 3, 0, 0]


def test_a_request_with_a_part_elsewhere_is_left_alone(kernels: Kernels) -> None:
    cluster = Cluster(kernels, 4, WIDE)
    here, both_places = v1_frame(1, 1, v1_batch([Event(1, b"plain", 1)])), v1_frame(1, 2, v1_batch(spread(3)))
    local = bytes([1, 1, 0, 1])
    assert cluster.take(here + both_places + here, 1, local) == (lay.UM_STOP_ELSEWHERE, 1)
    assert cluster.splitter.groups_wanted == 0b0111
    assert [intake.row_count for intake in cluster.intakes] == [0, 1, 0, 0]
    assert cluster.splitter.spans_open == 0
    assert cluster.take(here + both_places + here, 1, local, 2) == (lay.UM_STOP_END, 3)
    assert cluster.take(v2_frame(2, 3, v2_batch([], (1, 1), 0, 0, OPEN_SESSION)), 1, local)[0] == lay.UM_STOP_ELSEWHERE
    assert cluster.splitter.groups_wanted == 0b1111


def test_a_request_that_needs_several_nodes_is_taken_wherever_they_are(kernels: Kernels) -> None:
    cluster = Cluster(kernels, 4, WIDE)
    local = bytes([1, 2, 3, 2])
    theirs, several = (
        v1_frame(1, 1, v1_batch([Event(n, b"plain", 1) for n in (1, 3, 5)])),
        v1_frame(1, 2, v1_batch(spread(4))),
    )
    two_others = v1_frame(1, 3, v1_batch([Event(n, b"plain", 1) for n in (1, 2)]))
    assert cluster.take(several + two_others + theirs, 1, local) == (lay.UM_STOP_ELSEWHERE, 2)
    assert cluster.splitter.groups_wanted == 0b1010
    assert cluster.splitter.spans_open == 2
    assert cluster.take(v1_frame(1, 4, v1_batch(spread(1))), 1, local) == (0, 1)
    replies = [*cluster.lead(0), *(reply for group in (1, 2, 3) for reply in cluster.forward(group))]
    assert sorted(request_id for _, request_id, _, _ in told(replies, kernels)) == [2, 3, 4]


@pytest.mark.parametrize("label", [0, 2])
def test_a_single_group_that_is_led_elsewhere_takes_nothing_with_rows(kernels: Kernels, label: int) -> None:
    cluster = Cluster(kernels, 1, WIDE)
    empty, full = v1_frame(1, 1, v1_batch([])), v1_frame(1, 2, v1_batch(spread(1)))
    assert cluster.take(empty + full, 1, bytes([label])) == (lay.UM_STOP_ELSEWHERE, 1)
    assert cluster.splitter.groups_wanted == 1
    [(_, request_id, status, _)] = told(cluster.intakes[0].immediate(), kernels)
    assert (request_id, status) == (1, p.V1_STATUS_OK)


def test_a_session_is_opened_in_every_group_or_where_the_hint_says(kernels: Kernels) -> None:
    cluster = Cluster(kernels, 3, WIDE)
    opening = v2_frame(2, 1, v2_batch([], (1, 2), 0, 0, OPEN_SESSION), ASYNC)
    cluster.take(opening)
    assert [intake.batch_count for intake in cluster.intakes] == [1, 1, 1]
    cluster.take(hinted(opening, 2))
    assert [intake.batch_count for intake in cluster.intakes] == [1, 2, 1]
    cluster.take(hinted(opening, 4))  # there is no such group: no hint
    assert [intake.batch_count for intake in cluster.intakes] == [2, 3, 2]
    replies = [reply for group in (2, 0, 1) for reply in cluster.lead(group)]
    assert [request_id for _, request_id, _, _ in told(replies, kernels)] == [1, 1, 1]
    assert [state.region_counts()[lay.UM_R_SESSIONS] for state in cluster.states] == [1, 1, 1]


def test_a_numbered_batch_without_rows_goes_to_group_0_or_where_the_hint_says(kernels: Kernels) -> None:
    cluster = Cluster(kernels, 3, WIDE)
    frame = v2_frame(2, 1, v2_batch([Event(2, b"nosuch", 1)], (1, 2), 1))
    cluster.take(frame)
    assert [intake.batch_count for intake in cluster.intakes] == [1, 0, 0]
    cluster.take(hinted(frame, 2))
    assert [intake.batch_count for intake in cluster.intakes] == [1, 1, 0]


def test_the_group_hint_of_a_frame_is_told(kernels: Kernels) -> None:
    frame = v2_frame(2, 1, b"")
    for hint, partition in ((0, 0), (3, 3), (65_535, 65_535), (70_000, 65_535)):
        data = hinted(frame, hint)
        assert kernels.frame_scan(data, 100)[0].partition == partition


# ---- answers to spans ----


def test_a_split_request_is_answered_once_with_its_last_part(kernels: Kernels) -> None:
    cluster = Cluster(kernels, 4, WIDE)
    events = [*spread(6), Event(0, b"nosuch", 1), *spread(1)]
    cluster.take(v1_frame(1, 77, v1_batch(events)), link=5)
    assert cluster.splitter.spans_open == 1
    assert cluster.lead(2) == cluster.forward(0) == cluster.lead(3) == []
    [(link, request_id, status, payload)] = told(cluster.lead(1), kernels)
    assert (link, request_id, status) == (5, 77, p.V1_STATUS_UNKNOWN_METRIC)
    assert p.V1_INGEST_RESULT.unpack(payload) == (7, 0, cluster.stamp_ns)
    assert cluster.splitter.spans_open == 0


def test_an_async_span_is_answered_when_its_last_part_is_sealed(kernels: Kernels) -> None:
    cluster = Cluster(kernels, 2, WIDE)
    cluster.take(v1_frame(0, 1, v1_batch(spread(4))))
    assert cluster.intakes[0].immediate() == cluster.intakes[1].immediate() == []
    cluster.intakes[1].seal(1, 1, 1, BASE + 9, 1)
    assert cluster.intakes[1].immediate() == []
    cluster.intakes[0].seal(0, 1, 1, BASE + 5, 1)
    [(_, _, status, payload)] = told(cluster.intakes[0].immediate(), kernels)
    assert (status, p.V1_INGEST_RESULT.unpack(payload)) == (0, (4, 0, BASE + 9))


def test_verdicts_of_a_span_name_events_as_they_were_sent(kernels: Kernels) -> None:
    cluster = Cluster(kernels, 3, WIDE)
    cluster.take(v2_frame(2, 1, v2_batch([Event(n, b"plain", n, BASE, id=b"i") for n in range(5)])))
    for group in range(3):
        cluster.lead(group)
    mixed = [
        Event(4, b"plain", 99, BASE, id=b"i"),
        Event(3, b"nosuch", 1),
        Event(2, b"plain", 2, BASE, id=b"i"),
        Event(1, b"plain", 1, BASE, id=b"new"),
        Event(0, b"plain", 7, BASE, id=b"i"),
    ]
    cluster.take(v2_frame(2, 2, v2_batch(mixed), VERDICTS))
    replies = [reply for group in (1, 2, 0) for reply in cluster.forward(group)]
    [(_, _, _, payload)] = told(replies, kernels)
    result, exceptions = v2_result(payload)
    assert [result[name] for name in ("stored", "duplicates", "conflicts", "refused")] == [1, 1, 2, 1]
    conflict, unknown, duplicate = lay.UM_V_CONFLICT, lay.UM_V_UNKNOWN_METRIC, lay.UM_V_DUPLICATE
    assert exceptions == [(0, conflict), (1, unknown), (2, duplicate), (4, conflict)]


def test_the_first_event_that_any_group_refused_is_the_one_that_v1_names(kernels: Kernels) -> None:
    play = Play(WIDE.records_max, 3000, 1, HOUR)
    cluster = Cluster(kernels, 2, play)

    def events(region: bytes) -> list[Event]:
        return [Event(n % 4, b"calls", n, BASE + n, properties=((b"region", region),)) for n in range(4)]

    for region in (b"eu", b"us"):
        cluster.take(v1_frame(1, 1, v1_batch([Event(9, b"nosuch", 1), *events(region)])))
        replies = [*cluster.lead(1), *cluster.lead(0)]
    [(_, _, status, payload)] = told(replies, kernels)
    assert status == p.V1_STATUS_ERROR
    assert payload.startswith(b"5 of 5 events were refused, the others are stored; event 1: too many different")


def test_a_retried_span_gets_the_counts_of_the_first_answers(kernels: Kernels) -> None:
    cluster = Cluster(kernels, 2, WIDE)
    cluster.take(v2_frame(2, 1, v2_batch([], (1, 2), 0, 0, OPEN_SESSION)))
    cluster.lead(0), cluster.lead(1)
    frame = v2_frame(2, 2, v2_batch([*spread(4), Event(1, b"nosuch", 1)], (1, 2), 1), VERDICTS)
    cluster.take(frame)
    cluster.lead(0)  # group 1 never hears of it
    assert cluster.fail(1) != []
    cluster.take(frame)
    replies = [*cluster.lead(0), *cluster.lead(1)]
    [(_, _, status, payload)] = told(replies, kernels)
    result, exceptions = v2_result(payload)
    assert (status, result["stored"], result["refused"], exceptions) == (0, 4, 1, [])
    assert result["session_verdict"] == lay.UM_V_DUPLICATE
    assert [state.meta().stored for state in cluster.states] == [2, 2]


def test_last_offset_grows_from_batch_to_batch_whatever_their_groups(kernels: Kernels) -> None:
    cluster = Cluster(kernels, 3, WIDE)
    offsets = []
    for n in (2, 0, 1, 0, 2):
        cluster.take(v1_frame(n % 2, n, v1_batch([Event(n, b"plain", 1, 0)])))
        [(_, _, _, payload)] = told(cluster.lead(n), kernels)
        offsets.append(p.V1_INGEST_RESULT.unpack(payload)[2])
        assert offsets[-1] == cluster.stamp_ns
    assert offsets == sorted(set(offsets))


# ---- failing and forgetting ----


def test_a_failed_span_is_answered_once_and_its_other_parts_are_silent(kernels: Kernels) -> None:
    cluster = Cluster(kernels, 3, WIDE)
    cluster.take(v1_frame(1, 8, v1_batch(spread(3))), link=4)
    cluster.take(v2_frame(2, 9, v2_batch(spread(3)), ASYNC), link=4)
    assert cluster.lead(0) == []
    assert told(cluster.fail(1), kernels) == [(4, 8, *V1_FAILURE), (4, 9, *V2_FAILURE)]
    assert cluster.splitter.spans_open == 2
    assert cluster.lead(2) == []
    assert cluster.splitter.spans_open == 0


def test_fail_answers_whatever_has_no_answer_yet(kernels: Kernels) -> None:
    cluster = Cluster(kernels, 2, WIDE)
    sync, later = v1_frame(1, 1, v1_batch([Event(0, b"plain", 1)])), v1_frame(0, 2, v1_batch([Event(0, b"plain", 1)]))
    empty, bad = v1_frame(0, 3, v1_batch([])), v1_frame(0, 4, v1_batch([Event(0, b"plain", -1)]))
    cluster.take(sync + later + empty + bad)
    assert cluster.intakes[0].pending_count == 4
    failed = told(cluster.intakes[0].fail(*V1_FAILURE, *V2_FAILURE), kernels)
    assert sorted(failed) == [(1, n, *V1_FAILURE) for n in (1, 2, 3, 4)]
    assert cluster.intakes[0].pending_count == 0
    assert cluster.intakes[0].fail(*V1_FAILURE, *V2_FAILURE) == []


def test_many_requests_are_failed_at_once(kernels: Kernels) -> None:
    cluster = Cluster(kernels, 2, WIDE)
    for link in range(1500):
        cluster.take(v2_frame(2, link, v2_batch([Event(0, b"plain", 1)])), link)
    assert told(cluster.fail(0), kernels) == [(link, link, *V2_FAILURE) for link in range(1500)]


def test_a_span_with_a_forgotten_part_is_never_answered(kernels: Kernels) -> None:
    cluster = Cluster(kernels, 2, WIDE)
    cluster.take(v1_frame(1, 1, v1_batch(spread(2))))
    assert cluster.forget(0) == []
    assert cluster.splitter.spans_open == 1
    assert cluster.fail(1) == []
    assert cluster.splitter.spans_open == 0


def test_spans_are_bounded_and_their_places_are_used_again() -> None:
    kernels = load("native")
    cluster = Cluster(kernels, 2, WIDE)
    frame = v1_frame(1, 1, v1_batch(spread(2)))
    for _ in range(lay.UM_SPANS_MAX):
        assert cluster.take(frame) == (lay.UM_STOP_END, 1)
    assert cluster.take(frame) == (lay.UM_STOP_FULL, 0)
    assert cluster.splitter.groups_wanted == 0b11
    assert cluster.take(v1_frame(1, 1, v1_batch(spread(1)))) == (lay.UM_STOP_END, 1)
    cluster.fail(0)
    assert cluster.take(frame) == (lay.UM_STOP_FULL, 0)
    cluster.fail(1)
    assert cluster.take(frame) == (lay.UM_STOP_END, 1)
    assert cluster.splitter.spans_open == 1


# ---- bundles ----


def test_a_bundle_is_exactly_the_batches_that_it_is_said_to_be(kernels: Kernels) -> None:
    cluster = Cluster(kernels, 2, WIDE)
    cluster.take(v2_frame(2, 1, v2_batch([Event(0, b"plain", 1), Event(2, b"plain", 2)])))
    body, batch_count, row_count = cluster.intakes[0].bundle()
    data = bytes(body)
    leader = kernels.intake(0, len(data) + 47, 100)
    row_at = lay.BATCH.size
    for wrong in (
        (data, batch_count + 1, row_count),
        (data, batch_count, row_count - 1),
        (data[:-8], batch_count, row_count),
        (data + bytes(8), batch_count, row_count),
        (data[: row_at + 26] + b"\x03" + data[row_at + 27 :], batch_count, row_count),  # no such operation
    ):
        with pytest.raises(ValueError, match="bundle"):
            leader.add_bundle(*wrong)
    assert leader.add_bundle(data, batch_count, row_count) == (0, 0)
    assert leader.add_bundle(data, batch_count, row_count) is None
    assert leader.add_bundle(b"", 0, 0) == (1, 2)
    assert (leader.batch_count, leader.row_count, leader.pending_count) == (1, 2, 0)


def test_what_was_applied_elsewhere_must_fit_its_bundle(kernels: Kernels) -> None:
    for data, batch_count, row_count in ((b"", 1, 0), (bytes(40), 0, 0), (bytes(41), 1, 0), (bytes(43), 1, 4)):
        with pytest.raises(ValueError, match="summaries"):
            kernels.remote_applied(data, batch_count, row_count, 1)
    applied = kernels.remote_applied(bytes(44), 1, 4, 1)
    assert (applied.batch_count, applied.row_count, applied.extract(0, 1)) == (1, 4, bytes(44))
    with pytest.raises(IndexError):
        applied.extract(0, 2)


def test_a_bundled_intake_takes_nothing_more_and_is_cleared(kernels: Kernels) -> None:
    cluster = Cluster(kernels, 2, WIDE)
    frame = v1_frame(1, 1, v1_batch([Event(0, b"plain", 1)]))
    cluster.take(frame)
    cluster.intakes[0].bundle()
    with pytest.raises(AssertionError):
        cluster.take(frame)
    with pytest.raises(AssertionError):
        cluster.intakes[0].seal(0, 1, 1, BASE, 1)
    with pytest.raises(AssertionError):
        cluster.intakes[0].bundle()
    cluster.intakes[0].clear()
    assert cluster.take(frame) == (lay.UM_STOP_END, 1)


def test_the_leader_answers_its_own_requests_beside_a_bundle(kernels: Kernels) -> None:
    cluster = Cluster(kernels, 1, roomy([]))
    other = kernels.intake(0, 1 << 16, 100)
    frame = v1_frame(1, 5, v1_batch([Event(3, b"plain", 1)] * 2))
    other.take(cluster.catalog, frame, kernels.frame_scan(frame, 1 << 20), 0, 1)
    cluster.take(frame)
    assert cluster.intakes[0].add_bundle(*other.bundle()) == (1, 2)
    [(_, request_id, _, payload)] = told(cluster.lead(0), kernels)
    assert (request_id, p.V1_INGEST_RESULT.unpack(payload)) == (5, (2, 0, 2))
