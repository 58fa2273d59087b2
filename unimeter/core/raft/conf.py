"""A configuration: who votes, who only listens.

    simple   voters=(1,2,3)  outgoing=()          a majority of voters decides
    joint    voters=(1,2,4)  outgoing=(1,2,3)     a majority of each decides, while the group moves from one to the other
    learners                                      get every entry and have no voice; one of them may be in `outgoing`
                                                  (a voter on its way to become a learner), none in `voters`

Joint consensus (the paper, section 6): no two majorities, one of the old and one of the new configuration, can
decide apart from each other, because in between both are needed.

    0   voters (u16)   2  learners (u16)   4  outgoing (u16)   6  zero (u16)   8  replica ids (u64 each), in this order
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

REPLICAS_MAX: Final = 64  # in one list
REPLICA_ID_MAX: Final = 2**64 - 1
_HEAD: Final = struct.Struct("<HHHH")


def _is_sorted_ids(replicas: tuple[int, ...]) -> bool:
    return (
        len(replicas) <= REPLICAS_MAX
        and all(0 < replica <= REPLICA_ID_MAX for replica in replicas)
        and all(low < high for low, high in pairwise(replicas))
    )


def _majority(replicas: tuple[int, ...], yes: Callable[[int], bool]) -> bool:
    count = 0
    for replica in replicas:
        count += yes(replica)
    return 2 * count > len(replicas)


def _majority_index(replicas: tuple[int, ...], match: dict[int, int]) -> int:
    """The greatest index that a majority has."""
    if len(replicas) == 1:
        return match[replicas[0]]
    indexes = [match[replica] for replica in replicas]
    indexes.sort()
    return indexes[(len(indexes) - 1) // 2]


@dataclass(frozen=True, slots=True)
class Conf:
    """Each list ascending and without repetition. A Conf without voters is that of a replica that belongs nowhere."""

    voters: tuple[int, ...]
    learners: tuple[int, ...] = ()
    outgoing: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not (_is_sorted_ids(self.voters) and _is_sorted_ids(self.learners) and _is_sorted_ids(self.outgoing)):
            raise ValueError(f"replica ids must be ascending, and at most {REPLICAS_MAX} in a list")
        if any(learner in self.voters for learner in self.learners):
            raise ValueError("a replica is either a voter or a learner")
        if not self.voters and (self.learners or self.outgoing):
            raise ValueError("a configuration needs a voter")

    @property
    def joint(self) -> bool:
        return bool(self.outgoing)

    def is_voter(self, replica: int) -> bool:
        return replica in self.voters or replica in self.outgoing

    def electorate(self) -> tuple[int, ...]:
        """Everybody who has a vote, old or new; ascending."""
        return tuple(sorted({*self.voters, *self.outgoing})) if self.outgoing else self.voters

    def members(self) -> tuple[int, ...]:
        """Everybody who gets entries; ascending."""
        if not self.outgoing and not self.learners:
            return self.voters
        return tuple(sorted({*self.voters, *self.outgoing, *self.learners}))

    def quorum(self, yes: Callable[[int], bool]) -> bool:
        """Do those who say yes decide? Nobody decides in a configuration without voters."""
        return _majority(self.voters, yes) and (not self.outgoing or _majority(self.outgoing, yes))

    def quorum_index(self, match: dict[int, int]) -> int:
        """The greatest index that a quorum has; `match`: how far each member's log goes. O(n log n)."""
        index = _majority_index(self.voters, match)
        return min(index, _majority_index(self.outgoing, match)) if self.outgoing else index

    def left(self) -> Conf:
        """What a joint configuration becomes when it leaves the old one behind."""
        assert self.joint
        return Conf(self.voters, self.learners)

    def joining(self, voters: tuple[int, ...], learners: tuple[int, ...] = ()) -> Conf:
        """The joint configuration on the way from this one to those voters and learners."""
        assert not self.joint
        return Conf(tuple(sorted(voters)), tuple(sorted(learners)), self.voters)

    def encode(self) -> bytes:
        ids = (*self.voters, *self.learners, *self.outgoing)
        head = _HEAD.pack(len(self.voters), len(self.learners), len(self.outgoing), 0)
        return head + struct.pack(f"<{len(ids)}Q", *ids)

    @staticmethod
    def decode(data: bytes | bytearray | memoryview) -> Conf:
        if len(data) < _HEAD.size:
            raise ValueError("a configuration is cut off")
        voters, learners, outgoing, zero = _HEAD.unpack_from(data)
        count = voters + learners + outgoing
        if zero or len(data) != _HEAD.size + 8 * count:
            raise ValueError("a configuration has the wrong length")
        ids = struct.unpack_from(f"<{count}Q", data, _HEAD.size)
        return Conf(ids[:voters], ids[voters : voters + learners], ids[voters + learners :])


NOBODY: Final = Conf(())
