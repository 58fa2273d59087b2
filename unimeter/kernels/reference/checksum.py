"""The two checksums of the system: crc32c guards bytes against the world, hash64/hash128 name and chain them.

crc32c is the Castagnoli CRC of RFC 3720 B.4: reflected polynomial 0x82F63B78, start and end inverted.

hash64(data, seed), all arithmetic modulo 2^64, mix(a, b) = low half xor high half of the 128-bit product a * b:

    h = seed ^ K0
    for each 8-byte little-endian word w of data (the last one padded with zero bytes):
        h = mix(h ^ w, K1) + w
    return mix(h ^ len, K2)

hash128 is two such lanes: lo as above, hi with K3, K4, K5. Not cryptographic.
"""

from __future__ import annotations

import struct
from functools import cache

from unimeter.kernels.api import Bytes

MASK64 = (1 << 64) - 1
MASK128 = (1 << 128) - 1
_POLYNOMIAL = 0x82F63B78

K = (
    0x9E3779B97F4A7C15,
    0xA0761D6478BD642F,
    0xE7037ED1A0B428DB,
    0x8EBC6AF09C88C6E3,
    0x589965CC75374CC3,
    0x1D8E4E27C47D124F,
)


@cache
def _tables() -> tuple[tuple[int, ...], ...]:
    """tables[k][b]: the register after shifting byte b, then k zero bytes, through it."""
    byte = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        byte.append(value)
    tables = [tuple(byte)]
    for _ in range(3):
        tables.append(tuple(byte[value & 255] ^ (value >> 8) for value in tables[-1]))
    return tuple(tables)


def crc32c(data: Bytes, crc: int = 0) -> int:
    """CRC of data; `crc` is 0 or the result so far. Four bytes a step: their effects on the register add up."""
    zero, one, two, three = _tables()
    view = memoryview(data).cast("B")
    whole = len(view) & ~3
    crc ^= 0xFFFFFFFF
    for (word,) in struct.iter_unpack("<I", view[:whole]):
        word ^= crc
        crc = three[word & 255] ^ two[word >> 8 & 255] ^ one[word >> 16 & 255] ^ zero[word >> 24]
    for value in view[whole:]:
        crc = zero[(crc ^ value) & 255] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def mix(a: int, b: int) -> int:
    product = a * b
    return (product & MASK64) ^ (product >> 64)


def _lane(data: bytes, seed: int, start: int, each: int, end: int) -> int:
    h = seed ^ start
    padded = data if len(data) % 8 == 0 else data + bytes(-len(data) % 8)
    for (word,) in struct.iter_unpack("<Q", padded):
        product = (h ^ word) * each  # mix, spelled out: this loop is the cost of everything that is hashed
        h = ((product & MASK64) ^ (product >> 64)) + word & MASK64
    return mix(h ^ len(data), end)


def hash64(data: Bytes, seed: int = 0) -> int:
    return _lane(bytes(data), seed, K[0], K[1], K[2])


def hash128(data: Bytes, seed: int = 0) -> int:
    """hi << 64 | lo."""
    data = bytes(data)
    return _lane(data, seed, K[3], K[4], K[5]) << 64 | _lane(data, seed, K[0], K[1], K[2])
