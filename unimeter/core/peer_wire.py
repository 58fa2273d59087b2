"""What nodes say to each other: frames of protocol v2 (header, checksums) on the peer port, with types of their own.

    HELLO         msgpack  first on every link, both ways: who this is, and of which cluster
    RAFT          packed   messages of many groups, one after the other; each is MESSAGE and then its entries
    GOSSIP        msgpack  what this node leads and knows; often, and at every change
    BUNDLE        packed   parts of ingest requests for a group that the receiver leads; answered with BUNDLE_DONE
    BUNDLE_DONE   packed   what applying them said, or that they were not taken
    CALL, RETURN  msgpack  a request of a client or of the coordinator, for a group that the receiver leads
    DIGESTS       msgpack  a leader's running digests, each at an index; DIGESTS_SAID: a follower's at the same indexes;
                           DIVERGED: what the others have there, to the one that has something else

All integers are little-endian. A MESSAGE is 80 bytes:

    kind u8, reject u8, group u16, entries_len u32, to, sender, term, index, log_term, commit, hint, hint_term, context: u64

Frames are at most `peer_frame_bytes_max`; nothing here trusts lengths further than the frame's end. Between versions: unknown
types are passed over, unknown keys of maps too.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import msgpack

from unimeter.core.entry import ENTRY_BYTES, head_of, raft_entry
from unimeter.core.raft.messages import Entry, Kind, Message, bytes_of
from unimeter.kernels.api import Bytes, Kernels

HELLO: Final = 0x60
RAFT: Final = 0x61
GOSSIP: Final = 0x62
BUNDLE: Final = 0x63
BUNDLE_DONE: Final = 0x64
CALL: Final = 0x65
RETURN: Final = 0x66
DIGESTS: Final = 0x67
DIGESTS_SAID: Final = 0x68
DIVERGED: Final = 0x69
TRAFFIC: Final = frozenset({RAFT, BUNDLE, BUNDLE_DONE})  # what comes all the time

VERSION: Final = 1  # of what stands on this page; both sides of a link must have the same

MESSAGE: Final = struct.Struct("<BBHI9Q")
MESSAGE_BYTES: Final = MESSAGE.size
BUNDLE_HEAD: Final = struct.Struct("<QHHII")  # number of the try, group, reserved, batches, rows; then the batches
DONE_HEAD: Final = struct.Struct(
    "<QHHIIq"
)  # number of the try, group, outcome, batches, rows, stamp_ns; then what remote_applied reads
COPIED_BYTES_MAX: Final = 4096  # of a message's entries: a copy costs less than a view, for everybody who looks at it
_KINDS: Final = {int(kind): kind for kind in Kind}


class BadFrame(ValueError):
    """A peer said something that is not this protocol."""


def frame(kernels: Kernels, type_: int, payload: Bytes) -> bytes:
    return b"".join((kernels.v2_head(type_, 0, 0, payload), payload))


def pack_map(kernels: Kernels, type_: int, body: dict[str, Any]) -> bytes:
    return frame(kernels, type_, msgpack.packb(body, use_bin_type=True))


def unpack_map(payload: Bytes) -> dict[str, Any]:
    """Raises BadFrame."""
    try:
        body = msgpack.unpackb(payload, raw=False, strict_map_key=False)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise BadFrame(f"not msgpack: {error}") from error
    if not isinstance(body, dict):
        raise BadFrame("not a map")
    return body


def message_bytes(message: Message) -> int:
    """What `pack_message` makes of it."""
    return MESSAGE_BYTES + bytes_of(message.entries)


def pack_message(pieces: list[Bytes], group: int, message: Message) -> None:
    """Add the pieces of one message."""
    entries = message.entries
    pieces.append(
        MESSAGE.pack(
            message.kind, message.reject, group, bytes_of(entries), message.to, message.sender, message.term, message.index,
            message.log_term, message.commit, message.hint, message.hint_term, message.context,
        )
    )  # fmt: skip
    for entry in entries:
        pieces.append(entry.data)  # they are few, mostly none


def unpack_messages(kernels: Kernels, payload: Bytes) -> list[tuple[int, Message]]:
    """(group, message) in order. Raises BadFrame, also for entries that are not what their sender sealed."""
    messages: list[tuple[int, Message]] = []
    at, end = 0, len(payload)
    while at < end:
        if end - at < MESSAGE_BYTES:
            raise BadFrame("a message is cut off")
        (kind, reject, group, size, to, sender, term, index, log_term, commit, hint, hint_term, context) = (
            MESSAGE.unpack_from(payload, at)
        )
        at += MESSAGE_BYTES
        if size > end - at:
            raise BadFrame("the entries of a message are cut off")
        known = _KINDS.get(kind)
        if known is None:
            raise BadFrame(f"a message of kind {kind}")
        entries = _entries(kernels, payload, at, at + size, group) if size else []
        at += size
        message = Message(
            known, to, sender, term, index, log_term, commit, bool(reject), hint, hint_term, context, entries
        )
        messages.append((group, message))
    return messages


def _entries(kernels: Kernels, data: Bytes, at: int, end: int, group: int) -> list[Entry]:
    """The entries that stand end to end there."""
    entries: list[Entry] = []
    view = memoryview(data) if end - at > COPIED_BYTES_MAX else data
    try:
        while at < end:
            if end - at < ENTRY_BYTES:
                raise ValueError("the header of an entry is cut off")
            head = head_of(data, at)
            begin, at = at, at + ENTRY_BYTES + head.body_len
            if at > end:
                raise ValueError("the body of an entry is cut off")
            entry = view[begin:at]
            if head.group != group or not kernels.entry_verify(entry):
                raise ValueError(f"entry {head.index} of group {head.group} is damaged")
            entries.append(raft_entry(entry, head))
    except ValueError as error:
        raise BadFrame(str(error)) from error
    return entries
