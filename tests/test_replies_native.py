"""Answers after apply: what a client is told is what apply did, by the index under which the client knows the event."""

from __future__ import annotations

from typing import Any

import pytest

from tools.wire_frames import V1Event, V2Event, v1_ingest, v2_ingest, v2_ingest_payload
from unimeter.kernels import layout as lay
from unimeter.kernels import load
from unimeter.kernels import protocol as p
from unimeter.kernels.api import Limits

K = load("native")
SECOND_NS = 10**9
LIMITS = Limits(
    (1, 1 << 16, 500, 500, 500, 500, 2000, 500, 500, 500, 500, 500, 8, 50, 50, 50, 500),
    fingerprints_per_generation=500,
    cells_per_series_max=2,
    session_idle_ns=SECOND_NS,
)
CODES = (b"tokens", b"nope")


class Group:
    """One group's state and its open entry: requests in, answers out."""

    def __init__(self) -> None:
        self.catalog = K.catalog([lay.pack_metric(0, b"tokens", 1, dimensions=(b"model",))])
        self.state = K.state(LIMITS)
        self.intake = K.intake(0, 1 << 20, 1000)
        self.index = 0
        self.next_seq = 1

    def ask(self, *requests: bytes) -> list[tuple[int, bytes]]:
        """(status, payload) of every answer that needed apply."""
        for data in requests:
            frames = K.frame_scan(data, 1 << 20)
            assert self.intake.take(self.catalog, data, frames, 0, 1) == (lay.UM_STOP_END, 1)
        self.index += 1
        rows = self.intake.row_count
        entry = self.intake.seal(0, self.index, 1, 10**18 + self.index, self.next_seq)
        self.next_seq += rows
        applied = self.state.apply(self.catalog, entry)
        protocol = 1 if requests[0].startswith(p.V1_MAGIC.to_bytes(4, "little")) else 2
        answers = []
        for reply in self.intake.answers(applied):
            table = K.response_scan(reply.data, protocol, 1 << 20)
            for n in range(len(table)):
                frame = table[n]
                answers.append((frame.status, reply.data[frame.payload_off :][: frame.payload_len]))
        assert self.intake.answers(applied) == []
        self.intake.clear()
        return answers

    def ask_v2(self, payload: bytes, verdicts: bool = True) -> tuple[dict[str, Any], list[tuple[int, int]]]:
        [(status, body)] = self.ask(v2_ingest(K, payload, verdicts=verdicts))
        assert status == p.V2_STATUS_OK
        result = dict(zip(p.FIELDS["V2_INGEST_RESULT"], p.V2_INGEST_RESULT.unpack_from(body), strict=True))
        exceptions = list(p.V2_EXCEPTION.iter_unpack(body[p.V2_INGEST_RESULT.size :]))
        assert len(exceptions) == result.pop("exception_count")
        return result, exceptions


def counts(stored: int = 0, duplicates: int = 0, conflicts: int = 0, refused: int = 0, **more: int) -> dict[str, int]:
    return {"stored": stored, "duplicates": duplicates, "conflicts": conflicts, "refused": refused, **more}


def event(model: bytes, timestamp_ns: int = 1, value: int = 1, code: bytes = b"tokens") -> V1Event:
    return V1Event(code, 7, timestamp_ns, value, 0, ((b"model", model),))


def test_v1_answer_counts_stored_and_duplicates() -> None:
    group = Group()
    batch = v1_ingest([event(b"a", 1), event(b"a", 2)])
    assert group.ask(batch) == [(p.V1_STATUS_OK, p.V1_INGEST_RESULT.pack(2, 0, 2))]
    assert group.ask(batch, v1_ingest([event(b"a", 3)])) == [
        (p.V1_STATUS_OK, p.V1_INGEST_RESULT.pack(0, 2, 4)),
        (p.V1_STATUS_OK, p.V1_INGEST_RESULT.pack(1, 0, 5)),
    ]


def test_v1_refusal_by_apply_names_the_event_as_it_was_sent() -> None:
    group = Group()
    events = [event(b"?", code=b"nope"), event(b"a"), event(b"b"), event(b"?", code=b"nope"), event(b"c"), event(b"d")]
    [(status, message)] = group.ask(v1_ingest(events))
    assert status == p.V1_STATUS_ERROR
    assert message == (
        b"4 of 6 events were refused, the others are stored; event 4: too many different dimension values for one"
        b" account and metric; send fewer distinct values, or drop the dimension"
    )
    assert group.state.meta().stored == 2


def test_v2_exceptions_merge_what_intake_and_apply_refused_in_the_order_sent() -> None:
    group = Group()
    known = [V2Event(0, 1, n, 1, 0, b"", ((b"model", b"m%d" % (n % 3)),)) for n in range(5)]
    unknown = V2Event(1, 1)
    repeated = V2Event(0, 2, 9, 5, 0, b"id-1")
    payload = v2_ingest_payload(
        CODES, [unknown, *known, unknown, repeated, repeated, repeated._replace(value=6), unknown]
    )
    result, exceptions = group.ask_v2(payload)
    assert result == counts(5, 1, 1, 4, last_offset=8, session_verdict=0)
    assert exceptions == [
        (0, lay.UM_V_UNKNOWN_METRIC),
        (3, lay.UM_V_CARDINALITY),
        (6, lay.UM_V_UNKNOWN_METRIC),
        (8, lay.UM_V_DUPLICATE),
        (9, lay.UM_V_CONFLICT),
        (10, lay.UM_V_UNKNOWN_METRIC),
    ]
    _, silent = group.ask_v2(payload, verdicts=False)
    assert silent == []


def opened() -> Group:
    group = Group()
    result, _ = group.ask_v2(v2_ingest_payload([], [], (1, 2), batch_flags=p.V2_BATCH_FLAG_OPEN_SESSION))
    assert result["session_verdict"] == 0
    return group


def test_retry_of_a_session_batch_gets_the_counts_of_the_first_answer() -> None:
    group = opened()
    payload = v2_ingest_payload(CODES, [V2Event(0, 1), V2Event(1, 1), V2Event(0, 1)], (1, 2), 1)
    first, _ = group.ask_v2(payload)
    assert first == counts(2, refused=1, last_offset=2, session_verdict=0)
    again, exceptions = group.ask_v2(payload)
    assert again == counts(2, refused=1, last_offset=2, session_verdict=lay.UM_V_DUPLICATE)
    assert exceptions == []


def test_retry_after_the_metric_was_created_still_gets_the_first_answer() -> None:
    group = opened()
    payload = v2_ingest_payload(CODES, [V2Event(1, 1), V2Event(1, 1)], (1, 2), 1)
    first, _ = group.ask_v2(payload)
    assert (first["stored"], first["refused"]) == (0, 2)
    group.catalog = K.catalog([lay.pack_metric(0, b"tokens", 1), lay.pack_metric(1, b"nope", 1)])
    again, _ = group.ask_v2(payload)
    assert (again["stored"], again["refused"], again["session_verdict"]) == (0, 2, lay.UM_V_DUPLICATE)
    assert group.state.meta().stored == 0


@pytest.mark.parametrize("number", [1, 99])
def test_batch_of_an_unknown_session_is_refused_as_a_whole(number: int) -> None:
    group = Group()
    result, exceptions = group.ask_v2(v2_ingest_payload(CODES, [V2Event(0, 1), V2Event(1, 1)], (9, 9), number))
    assert (result["stored"], result["refused"], result["session_verdict"]) == (0, 2, lay.UM_V_SESSION_UNKNOWN)
    assert exceptions == []
