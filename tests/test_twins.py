"""The C kernels and their plain-Python twin answer alike, byte for byte, whatever comes in.

UNIMETER_EXAMPLES=N runs N times as many examples of everything.
"""

from __future__ import annotations

import os
import struct
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from tests.twin_plays import Author
from tests.twin_strategies import (
    BASE,
    CODES,
    DAY,
    HOUR,
    I64_MAX,
    I64_MIN,
    LATER,
    METRICS,
    ROOMY,
    U64_MAX,
    Event,
    Play,
    Request,
    Turn,
    plays,
    requests,
    turns,
    v1_batch,
    v1_events,
    v1_frame,
    v2_batch,
    v2_events,
    v2_frame,
)
from tests.twins import NATIVE, REFERENCE, Twins, both, image_piece, same
from unimeter.kernels import layout as lay
from unimeter.kernels.api import Limits, QuerySpec

MORE = float(os.environ.get("UNIMETER_EXAMPLES", "1"))


def examples(count: int) -> settings:
    return settings(
        max_examples=max(1, int(count * MORE)),
        deadline=None,
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )


def roomy(turns: list[Turn]) -> Play:
    return Play(ROOMY, 256, 100, HOUR, turns)


# ---- checksums, periods ----


@examples(100)
@given(st.binary(max_size=300), st.integers(0, 2**32 - 1), st.integers(0, U64_MAX))
def test_checksums_agree(data: bytes, crc: int, seed: int) -> None:
    same([k.crc32c(data, crc) for k in both()])
    same([k.hash64(data, seed) for k in both()])
    same([k.hash128(data, seed) for k in both()])


@examples(200)
@given(st.integers(0, 4), st.integers(0, 31), st.integers(I64_MIN, I64_MAX))
def test_period_bounds_agree(period_type: int, billing_day: int, timestamp: int) -> None:
    start, end = same([k.period_bounds(period_type, billing_day, timestamp) for k in both()])
    assert start <= timestamp <= end


# ---- frames ----

frames = st.one_of(
    st.builds(v1_frame, st.integers(0, 255), st.integers(0, 2**32 - 1), st.binary(max_size=40), st.integers(0, 65535)),
    st.builds(
        v2_frame,
        st.integers(0, 255),
        st.integers(0, 2**32 - 1),
        st.binary(max_size=40),
        st.integers(0, 255),
        st.integers(0, 1000),
        st.integers(0, 3),
    ),
)


@st.composite
def mutated(draw: st.DrawFn, source: st.SearchStrategy[bytes]) -> bytes:
    """Some bytes changed, a piece cut off or inserted; or nothing of it."""
    data = bytearray(draw(source))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.integers(0, 3))
        if kind == 0 and data:
            data[at] = draw(st.integers(0, 255))
        elif kind == 1 and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == 2:
            del data[at:]
        else:
            data[at:at] = draw(st.binary(max_size=9))
    return bytes(data)


def _table(table: object) -> object:
    found = [table[n] for n in range(len(table))]  # type: ignore[index,arg-type]
    names = ("consumed", "error", "error_request_id", "error_protocol")
    return found, [getattr(table, name) for name in names]


@examples(300)
@given(mutated(st.lists(frames, max_size=5).map(b"".join)), st.integers(0, 60))
def test_frame_scans_agree(data: bytes, payload_max: int) -> None:
    same([_table(k.frame_scan(data, payload_max)) for k in both()])


responses = st.builds(
    lambda status, number, payload: struct.pack("<B3xII", status, number, len(payload)) + payload,
    st.integers(0, 255),
    st.sampled_from([0, 1, 7]),
    st.binary(max_size=20),
)


@examples(100)
@given(mutated(st.lists(responses, max_size=4).map(b"".join)), mutated(st.lists(frames, max_size=4).map(b"".join)))
def test_response_scans_agree(v1: bytes, v2: bytes) -> None:
    same([_table(k.response_scan(v1, 1, 100)) for k in both()])
    same([_table(k.response_scan(v2, 2, 100)) for k in both()])


# ---- intake ----

v1_payloads = st.lists(v1_events(), max_size=5).map(v1_batch)
v2_payloads = st.builds(
    v2_batch,
    st.lists(v2_events(), max_size=5),
    st.sampled_from([(0, 0), (0, 0), (1, 2)]),
    st.sampled_from([0, 1]),
    st.sampled_from([0, 1]),
    st.sampled_from([0, 0, 1, 2]),
)
ingest_requests = st.one_of(
    requests(),
    st.builds(
        lambda payload, kind: Request(1, v1_frame(kind, 9, payload)), mutated(v1_payloads), st.sampled_from([0, 1])
    ),
    st.builds(
        lambda payload, flags: Request(2, v2_frame(2, 9, payload, flags)), mutated(v2_payloads), st.integers(0, 3)
    ),
    st.just(Request(3, v1_frame(0x22, 5, b""))),
)


@examples(120)
@given(st.lists(ingest_requests, max_size=8), st.sampled_from([1 << 20, 3000, 800, 200]), st.data())
def test_intakes_take_refuse_and_seal_alike(batch: list[Request], bytes_max: int, data: st.DataObject) -> None:
    twins = Twins(roomy([]), intake_bytes=bytes_max)
    for request in batch:
        twins.take(request)
        if data.draw(st.booleans()):
            twins.pair(lambda twin: twins.intakes[twin].immediate())
    entry = twins.pair(lambda twin: twins.intakes[twin].seal(0, 1, 1, BASE, 1))
    assert twins.pair(lambda twin: twins.kernels[twin].entry_verify(entry))
    twins.pair(lambda twin: twins.intakes[twin].immediate())
    applied = twins.apply(entry)
    twins.pair(lambda twin: twins.intakes[twin].answers(applied[twin]))


@examples(40)
@given(st.lists(requests(), min_size=1, max_size=6))
def test_frames_of_one_buffer_are_taken_alike(batch: list[Request]) -> None:
    data = b"".join(request.frame for request in batch)
    twins = Twins(roomy([]), intake_bytes=2000)

    def one(twin: int) -> object:
        kernels, intake = twins.kernels[twin], twins.intakes[twin]
        table = kernels.frame_scan(data, 1 << 20)
        stops = []
        at = 0
        while at < len(table):
            stop, at = intake.take(twins.catalogs[twin], data, table, at, 1)
            stops.append((stop, at))
            if stop == lay.UM_STOP_FULL:
                break
        return stops, bytes(intake.seal(0, 1, 1, BASE, 10)), intake.immediate()

    twins.pair(one)


# ---- apply, and everything that can be read afterwards ----

accounts: st.SearchStrategy[int | bytes] = st.sampled_from([1, 2, 258, U64_MAX, b"a", b"acme", b"z" * 128, b"nobody"])
instants = st.one_of(
    st.integers(-3 * HOUR, 4 * HOUR).map(lambda offset: BASE + offset),
    st.builds(lambda hour, rest: BASE + hour * HOUR + rest, st.integers(-4, 4), st.sampled_from([0, 1, 7, 8])),
    st.sampled_from([0, -1, BASE - 80 * DAY, BASE + 80 * DAY, I64_MAX, BASE + HOUR - 1]),
)


@st.composite
def specs(draw: st.DrawFn) -> QuerySpec:
    number = draw(st.integers(0, len(METRICS) - 1))
    dimensions = range(len(METRICS[number].dimensions))
    group_by: list[int] = []
    filters = []
    for dimension in dimensions:
        if draw(st.booleans()):
            group_by.append(dimension)
        if draw(st.integers(0, 2)) == 0:
            wanted = draw(st.lists(st.sampled_from([b"", b"eu", b"us", b"nowhere"]), max_size=3))
            filters.append((dimension, tuple(wanted)))
    if draw(st.booleans()):
        group_by.reverse()
    return QuerySpec(draw(accounts), number, draw(instants), draw(instants), tuple(group_by), tuple(filters))


def read_everything(twins: Twins, data: st.DataObject) -> None:
    twins.check()
    twins.image()
    twins.pair(lambda twin: twins.states[twin].memory_bytes())
    for _ in range(data.draw(st.integers(0, 12), "queries")):
        spec = data.draw(specs())
        twins.query(spec, data.draw(st.sampled_from([1, 2, 1000])))
    who = data.draw(accounts)
    metric = data.draw(st.sampled_from([None, 0, 1, 4]))
    twins.events(who, data.draw(instants), data.draw(instants), 0, metric, 1000)
    twins.events(who, 0, I64_MAX, data.draw(st.integers(0, 20)), metric, data.draw(st.integers(0, 5)))
    twins.pair(lambda twin: twins.states[twin].alerts(0, None, 1000))
    since = data.draw(st.integers(0, 5))
    twins.pair(lambda twin: twins.states[twin].alerts(since, who, 3))
    twins.pair(lambda twin: twins.states[twin].limits())


@examples(60)
@given(plays(), st.data())
def test_a_play_with_any_limits_leaves_equal_states(play: Play, data: st.DataObject) -> None:
    twins = Twins(play)
    for turn in play.turns:
        twins.turn(turn)
        twins.check()
    read_everything(twins, data)


@examples(40)
@given(st.lists(turns, min_size=1, max_size=8), st.data())
def test_a_play_with_room_for_everything_is_answered_alike(script: list[Turn], data: st.DataObject) -> None:
    twins = Twins(roomy(script))
    for turn in script:
        twins.turn(turn)
    read_everything(twins, data)


@examples(20)
@given(plays(turns_max=4), st.lists(turns, min_size=1, max_size=3), st.data())
def test_a_loaded_image_goes_on_as_if_nothing_had_happened(play: Play, more: list[Turn], data: st.DataObject) -> None:
    twins = Twins(play)
    for turn in play.turns:
        twins.turn(turn)
    image = twins.image()
    piece = data.draw(st.sampled_from([1, 100, 151, 5000, 1 << 20]))
    twins.reload(image, piece)
    twins.check()
    for turn in more:
        twins.turn(turn)
    read_everything(twins, data)


@examples(25)
@given(plays(turns_max=3), st.lists(turns, min_size=1, max_size=3), st.integers(1, 5000))
def test_an_image_is_that_of_the_moment_it_began(play: Play, more: list[Turn], piece: int) -> None:
    twins = Twins(play)
    for turn in play.turns:
        twins.turn(turn)
    expected = twins.image()
    native = twins.states[NATIVE]
    native.checkpoint_begin()
    image = image_piece(native, piece)
    for turn in more:
        twins.turn(turn)
        image += image_piece(native, piece)
    while rest := image_piece(native, piece):
        image += rest
    native.checkpoint_end()
    assert image == expected


@examples(25)
@given(plays(turns_max=3), plays(turns_max=3), st.data())
def test_new_limits_in_the_log_are_obeyed_alike(first: Play, second: Play, data: st.DataObject) -> None:
    twins = Twins(first)
    for turn in first.turns:
        twins.turn(turn)
    limits = Limits(
        second.records_max, second.fingerprints_per_generation, second.cells_per_series_max, second.session_idle_ns
    )
    body = lay.encode_limits(limits)
    twins.index += 1
    kind, stamp = lay.UM_ENTRY_LIMITS, twins.stamp_ns
    entry = twins.pair(lambda twin: twins.kernels[twin].entry(kind, 0, twins.index, 1, stamp, twins.next_seq, body))
    twins.append(entry)
    twins.apply(entry)
    for turn in second.turns:
        twins.turn(turn)
    read_everything(twins, data)


@examples(150)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_long_plays_of_every_taste_are_equal(seed: int, turn_count: int) -> None:
    author = Author(seed)
    play = author.play(turn_count)
    twins = Twins(play)
    change_at = author.dice.randrange(2 * turn_count)
    for number, turn in enumerate(play.turns):
        twins.turn(turn, LATER if number == change_at else None)
    twins.check()
    image = twins.image()
    twins.pair(lambda twin: twins.states[twin].memory_bytes())
    for _ in range(20):
        twins.query(author.spec(), author.dice.choice([1, 3, 1000]))
    for who in author.accounts:
        twins.events(who, author.edge(), author.edge(), author.dice.randrange(30), None, 20)
        twins.events(who, 0, I64_MAX, 0, None, 1000)
    twins.pair(lambda twin: twins.states[twin].alerts(0, None, 1000))
    if author.chance(0.3):
        twins.reload(image, 1000)
        for turn in author.play(3).turns:
            twins.turn(turn)
        twins.check()
        twins.image()


@examples(40)
@given(st.integers(0, 2**32 - 1), st.integers(0, 151), st.integers(0, 7), st.integers(-20, 20))
def test_what_is_not_an_image_is_refused_alike(seed: int, at: int, bit: int, more: int) -> None:
    twins = Twins(roomy([]))
    for turn in Author(seed).play(2).turns:
        twins.turn(turn)
    image = twins.image()
    bent = bytearray(image)
    bent[at] ^= 1 << bit
    longer = image + bytes(more) if more >= 0 else image[:more]

    def load(twin: int, data: bytes, said: int) -> str:
        loader = twins.kernels[twin].state_loader(said)
        try:
            loader.feed(data)
            loader.finish()
        except ValueError:
            return "refused"
        return "loaded"

    assert twins.pair(lambda twin: load(twin, bytes(bent), len(image))) == "refused"
    expected = "loaded" if more == 0 else "refused"
    assert twins.pair(lambda twin: load(twin, longer, len(image))) == expected


def test_the_last_run_of_skips_has_a_place_after_a_lowered_limit_and_a_restart() -> None:
    twins = Twins(Play((*ROOMY[:-6], 1000, 8, 64, 64, 256, 300), 256, 100, HOUR))

    def send(*values: int) -> None:
        events = [Event(1, b"plain", value, BASE, id=b"%d" % value) for value in values]
        twins.turn(Turn([Request(1, v2_frame(2, 1, v2_batch(events)))], 1))

    for value in range(256):  # a stored one, a duplicate, a stored one, ...
        send(value, value)
    send(500)
    twins.image()
    body = lay.encode_limits(replace(twins.states[REFERENCE].limits(), records_max=(*ROOMY[:-1], 100)))
    entry = twins.kernels[REFERENCE].entry(
        lay.UM_ENTRY_LIMITS, 0, twins.index + 1, 1, twins.stamp_ns, twins.next_seq, body
    )
    twins.apply(entry)
    twins.reload(twins.image(), 4096)
    send(501, 502)
    assert twins.states[REFERENCE].region_counts()[lay.UM_R_SKIPS] == 257
    twins.check()
    twins.image()


# ---- the journal ----


@examples(50)
@given(st.lists(turns, min_size=1, max_size=3), st.data())
def test_damaged_journals_are_read_alike(script: list[Turn], data: st.DataObject) -> None:
    twins = Twins(roomy(script))
    chain = twins.chain
    for turn in script:
        twins.turn(turn)
    end = bytearray(64)
    twins.pair(
        lambda twin: twins.kernels[twin].record(
            memoryview(end), [], lay.UM_RECORD_SEGMENT_END, twins.record_seq + 1, twins.chain, BASE
        )
    )
    whole = twins.journal + data.draw(st.sampled_from([b"", bytes(end), bytes(200)]))
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        kind = data.draw(st.integers(0, 3))
        if kind == 0:
            damaged[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == 1:
            del damaged[at:]
            break
        elif kind == 2:
            damaged[at : at + 512] = bytes(len(damaged[at : at + 512]))
        else:
            del damaged[: at // 64 * 64]
            break
    text = bytes(damaged)
    note(f"{len(text)} of {len(whole)} bytes")

    def scan(twin: int) -> object:
        found = twins.kernels[twin].journal_verify(text, 0, chain)
        return (*found[:4], list(found.offsets))

    twins.pair(scan)
    for seq in range(len(script) + 2):
        same([k.journal_find_later(text, seq) for k in twins.kernels])
    for record in twins.records:
        (entry,) = same([[bytes(e) for e in k.record_entries(record)] for k in twins.kernels])
        assert same([k.entry_verify(entry) for k in twins.kernels])
        at = data.draw(st.integers(0, len(entry) - 1))
        bent = bytearray(entry)
        bent[at] ^= 1 << data.draw(st.integers(0, 7))
        assert same([k.entry_verify(bytes(bent)) for k in twins.kernels]) is False
        if at >= 4:  # the same with a right checksum
            bent[:4] = twins.kernels[REFERENCE].crc32c(bytes(bent[4:])).to_bytes(4, "little")
            same([k.entry_verify(bytes(bent)) for k in twins.kernels])


@examples(50)
@given(st.lists(st.binary(max_size=100), min_size=1, max_size=4), st.integers(0, U64_MAX))
def test_records_of_several_entries_are_built_alike(bodies: list[bytes], chain: int) -> None:
    kernels = both()
    entries = [
        same([k.entry(lay.UM_ENTRY_CATALOG, 3, n + 1, 2, BASE + n, 1, body) for k in kernels])
        for n, body in enumerate(bodies)
    ]

    def record(twin: int) -> object:
        out = bytearray(2048)
        length, linked = kernels[twin].record(memoryview(out), entries, lay.UM_RECORD_ENTRIES, 7, chain, BASE)
        return length, linked, bytes(out[:length])

    length, _, data = same([record(NATIVE), record(REFERENCE)])
    assert length % 64 == 0
    assert same([[bytes(e) for e in k.record_entries(data)] for k in kernels]) == entries


# ---- catalogs ----


@pytest.mark.parametrize("code", [*CODES, b"", b"nosuch", b"x" * 63, b"x" * 64])
def test_codes_are_found_alike(code: bytes) -> None:
    packed = [metric.pack(n) for n, metric in enumerate(METRICS)]
    found = same([k.catalog(packed).find(code) for k in both()])
    alive = [n for n, metric in enumerate(METRICS) if metric.code == code and metric.alive]
    assert found == (alive[0] if alive else -1)
