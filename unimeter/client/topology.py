"""Who leads what: the map that requests are routed by.

account -> partition   a number mod 256, or hash64 of a text's bytes mod 256
partition -> group     partition mod groups; the number of groups is fixed when a cluster is created
group -> leader        changes; learnt from any node, corrected by redirects
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from unimeter.kernels import protocol as wire
from unimeter.kernels.api import Kernels


class NodeAddress(NamedTuple):
    """A node of the cluster, and where its clients reach it."""

    id: int
    address: str


@dataclass(frozen=True, slots=True)
class Topology:
    """One node's view of the cluster. `epoch` grows with every change of what that node says; epochs of two nodes
    are not comparable. `leaders` has one address per group, "" where there is no leader now."""

    epoch: int
    groups: int
    partitions: int
    leaders: tuple[str, ...]
    nodes: tuple[NodeAddress, ...]


def group_of(key: int | bytes, groups: int, kernels: Kernels) -> int:
    """The group of an account (its number, or the bytes of its text)."""
    number = key if isinstance(key, int) else kernels.hash64(key)
    return number % wire.PARTITIONS % groups


def group_of_row(row: bytes, groups: int, kernels: Kernels) -> int:
    """The group of an encoded row."""
    if groups == 1:
        return 0
    if row[_ROW_FLAGS_AT] & wire.V2_ROW_FLAG_TEXT:
        start = wire.V2_ROW.size + 1
        return group_of(bytes(row[start : start + row[start - 1]]), groups, kernels)
    return row[0] % groups  # the lowest byte of a little-endian number is the number mod 256


_ROW_FLAGS_AT = 27
assert wire.PARTITIONS == 256, "group_of_row reads one byte"
