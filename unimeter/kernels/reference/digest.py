"""Digests: two ways to say "the same state" in one number.

The full digest reads every region, O(state). The running digest is kept in meta and grows by one term per
stored row, made of the records that the row changed as they are afterwards:

    D(record) = sum over i of mix(w[2i] ^ K[i % 6], w[2i+1] ^ K[(i+1) % 6]),  w = its u64 words
    digest   += mix(sum of D over the changed records ^ seq, K1)
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from unimeter.kernels.reference.checkpoint import regions
from unimeter.kernels.reference.checksum import MASK64, K, hash64, mix
from unimeter.kernels.reference.state import State


def record_digest(record: bytes) -> int:
    words = [word for (word,) in struct.iter_unpack("<Q", record)]
    if len(words) % 2:
        words.append(0)
    total = 0
    for i in range(len(words) // 2):
        total += mix(words[2 * i] ^ K[i % 6], words[2 * i + 1] ^ K[(i + 1) % 6])
    return total & MASK64


def add_row(state: State, seq: int, changed: Iterable[bytes]) -> None:
    total = sum(record_digest(record) for record in changed) & MASK64
    state.meta.digest = (state.meta.digest + mix(total ^ seq, K[1])) & MASK64


def full_digest(state: State) -> int:
    digest = 0
    for region in regions(state):
        digest = hash64(region, digest)
    return digest
