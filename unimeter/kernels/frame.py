"""What goes between the core and the kernels for every request: a frame in a receive buffer, and bytes for a link.

Plain classes in a module of their own, which is compiled; api.py is protocols, and is not.
"""

from __future__ import annotations


class Frame:
    """One whole frame in a receive buffer; offsets count from the start of that buffer."""

    __slots__ = (
        "deadline_ms", "flags", "offset", "partition", "payload_len", "payload_off", "protocol", "request_id", "status", "type",
    )  # fmt: skip

    def __init__(
        self,
        offset: int,
        payload_off: int,
        payload_len: int,
        request_id: int,
        protocol: int,
        type: int,
        flags: int,
        status: int,
        partition: int,
        deadline_ms: int,
    ) -> None:
        self.offset = offset
        self.payload_off = payload_off
        self.payload_len = payload_len
        self.request_id = request_id
        self.protocol = protocol  # 1 or 2
        self.type = type
        self.flags = flags
        self.status = status  # responses only
        self.partition = partition  # v1: as sent, advisory; v2: the group hint (a group + 1, 0 = none), at most 65535
        self.deadline_ms = deadline_ms  # v2 only, 0 = none

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Frame) and all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __repr__(self) -> str:
        return f"Frame({', '.join(f'{name}={getattr(self, name)}' for name in self.__slots__)})"


class Reply:
    """Bytes for one link."""

    __slots__ = ("data", "link")

    def __init__(self, link: int, data: bytes) -> None:
        self.link = link
        self.data = data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reply) and (self.link, self.data) == (other.link, other.data)

    def __repr__(self) -> str:
        return f"Reply({self.link}, {self.data!r})"
