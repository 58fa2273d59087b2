"""Frames between nodes: what is packed comes back, and whatever else arrives is a BadFrame and never anything worse."""

from __future__ import annotations

import contextlib

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core_journal import KERNELS, entry
from unimeter.core import peer_wire
from unimeter.core.entry import ENTRY_BYTES, head_of, raft_entry
from unimeter.core.peer_wire import BadFrame, frame, message_bytes, pack_map, pack_message, unpack_map, unpack_messages
from unimeter.core.raft import Conf
from unimeter.core.raft.messages import Kind, Message
from unimeter.kernels import layout
from unimeter.kernels.api import Bytes

u64 = st.integers(0, 2**64 - 1)


@st.composite
def messages(draw: st.DrawFn) -> tuple[int, Message]:
    group = draw(st.integers(0, 63))
    first = draw(st.integers(1, 1000))
    term = draw(st.integers(1, 2**40))
    entries = []
    for index in range(first, first + draw(st.integers(0, 3))):
        if draw(st.booleans()):
            data = entry(group, index, term, draw(st.binary(max_size=40)))
        else:
            data = entry(group, index, term, Conf((1, 2), (3,)).encode(), layout.UM_ENTRY_CONF)
        entries.append(raft_entry(data, head_of(data)))
    return group, Message(
        draw(st.sampled_from(Kind)), draw(u64), draw(u64), draw(u64), draw(u64), draw(u64), draw(u64), draw(st.booleans()),
        draw(u64), draw(u64), draw(u64), tuple(entries),
    )  # fmt: skip


def packed(sent: list[tuple[int, Message]]) -> bytes:
    pieces: list[Bytes] = []
    for group, message in sent:
        before = sum(map(len, pieces))
        pack_message(pieces, group, message)
        assert sum(map(len, pieces)) - before == message_bytes(message)
    return b"".join(map(bytes, pieces))


@given(st.lists(messages(), max_size=4))
@settings(max_examples=80, deadline=None)
def test_messages_come_back_as_they_were_packed(sent: list[tuple[int, Message]]) -> None:
    found = unpack_messages(KERNELS, packed(sent))
    assert found == sent
    assert [list(one.entries) for _, one in found] == [list(one.entries) for _, one in sent], (
        "also the entries' configurations"
    )


@given(st.lists(messages(), min_size=1, max_size=2), st.data())
@settings(max_examples=80, deadline=None)
def test_messages_that_are_cut_off_are_bad(sent: list[tuple[int, Message]], data: st.DataObject) -> None:
    whole = packed(sent)
    bounds = [0, len(packed(sent[:1])), len(whole)]
    cut = data.draw(st.integers(0, len(whole)).filter(lambda at: at not in bounds))
    with pytest.raises(BadFrame):
        unpack_messages(KERNELS, whole[:cut])


@given(messages().filter(lambda pair: pair[1].entries), st.data())
@settings(max_examples=80, deadline=None)
def test_an_entry_with_a_flipped_bit_is_bad(pair: tuple[int, Message], data: st.DataObject) -> None:
    whole = bytearray(packed([pair]))
    bit = data.draw(st.integers(8 * peer_wire.MESSAGE.size, 8 * len(whole) - 1))
    whole[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadFrame):
        unpack_messages(KERNELS, bytes(whole))


def test_an_entry_of_another_group_than_its_message_is_bad() -> None:
    data = entry(3, 1, 1)
    message = Message(Kind.APPEND, 1, 2, 1, entries=(raft_entry(data, head_of(data)),))
    with pytest.raises(BadFrame, match="group 3"):
        unpack_messages(KERNELS, packed([(2, message)]))


def test_a_configuration_entry_without_a_configuration_is_bad() -> None:
    data = entry(0, 1, 1, b"none", layout.UM_ENTRY_CONF)
    head = peer_wire.MESSAGE.pack(Kind.APPEND, 0, 0, len(data), 1, 2, 1, 0, 0, 0, 0, 0, 0)
    assert len(data) == ENTRY_BYTES + 4
    with pytest.raises(BadFrame):
        unpack_messages(KERNELS, head + data)


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_messages_or_bad(data: bytes) -> None:
    with contextlib.suppress(BadFrame):
        unpack_messages(KERNELS, data)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.text(max_size=6), values, max_size=5))
@settings(max_examples=40, deadline=None)
def test_maps_come_back_as_they_were_packed(body: dict[str, object]) -> None:
    whole = pack_map(KERNELS, peer_wire.GOSSIP, body)
    frames = KERNELS.frame_scan(whole, 1 << 20)
    assert (len(frames), frames.error, frames[0].type) == (1, 0, peer_wire.GOSSIP)
    assert unpack_map(whole[frames[0].payload_off :]) == body


@given(st.binary(max_size=64))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_map_or_bad(data: bytes) -> None:
    with contextlib.suppress(BadFrame):
        assert isinstance(unpack_map(data), dict)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        msgpack.packb([1]),
        msgpack.packb(7),
        msgpack.packb({"a": 1}) + b"\x00",
        msgpack.packb({"a": 1})[:-1],
        b"\x91" * 100_000,  # nested deeper than anything can be
        b"\x81\xa1a" * 50_000,
        b"\xdf\xff\xff\xff\xff",  # a map of four billion entries
        b"\x81\xa1\xff\x01",  # a key that is no text
        b"\x81\xa1a\xc1",  # the byte that msgpack never uses
        b"\x81\xa1a\xd6\xff\x00\x00\x00\x00\x00",
    ],
    ids=lambda data: f"{len(data)}-bytes-{data[:4].hex()}",
)
def test_what_is_no_map_is_bad(data: bytes) -> None:
    with pytest.raises(BadFrame):
        unpack_map(data)


def test_a_map_whose_key_is_a_list_is_bad() -> None:
    with pytest.raises(BadFrame):
        unpack_map(b"\x81\x91\x01\x01")


def test_a_frame_is_a_v2_frame_with_both_checksums() -> None:
    whole = bytearray(frame(KERNELS, peer_wire.RAFT, b"payload"))
    assert KERNELS.frame_scan(bytes(whole), 1 << 20).error == 0
    for at in range(len(whole)):
        whole[at] ^= 4
        scan = KERNELS.frame_scan(bytes(whole), 1 << 20)
        assert scan.error or len(scan) == 0
        whole[at] ^= 4
