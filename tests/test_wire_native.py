"""Frames, intake and answers in C: what goes in as frames comes out as the rows a plain model expects, and what is
no frame or no batch is refused as its protocol says."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.wire_frames import (
    V1Event,
    V2Event,
    v1_ingest,
    v1_ingest_payload,
    v1_request,
    v1_response,
    v2_frame,
    v2_ingest,
    v2_ingest_payload,
)
from unimeter.kernels import layout as lay
from unimeter.kernels import load
from unimeter.kernels import protocol as p
from unimeter.kernels.api import Intake
from unimeter.kernels.frame import Reply

K = load("native")
CODES = (b"api_calls", b"tokens", b"x" * 63, b"deleted")
CATALOG = K.catalog([lay.pack_metric(n, code, 1, alive=code != b"deleted") for n, code in enumerate(CODES)])
ALIVE = {code: n for n, code in enumerate(CODES) if code != b"deleted"}
PAYLOAD_MAX = 1 << 20
EVENTS_MAX = 100

text = st.binary(min_size=0, max_size=63).map(lambda b: b.replace(b"\0", b"."))
keys = st.binary(min_size=1, max_size=31).map(lambda b: b.replace(b"\0", b"."))
codes = st.sampled_from([*CODES, b"unknown", b"y"])
properties_v1 = st.dictionaries(keys, text, max_size=16).map(lambda d: tuple(d.items()))
stamps = st.integers(0, 2**63 - 1)
v1_events = st.builds(
    V1Event,
    codes,
    st.integers(0, 2**64 - 1),
    stamps,
    st.integers(0, 2**63 - 1),
    st.integers(0, 2),
    properties_v1,
    st.none(),
)
v2_events = st.builds(
    V2Event,
    st.integers(0, 5),
    st.integers(0, 2**64 - 1) | st.binary(min_size=1, max_size=128),
    stamps,
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2),
    st.binary(max_size=64),
    st.dictionaries(st.binary(min_size=1, max_size=31), st.binary(max_size=255), max_size=16).map(
        lambda d: tuple(sorted(d.items()))
    ),
)


def new_intake() -> Intake:
    return K.intake(0, 1 << 20, EVENTS_MAX)


def take(intake: Intake, data: bytes, link: int = 9) -> tuple[int, int]:
    frames = K.frame_scan(data, PAYLOAD_MAX)
    assert frames.error == lay.UM_SCAN_OK
    assert frames.consumed == len(data)
    return intake.take(CATALOG, data, frames, 0, link)


def sealed(intake: Intake, first_seq: int = 1) -> bytes:
    return bytes(intake.seal(0, 1, 1, 10**18, first_seq))


def batches(entry: bytes) -> list[tuple[lay.BatchHead, bytes]]:
    head = lay.EntryHead._make(lay.ENTRY.unpack_from(entry))
    assert len(entry) == lay.ENTRY.size + head.body_len
    found, at = [], lay.ENTRY.size
    while at < len(entry):
        batch = lay.BatchHead._make(lay.BATCH.unpack_from(entry, at))
        at += lay.BATCH.size
        found.append((batch, entry[at : at + batch.rows_len]))
        at += batch.rows_len
    assert len(found) == head.batch_count
    assert sum(batch.row_count for batch, _ in found) == head.row_count
    return found


def responses(replies: list[Reply], protocol: int) -> list[tuple[int, int, bytes]]:
    """(status, request id, payload) of every answer."""
    found = []
    for reply in replies:
        table = K.response_scan(reply.data, protocol, PAYLOAD_MAX)
        assert table.consumed == len(reply.data)
        for n in range(len(table)):
            frame = table[n]
            found.append((frame.status, frame.request_id, reply.data[frame.payload_off :][: frame.payload_len]))
    return found


# ---- rows ----


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(v1_events, max_size=12), min_size=1, max_size=5), st.booleans())
def test_v1_batches_become_the_rows_of_the_model(requests: list[list[V1Event]], sync: bool) -> None:
    intake = new_intake()
    data = b"".join(v1_ingest(events, 1 + n, sync) for n, events in enumerate(requests))
    assert take(intake, data) == (lay.UM_STOP_END, len(requests))
    expected = []
    for events in requests:
        known = [event for event in events if event.code in ALIVE]
        rows = [
            lay.encode_row(e.account, e.timestamp_ns, e.value, ALIVE[e.code], e.operation, properties=e.properties)
            for e in known
        ]
        if rows:
            expected.append((len(rows), lay.UM_BATCH_V1, b"".join(rows)))
    entry = sealed(intake)
    assert [(b.row_count, b.flags, rows) for b, rows in batches(entry)] == expected
    assert K.entry_verify(entry)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(v2_events, max_size=20),
    st.sampled_from([((0, 0), 0), ((1, 2), 5), ((0, 7), 2**64 - 1)]),
    st.integers(0, 3),
    st.booleans(),
)
def test_v2_batch_becomes_the_rows_of_the_model(
    events: list[V2Event], identity: tuple[tuple[int, int], int], settled_below: int, sync: bool
) -> None:
    session, number = identity
    settled_below = settled_below if number else 0
    dictionary = (b"unknown", *CODES, b"tokens")  # a code may stand twice
    payload = v2_ingest_payload(dictionary, events, session, number, settled_below)
    intake = new_intake()
    assert take(intake, v2_ingest(K, payload, 3, sync)) == (lay.UM_STOP_END, 1)
    rows = [e._replace(metric=ALIVE[dictionary[e.metric]]).encode() for e in events if dictionary[e.metric] in ALIVE]
    entry = sealed(intake)
    found = batches(entry)
    if rows or number:
        batch, body = found[0]
        assert (batch.session_hi, batch.session_lo) == session
        assert (batch.number, batch.settled_below, batch.flags) == (number, settled_below, 0)
        assert (batch.row_count, body) == (len(rows), b"".join(rows))
    assert len(found) == (1 if rows or number else 0)
    assert K.entry_verify(entry)


# ---- streams ----


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_frames_do_not_depend_on_how_the_stream_is_cut(data: st.DataObject) -> None:
    frame = st.one_of(
        st.builds(v1_request, st.integers(0, 255), st.binary(max_size=60), st.integers(0, 2**32 - 1)),
        st.builds(
            lambda t, b, f: v2_frame(K, t, b, 5, f), st.integers(0, 255), st.binary(max_size=60), st.integers(0, 255)
        ),
    )
    stream = b"".join(data.draw(st.lists(frame, max_size=8))) + data.draw(st.sampled_from([b"", b"\x01", b"garbage!"]))
    whole = K.frame_scan(stream, 1000)
    expected = [whole[n] for n in range(len(whole))]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    found, base, error = [], 0, 0
    for end in [*cuts, len(stream)]:
        table = K.frame_scan(stream[base:end], 1000)
        for n in range(len(table)):
            one = table[n]
            one.offset, one.payload_off = one.offset + base, one.payload_off + base
            found.append(one)
        base += table.consumed
        error = table.error
    assert found == expected
    assert (base, error) == (whole.consumed, whole.error)


def test_frames_beyond_the_first_table_are_found() -> None:
    stream = v1_request(0x40, b"") * 5000
    table = K.frame_scan(stream, 100)
    assert len(table) == 5000
    assert table[4999].offset == 4999 * 16


@pytest.mark.parametrize(
    ("data", "error", "protocol", "request_id"),
    [
        (b"GET / HTTP/1.1", lay.UM_SCAN_BAD_MAGIC, 0, 0),
        (p.V1_REQUEST_HEADER.pack(p.V1_MAGIC, 2, 0, 0, 0, 77), lay.UM_SCAN_BAD_VERSION, 1, 77),
        (p.V1_REQUEST_HEADER.pack(p.V1_MAGIC, 1, 0, 0, 1001, 77), lay.UM_SCAN_TOO_LARGE, 1, 77),
        (p.V1_REQUEST_HEADER.pack(p.V1_MAGIC, 1, 0, 0, 2**32 - 1, 77), lay.UM_SCAN_TOO_LARGE, 1, 77),
        (v2_frame(K, 1, b"abc", 78)[:-1] + b"d", lay.UM_SCAN_BAD_CRC, 2, 78),
        (v2_frame(K, 1, b"abc", 78).replace(b"\x4e", b"\x4f", 1), lay.UM_SCAN_BAD_CRC, 2, 0),
        (v2_frame(K, 1, bytes(1001), 79), lay.UM_SCAN_TOO_LARGE, 2, 79),
    ],
)
def test_bytes_that_are_no_frame_end_the_scan(data: bytes, error: int, protocol: int, request_id: int) -> None:
    good = v1_request(0x22, b"", 5)
    table = K.frame_scan(good + data, 1000)
    assert (len(table), table.consumed) == (1, len(good))
    assert (table.error, table.error_protocol, table.error_request_id) == (error, protocol, request_id)


def test_responses_of_both_protocols_are_scanned() -> None:
    stream = v1_response(3, b"abc", 8) + v1_response(p.V1_TYPE_ALERT_PUSH, b"", 0) + v1_response(0, b"cut")[:-1]
    table = K.response_scan(stream, 1, 100)
    assert [(f.status, f.type, f.request_id, f.payload_len) for f in (table[0], table[1])] == [
        (3, 0, 8, 3),
        (p.V1_TYPE_ALERT_PUSH, p.V1_TYPE_ALERT_PUSH, 0, 0),
    ]
    assert len(table) == 2
    table = K.response_scan(v2_frame(K, 0x8B, b"x", 0, status=1), 2, 100)
    assert (table[0].type, table[0].status) == (0x8B, 1)
    assert K.response_scan(v1_response(0, b""), 2, 100).error == lay.UM_SCAN_BAD_MAGIC


# ---- refusals ----

OK_EVENT = V1Event(b"tokens", 5, 1, 1)
MALFORMED_V1 = {
    "no head": b"\0" * 7,
    "events missing": p.V1_INGEST_HEAD.pack(1, 0),
    "trailing byte": v1_ingest_payload([OK_EVENT]) + b"\0",
    "count beyond the payload": p.V1_INGEST_HEAD.pack(2**32 - 1, 2**32 - 1) + OK_EVENT.encode(),
    "empty code": v1_ingest_payload([OK_EVENT._replace(code=b"")]),
    "code without NUL": v1_ingest_payload([OK_EVENT._replace(code=b"c" * 64)]),
    "operation 3": v1_ingest_payload([OK_EVENT._replace(operation=3)]),
    "17 properties": v1_ingest_payload([OK_EVENT._replace(properties=tuple((b"%d" % n, b"") for n in range(17)))]),
    "property left over": v1_ingest_payload([OK_EVENT._replace(properties=((b"k", b"v"),), prop_count=0)]),
    "property missing": v1_ingest_payload([OK_EVENT._replace(prop_count=1)]),
    "key twice": v1_ingest_payload([OK_EVENT._replace(properties=((b"k", b"v"), (b"a", b""), (b"k", b"w")))]),
    "empty key": v1_ingest_payload([OK_EVENT._replace(properties=((b"", b"v"),))]),
    "key without NUL": v1_ingest_payload([OK_EVENT._replace(properties=((b"k" * 32, b"v"),))]),
    "value without NUL": v1_ingest_payload([OK_EVENT._replace(properties=((b"k", b"v" * 64),))]),
}


@pytest.mark.parametrize("name", MALFORMED_V1)
def test_malformed_v1_batch_is_answered_with_an_error_and_stops_the_link(name: str) -> None:
    good = v1_ingest([OK_EVENT], 1)
    data = good + v1_request(p.V1_TYPE_INGEST_SYNC, MALFORMED_V1[name], 2) + good
    intake = new_intake()
    assert take(intake, data) == (lay.UM_STOP_MALFORMED, 2)
    [(status, request_id, message)] = responses(intake.immediate(), 1)
    assert (status, request_id) == (p.V1_STATUS_ERROR, 2)
    assert b"malformed" in message
    assert intake.row_count == 1
    assert len(batches(sealed(intake))) == 1


ROW = V2Event(0, 5, 1)
FLAG_OPEN = p.V2_BATCH_FLAG_OPEN_SESSION
GOOD_V2 = v2_ingest_payload([b"tokens"], [ROW])
MALFORMED_V2 = {
    "no head": b"\0" * 47,
    "trailing row": GOOD_V2 + ROW.encode(),
    "rows cut": GOOD_V2[:-1],
    "number without session": v2_ingest_payload([b"tokens"], [ROW], number=1),
    "settled without session": v2_ingest_payload([b"tokens"], [ROW], settled_below=1),
    "session without number": v2_ingest_payload([b"tokens"], [ROW], (1, 1)),
    "opens no session": v2_ingest_payload([], [], batch_flags=FLAG_OPEN),
    "opens with a number": v2_ingest_payload([], [], (1, 1), 1, batch_flags=FLAG_OPEN),
    "opens with an event": v2_ingest_payload([b"tokens"], [ROW], (1, 1), batch_flags=FLAG_OPEN),
    "unknown batch flag": v2_ingest_payload([], [], (1, 1), 1, batch_flags=2),
    "empty code": v2_ingest_payload([b""], []),
    "code of 64": v2_ingest_payload([b"c" * 64], []),
    "dictionary beyond its count": v2_ingest_payload([b"tokens" * 5], []).replace(b"\x01\0\0\0", b"\0\0\0\0", 1),
    "dirty padding": v2_ingest_payload([b"tokens"], [])[:-1] + b"\x01",
    "more rows than events": p.V2_INGEST_HEAD.pack(0, 0, 0, 0, 1, 1, 0, 64, 8) + b"\x06tokens\0" + ROW.encode() * 2,
}


@pytest.mark.parametrize("name", MALFORMED_V2)
def test_malformed_v2_batch_is_answered_with_an_error_and_stops_the_link(name: str) -> None:
    intake = new_intake()
    assert take(intake, v2_ingest(K, MALFORMED_V2[name], 2, sync=False)) == (lay.UM_STOP_MALFORMED, 1)
    [(status, request_id, body)] = responses(intake.immediate(), 2)
    assert (status, request_id) == (p.V2_STATUS_ERROR, 2)
    error = msgpack.unpackb(body)
    assert set(error) == {"code", "message", "fix"}
    assert error["code"] == "bad_request"
    assert "malformed" in error["message"]


def refused(data: bytes, protocol: int) -> tuple[int, bytes]:
    """The answer to a request that is refused whole while the link goes on."""
    intake = new_intake()
    follower = v1_request(p.V1_TYPE_METRIC_LIST, b"", 9)
    assert take(intake, data + follower) == (lay.UM_STOP_CONTROL, 1)
    assert (intake.batch_count, intake.row_count, intake.used_bytes) == (0, 0, 0)
    [(status, _, payload)] = responses(intake.immediate(), protocol)
    assert intake.immediate() == []
    return status, payload


def test_v1_value_beyond_the_signed_range_refuses_the_request() -> None:
    status, message = refused(v1_ingest([OK_EVENT, OK_EVENT._replace(value=2**63)]), 1)
    assert status == p.V1_STATUS_ERROR
    assert message.startswith(b"event 1: the value is above 9223372036854775807;")


def test_v1_timestamp_below_zero_refuses_the_request() -> None:
    status, message = refused(v1_ingest([OK_EVENT._replace(timestamp_ns=-1)]), 1)
    assert status == p.V1_STATUS_ERROR
    assert message.startswith(b"event 0: the timestamp is below 0;")


def test_batch_over_the_limit_is_refused_whole() -> None:
    _, message = refused(v1_ingest([OK_EVENT] * (EVENTS_MAX + 1)), 1)
    assert message.startswith(b"101 events are more than this node takes in one request;")
    _, body = refused(v2_ingest(K, v2_ingest_payload([b"tokens"], [ROW] * (EVENTS_MAX + 1))), 2)
    assert msgpack.unpackb(body)["code"] == "too_large"


@pytest.mark.parametrize(
    "row",
    [
        ROW._replace(timestamp_ns=-1),
        ROW._replace(operation=3),
        ROW._replace(metric=1),
        ROW._replace(properties=((b"b", b""), (b"a", b""))),
        ROW._replace(properties=((b"a", b""), (b"a", b"x"))),
        ROW._replace(properties=((b"", b"x"),)),
        ROW._replace(account=b""),
        ROW._replace(account=b"a" * 129),
        ROW._replace(id=b"i" * 65),
    ],
)
def test_v2_row_that_is_none_refuses_the_request_and_names_the_event(row: V2Event) -> None:
    status, body = refused(v2_ingest(K, v2_ingest_payload([b"tokens"], [ROW, row])), 2)
    assert status == p.V2_STATUS_ERROR
    assert msgpack.unpackb(body)["message"].startswith("event 1: ")


# ---- answers ----


def v2_result(payload: bytes) -> tuple[dict[str, Any], list[tuple[int, int]]]:
    values = p.V2_INGEST_RESULT.unpack_from(payload)
    result = dict(zip(p.FIELDS["V2_INGEST_RESULT"], values, strict=True))
    exceptions = list(p.V2_EXCEPTION.iter_unpack(payload[p.V2_INGEST_RESULT.size :]))
    assert len(exceptions) == result["exception_count"]
    return result, exceptions


def test_async_requests_are_answered_when_the_entry_is_sealed() -> None:
    intake = new_intake()
    one, two = v1_ingest([OK_EVENT] * 3, 1, sync=False), v1_ingest([OK_EVENT] * 2, 2, sync=False)
    nothing, bad = v1_ingest([], 3), v1_ingest([OK_EVENT._replace(value=2**63)], 4, sync=False)
    assert take(intake, one + nothing) == (lay.UM_STOP_END, 2)
    assert responses(intake.immediate(), 1) == [(0, 3, p.V1_INGEST_RESULT.pack(0, 0, 0))]
    assert take(intake, two + bad) == (lay.UM_STOP_END, 2)
    assert [(status, number) for status, number, _ in responses(intake.immediate(), 1)] == [(p.V1_STATUS_ERROR, 4)]
    assert intake.immediate() == []
    sealed(intake, first_seq=1000)
    assert responses(intake.immediate(), 1) == [
        (0, 1, p.V1_INGEST_RESULT.pack(3, 0, 1002)),
        (0, 2, p.V1_INGEST_RESULT.pack(2, 0, 1004)),
    ]
    assert intake.immediate() == []


def test_unknown_metrics_are_left_out_and_told() -> None:
    intake = new_intake()
    v1 = v1_ingest([V1Event(b"nope", 1), OK_EVENT, V1Event(b"deleted", 1)], 1, sync=False)
    v2 = v2_ingest(
        K, v2_ingest_payload([b"tokens", b"nope"], [ROW, ROW._replace(metric=1), ROW]), 2, sync=False, verdicts=True
    )
    take(intake, v1, link=1)
    take(intake, v2, link=2)
    sealed(intake)
    first, second = intake.immediate()
    assert responses([first], 1) == [(p.V1_STATUS_UNKNOWN_METRIC, 1, p.V1_INGEST_RESULT.pack(1, 0, 1))]
    [(status, _, payload)] = responses([second], 2)
    result, exceptions = v2_result(payload)
    assert status == p.V2_STATUS_OK
    assert (result["stored"], result["refused"], result["last_offset"]) == (2, 1, 3)
    assert exceptions == [(1, lay.UM_V_UNKNOWN_METRIC)]


def test_neighbouring_answers_on_one_link_are_joined() -> None:
    intake = new_intake()
    for link in (1, 1, 2, 1):
        take(intake, v1_ingest([OK_EVENT], link, sync=False), link)
    sealed(intake)
    assert [(reply.link, len(reply.data)) for reply in intake.immediate()] == [(1, 56), (2, 28), (1, 28)]


def test_many_answers_are_all_given() -> None:
    intake = new_intake()
    for link in range(3000):
        take(intake, v1_ingest([OK_EVENT], link, sync=False), link)
    sealed(intake)
    replies = intake.immediate()
    assert [reply.link for reply in replies] == list(range(3000))
    assert responses(replies[-1:], 1) == [(0, 2999, p.V1_INGEST_RESULT.pack(1, 0, 3000))]


# ---- bounds ----


def test_full_entry_takes_no_more_and_goes_on_after_clear() -> None:
    data = v1_ingest([OK_EVENT] * 10)
    intake = K.intake(0, 48 + len(data) - 16 + 400, EVENTS_MAX)
    frames = K.frame_scan(data * 3, PAYLOAD_MAX)
    assert intake.take(CATALOG, data * 3, frames, 0, 1) == (lay.UM_STOP_FULL, 2)
    assert intake.row_count == 20
    sealed(intake)
    intake.clear()
    assert intake.take(CATALOG, data * 3, frames, 2, 1) == (lay.UM_STOP_END, 3)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_frames_are_taken_or_refused_and_the_entry_stays_well_formed(data: st.DataObject) -> None:
    v1 = st.lists(v1_events, max_size=4).map(lambda events: v1_ingest(events, 1))
    v2 = st.lists(v2_events, max_size=4).map(
        lambda events: v2_ingest_payload((b"unknown", *CODES, b"y"), events, (1, 1), 1)
    )
    frame = data.draw(v1 | v2)
    head = 16 if frame.startswith(p.V1_MAGIC.to_bytes(4, "little")) else 0
    payload = bytearray(frame[head:])
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(payload) - 1))
        payload[at] = data.draw(st.integers(0, 255))
    payload = payload[: len(payload) - data.draw(st.sampled_from([0, 0, 0, 1, 8, 96]))]
    request = v1_request(1, bytes(payload)) if head else v2_ingest(K, bytes(payload), verdicts=True)
    intake = new_intake()
    stop, _ = take(intake, request)
    assert stop in (lay.UM_STOP_END, lay.UM_STOP_MALFORMED)
    refusals = responses(intake.immediate(), 1 if head else 2)
    entry = sealed(intake)
    assert K.entry_verify(entry) or not batches(entry)
    assert len(refusals) <= 1


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 100))
def test_garbage_never_breaks_a_scan(data: bytes, payload_max: int) -> None:
    for magic in (b"", p.V1_MAGIC.to_bytes(4, "little"), p.V2_MAGIC.to_bytes(4, "little")):
        table = K.frame_scan(magic + data, payload_max)
        assert table.consumed <= len(magic + data)
        for protocol in (1, 2):
            assert K.response_scan(magic + data, protocol, payload_max).consumed <= len(magic + data)
