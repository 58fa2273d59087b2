"""Claims about the SDK's bytes, without a socket: what is sent is what a server's kernels read, and whatever arrives
is either understood or refused with a ProtocolError."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.client_server import response
from unimeter.client import decode
from unimeter.client.batch import BatchWriter, encode_event, encode_events, encode_row
from unimeter.client.link import Link
from unimeter.client.protocol import (
    Protocol,
    Response,
    decode_error,
    decode_ingest,
    decode_map,
    decode_redirect,
    encode_map,
    encode_request,
)
from unimeter.client.session import WINDOW, Backoff, Session
from unimeter.client.topology import group_of, group_of_row
from unimeter.client.values import I64_MAX, I64_MIN, Event
from unimeter.errors import InvalidArgument, ProtocolError, ServerError
from unimeter.kernels import load
from unimeter.kernels import protocol as wire
from unimeter.kernels.reference import rows as reference_rows

KERNELS = load()
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
EVENTS = st.builds(
    Event,
    account_id=st.one_of(st.integers(0, 2**64 - 1), TEXT.filter(bool)),
    metric_code=st.sampled_from(["calls", "bytes", "seats"]),
    value=st.integers(I64_MIN, I64_MAX),
    timestamp=st.one_of(st.none(), st.integers(1, 2**63 - 1)),
    properties=st.dictionaries(TEXT.filter(lambda key: 0 < len(key.encode()) <= 31), TEXT, max_size=16),
    operation=st.sampled_from([None, "add", "remove"]),
    id=st.one_of(st.none(), st.binary(min_size=1, max_size=64)),
)
PAYLOADS = st.binary(max_size=200)


@given(EVENTS, st.integers(0, 65535))
def test_a_row_reads_back_as_the_event_it_was(event: Event, metric: int) -> None:
    view = reference_rows.parse(encode_row(event, metric))
    assert view is not None, "the server would refuse it"
    account = event.account_id
    assert view.key == (account.encode() if isinstance(account, str) else account)
    assert (view.metric, view.value, view.timestamp_ns) == (metric, event.value, event.timestamp or 0)
    assert view.operation == {None: 0, "add": 1, "remove": 2}[event.operation]
    assert view.id == event.id
    assert {key.decode(): value.decode() for key, value in view.properties} == event.properties


@given(EVENTS, st.integers(1, 9))
def test_a_single_event_is_encoded_as_one_of_many(event: Event, groups: int) -> None:
    def of_text(text: bytes) -> int:
        return group_of(text, groups, KERNELS)

    (among,) = encode_events([event], groups=groups, group_of_text=of_text)
    alone = encode_event(event, lambda key: group_of(key, groups, KERNELS))
    for field in ("first", "count", "dictionary_count", "dictionary", "rows", "group"):
        assert getattr(alone, field) == getattr(among, field)
    assert alone.place(0) == among.place(0) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        Event(-1, "m"),
        Event(True, "m"),
        Event("", "m"),
        Event(1, ""),
        Event(1, "m", 2**63),
        Event(1, "m", 1, 0),
        Event(1, []),
        Event(1, 5),
    ],
)
def test_what_a_single_event_has_wrong_is_said_as_among_many(wrong: Event) -> None:
    said: list[str] = []
    for work in (
        lambda: encode_event(wrong, lambda _: 0),
        lambda: encode_events([wrong], groups=6, group_of_text=lambda _: 0),
    ):
        try:
            work()
        except InvalidArgument as error:
            said.append(str(error))
    assert said in ([], 2 * said[:1])


@given(st.lists(EVENTS, max_size=40), st.integers(1, 10), st.integers(8192, 20000))
def test_batches_hold_every_event_once_in_order_within_the_limits(
    events: list[Event], events_max: int, bytes_max: int
) -> None:
    batches = encode_events(events, events_max, bytes_max)
    place = 0
    for batch in batches:
        assert batch.first == place
        assert 0 < batch.count <= events_max
        assert len(batch.rows) + len(batch.dictionary) <= bytes_max
        codes, at = [], 0
        for _ in range(batch.dictionary_count):
            codes.append(batch.dictionary[at + 1 : at + 1 + batch.dictionary[at]].decode())
            at += 1 + batch.dictionary[at]
        assert len(batch.dictionary) == at + -at % 8
        at = 0
        for event in events[place : place + batch.count]:
            view = reference_rows.parse(
                batch.rows[at:], 0, 32 + int.from_bytes(batch.rows[at + 30 : at + 32], "little")
            )
            assert view is not None
            assert codes[view.metric] == event.metric_code
            assert view.value == event.value
            at += len(view.raw)
        assert at == len(batch.rows)
        place += batch.count
    assert place == len(events)


@given(st.lists(EVENTS, max_size=40), st.integers(1, 10), st.integers(2, 8))
def test_batches_of_several_groups_are_of_one_group_each_and_keep_the_place_of_every_event(
    events: list[Event], events_max: int, groups: int
) -> None:
    batches = encode_events(events, events_max, 20_000, groups, lambda text: group_of(text, groups, KERNELS))
    seen: dict[int, int] = {}
    last_of_group: dict[int, int] = {}
    for batch in batches:
        at = 0
        for index in range(batch.count):
            place = batch.place(index)
            event = events[place]
            row = batch.rows[at : at + 32 + int.from_bytes(batch.rows[at + 30 : at + 32], "little")]
            view = reference_rows.parse(row)
            assert view is not None
            assert view.value == event.value
            assert group_of(view.key, groups, KERNELS) == group_of_row(row, groups, KERNELS) == batch.group
            assert last_of_group.get(batch.group, -1) < place, "the order within a group is kept"
            last_of_group[batch.group] = seen[place] = place
            at += len(row)
        assert at == len(batch.rows)
    assert sorted(seen) == list(range(len(events)))


def test_the_group_of_an_account_is_as_documented() -> None:
    assert [group_of(account, 8, KERNELS) for account in (0, 7, 8, 255, 256, 2**64 - 1)] == [0, 7, 0, 7, 0, 7]
    assert [group_of(account, 3, KERNELS) for account in (0, 2, 3, 255, 256, 258)] == [0, 2, 0, 0, 0, 2]
    assert group_of(b"acme", 5, KERNELS) == KERNELS.hash64(b"acme") % 256 % 5
    frame = encode_request(KERNELS, 2, 1, b"", group=2)
    assert wire.V2_HEADER.unpack_from(frame)[wire.FIELDS["V2_HEADER"].index("group_hint")] == 3


def test_a_request_is_a_frame_that_the_server_finds() -> None:
    frame = encode_request(KERNELS, 3, 77, b"body", flags=2, deadline_ms=9)
    found = KERNELS.frame_scan(frame, 1000)
    assert (len(found), found.consumed, found.error) == (1, len(frame), 0)
    one = found[0]
    assert (one.offset, one.payload_off, one.payload_len, one.request_id) == (0, 32, 4, 77)
    assert (found[0].type, found[0].flags, found[0].deadline_ms) == (3, 2, 9)


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 3), PAYLOADS), max_size=8), st.data())
def test_answers_are_found_however_the_bytes_are_cut(
    answers: list[tuple[int, int, bytes]], data: st.DataObject
) -> None:
    stream = b"".join(response(2, status, request_id, payload) for request_id, status, payload in answers)
    protocol = Protocol(KERNELS)
    found: list[Response] = []
    at = 0
    while at < len(stream):
        size = data.draw(st.integers(1, len(stream) - at))
        found += protocol.receive(stream[at : at + size])
        at += size
    assert [(item.request_id, item.status, item.payload) for item in found] == answers


@given(st.binary(max_size=300))
def test_garbage_is_refused_or_waits_for_more(data: bytes) -> None:
    with suppress(ProtocolError):
        assert Protocol(KERNELS).receive(data) == []


@given(PAYLOADS, st.integers(0, 10_000), st.integers(1, 255))
def test_a_damaged_answer_is_never_taken_for_whole(payload: bytes, place: int, change: int) -> None:
    frame = bytearray(response(2, 0, 5, payload))
    frame[place % len(frame)] ^= change
    with suppress(ProtocolError):
        assert Protocol(KERNELS).receive(bytes(frame)) == []


@given(st.one_of(st.binary(max_size=100), st.from_type(dict).map(lambda _: b"")))
def test_any_payload_decodes_or_is_refused(payload: bytes) -> None:
    for decoder in (decode_error, decode_redirect, decode_map, lambda data: decode_ingest(data, 3)):
        with suppress(ProtocolError):
            decoder(payload)


LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), TEXT, st.binary(max_size=5))
BODIES = st.dictionaries(
    st.sampled_from(
        ["rows", "events", "alerts", "metrics", "start", "end", "group", "index", "count", "sum", "code", "message",
         "server", "node_id", "leaders", "nodes", "epoch", "groups", "partitions", "features", "next", "min", "max", "last", "id", "thresholds", "dimensions"]
    ),
    st.recursive(LEAVES, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3))),
)  # fmt: skip


@given(BODIES)
@settings(max_examples=200)
def test_any_map_decodes_or_is_refused(body: dict[str, object]) -> None:
    decoded = decode_map(encode_map(body))
    for decoder in (
        decode.decode_hello,
        decode.decode_topology,
        decode.decode_rows,
        decode.decode_events,
        decode.decode_alerts,
        lambda found: decode.decode_usage(found, 1, "calls"),
        lambda found: [decode.decode_metric(metric) for metric in decode.Fields(found).maps("metrics")],
    ):
        with suppress(ProtocolError):
            decoder(decoded)


def test_an_answer_that_does_not_add_up_is_refused() -> None:
    good = wire.V2_INGEST_RESULT.pack(2, 1, 0, 0, 99, 0, 1) + wire.V2_EXCEPTION.pack(2, 1)
    assert decode_ingest(good, 3).exceptions == ((2, 1),)
    for bad, events in ((good, 4), (good[:-8], 3), (good + b"\0" * 8, 3), (good, 2)):
        with pytest.raises(ProtocolError):
            decode_ingest(bad, events)


def test_an_error_answer_becomes_its_exception() -> None:
    body = {"code": "too_large", "message": "too much", "fix": "send less"}
    error = decode_error(encode_map(body))
    assert (type(error).__name__, error.code, error.fix) == ("TooLarge", "too_large", "send less")
    assert "send less" in str(error)
    unknown = decode_error(encode_map({"code": "brand_new", "message": "what is that"}))
    assert type(unknown) is ServerError
    assert unknown.code == "brand_new"


# ---- sessions ----


def batch_of(count: int = 1) -> list[Event]:
    return [Event(1, "calls", 1)] * count


@given(st.integers(1, WINDOW), st.lists(st.integers(0, 1000), max_size=300))
def test_a_session_stays_within_its_window_and_never_repeats_a_number(window: int, choices: list[int]) -> None:
    session = Session(KERNELS, 7, window)
    session.is_open = True
    flying: list[int] = []
    given_out: list[int] = []
    for choice in choices:
        if session.has_room() and choice % 2:
            batch = encode_events(batch_of())[0]
            session.admit(batch, len(given_out) + 1, sync=True)
            assert batch.frame is not None
            head = wire.V2_INGEST_HEAD.unpack_from(batch.frame, 32)
            assert head[1:3] == (7, batch.number)
            assert head[3] == session.settled_below
            assert batch.number < head[3] + window
            assert all(number >= head[3] for number in flying), "what is in flight is not settled"
            flying.append(batch.number)
            given_out.append(batch.number)
        elif flying:
            session.settle(flying.pop(choice % len(flying)))
        session._check()
        assert session.in_flight == len(flying)
    assert given_out == list(range(1, len(given_out) + 1))


def test_waits_grow_to_a_bound_and_differ() -> None:
    backoff = Backoff(Random(1), 0.1, 1.0)
    waits = [backoff.wait_seconds() for _ in range(10)]
    bounds = [0.1, 0.2, 0.4, 0.8, *[1.0] * 6]
    assert all(bound / 2 <= wait <= bound for wait, bound in zip(waits, bounds, strict=True))
    assert len(set(waits)) == len(waits)


def test_one_batch_has_a_dictionary_of_its_own_codes() -> None:
    writer = BatchWriter(10, 10_000)
    for code in (b"calls", b"bytes", b"calls"):
        writer.add(encode_row(Event(1, code.decode()), writer.metric(code)))
    batch = writer.take()
    assert (batch.dictionary_count, batch.dictionary) == (2, b"\5calls\5bytes\0\0\0\0")
    assert writer.metric(b"bytes") == 0, "the next batch begins anew"


def test_too_many_properties_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="at most 16"):
        encode_row(Event(1, "calls", properties={f"k{n}": "v" for n in range(17)}), 0)


class Wire(asyncio.Transport):
    """Where a link writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return False


def test_a_request_that_was_given_up_can_be_sent_again_at_once() -> None:
    async def work() -> None:
        link, line = Link(KERNELS, "127.0.0.1:7001", None), Wire()
        link.connection_made(line)
        given_up = link.start(7, b"frame")
        given_up.cancel()
        again = link.start(7, b"frame")
        assert line.written == [b"frame", b"frame"]
        await asyncio.sleep(0)
        link.data_received(response(wire.V2_TYPE_HELLO, 0, 7, b""))
        assert (await again).request_id == 7 and given_up.cancelled()
        with pytest.raises(AssertionError, match="two who wait"):
            link.start(8, b"frame"), link.start(8, b"frame")

    asyncio.run(work())
