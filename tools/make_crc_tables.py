"""Print csrc/kernels/um__crc32c_tables.h: the constant tables of crc32c.c. Run: python tools/make_crc_tables.py > FILE

Everything follows from the reflected Castagnoli polynomial 0x82F63B78:
- bytes[k][b]: the CRC register after byte b and then k zero bytes (slicing by 8);
- far/near[n][v]: what nibble n with value v of a register becomes after that many zero bytes, so that the
  CRCs of adjoining stretches that were computed side by side can be joined.
"""

from __future__ import annotations

POLYNOMIAL = 0x82F63B78
FAR_BYTES = 1024
NEAR_BYTES = 128


def after_zero_byte(register: int) -> int:
    for _ in range(8):
        register = (register >> 1) ^ (POLYNOMIAL if register & 1 else 0)
    return register


def after_zero_bytes(register: int, count: int) -> int:
    for _ in range(count):
        register = after_zero_byte(register)
    return register


def rows(values: list[int]) -> str:
    lines = (", ".join(f"0x{v:08X}" for v in values[i : i + 8]) for i in range(0, len(values), 8))
    return ",\n     ".join(lines)


def table(name: str, width: int, content: list[list[int]]) -> str:
    body = ",\n".join(f"    {{{rows(values)}}}" for values in content)
    return f"static const uint32_t {name}[{len(content)}][{width}] = {{\n{body}\n}};\n"


def shift_table(name: str, count: int) -> str:
    return table(name, 16, [[after_zero_bytes(v << (4 * n), count) for v in range(16)] for n in range(8)])


def main() -> None:
    slices = [[after_zero_bytes(b, k + 1) for b in range(256)] for k in range(8)]
    print("/* um__crc32c_tables.h - made by tools/make_crc_tables.py, which says what the numbers are; do not edit. */")
    print("#ifndef UM__CRC32C_TABLES_H\n#define UM__CRC32C_TABLES_H\n#include <stdint.h>\n")
    print("#if defined(__SSE4_2__)")
    print(f"#define UM__CRC_FAR_BYTES {FAR_BYTES}\n#define UM__CRC_NEAR_BYTES {NEAR_BYTES}")
    print(shift_table("um__crc_far", FAR_BYTES), end="")
    print(shift_table("um__crc_near", NEAR_BYTES), end="")
    print("#else")
    print(table("um__crc_bytes", 256, slices), end="")
    print("#endif\n#endif")


if __name__ == "__main__":
    main()
