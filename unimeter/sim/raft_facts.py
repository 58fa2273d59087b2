"""What replicas promised to each other, read from the frames that they send; and which quorums two configurations share.

Only the fixed part of a message is looked at, at its place in the frame (core/peer_wire.py says where): a run has thousands.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations
from typing import Final, NamedTuple

from unimeter.core import peer_wire
from unimeter.core.raft.conf import Conf
from unimeter.core.raft.messages import Kind
from unimeter.kernels.api import Bytes

FRAME_HEADER: Final = struct.Struct("<IBBBBI")  # magic, version, type, status, flags, payload length
FRAME_HEADER_BYTES: Final = 32
PROMISES: Final = (int(Kind.VOTE), int(Kind.VOTE_REPLY), int(Kind.APPEND_REPLY))


class Promise(NamedTuple):
    """What a message of a replica says that it has on disk."""

    kind: int
    group: int
    to: int
    sender: int
    term: int
    last: int


def promises(data: Bytes) -> Iterator[Promise]:
    """Candidacies, votes that are granted, and acknowledgements of entries, in the frames of one send to a peer."""
    at, end = 0, len(data)
    while at < end:
        _, _, type_, _, _, length = FRAME_HEADER.unpack_from(data, at)
        at += FRAME_HEADER_BYTES
        if type_ == peer_wire.RAFT:
            place, stop = at, at + length
            while place < stop:
                kind, reject, group, entries_bytes, to, sender, term, index, *_ = peer_wire.MESSAGE.unpack_from(
                    data, place
                )
                place += peer_wire.MESSAGE.size + entries_bytes
                if kind in PROMISES and not reject:
                    yield Promise(kind, group, to, sender, term, index)
        at += length


@lru_cache(maxsize=4096)
def share_a_voter(old: Conf, new: Conf) -> bool:
    """Does every quorum of the one meet every quorum of the other?"""
    return all(first & second for first in _quorums(old) for second in _quorums(new))


@lru_cache(maxsize=1024)
def _quorums(conf: Conf) -> list[frozenset[int]]:
    """The smallest ones."""
    found = []
    voters = conf.electorate()
    for size in range(1, len(voters) + 1):
        for some in combinations(voters, size):
            if conf.quorum(some.__contains__):
                found.append(frozenset(some))
    return found
