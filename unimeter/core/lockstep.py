"""Clients that wait for an answer before they send more, and so come in step with the disk.

Eight with a batch each. Whoever comes first finds the disk free and is written at once, alone; those who come meanwhile
are written together; and while they are, the rest gathers. Since all are answered when their record is, they come again as they
went, and it stays so. The numbers are requests in a record:

    left alone      1 2 5 1 2 5 ...    three writes for eight requests; while 5 are answered nobody has anything to write
    in halves       4 4 4 4 ...        two; one half is written while the other is answered and sends anew

So a record takes about half of what waits where that is much (`record_bytes`), and one that would carry less than a third of all
that is on its way is held back until more has come (`hold_until`). How much that is, is seen in the newest records: what clients
wait for, written or not, when one began.

More may not come: then what is held back goes after `lockstep_hold_ns`, and the next records are not held back. So
it costs those who do not come in step that much once in a while, and a lone client, or little, nothing.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from unimeter.config import NodeConfig
from unimeter.core.group import Group

RECORD_PERCENT: Final = 65  # half, and what rounding to whole entries takes
RECORD_PARTS: Final = 3  # a record of less than this part of all is held back
CROWDS: Final = 8  # records that are remembered
RECORDS_AT_ONCE: Final = 64  # so many are not held back after one was in vain


class Lockstep:
    """Of a node's only group."""

    def __init__(self, config: NodeConfig) -> None:
        self._bytes_min = config.lockstep_bytes_min
        self._hold_ns = config.lockstep_hold_ns
        self._crowds: deque[int] = deque(maxlen=CROWDS)  # bytes that clients waited for when a record began
        self._most = 0  # the greatest of them
        self._at_once = 0  # so many records more are not held back

    def record_bytes(self, group: Group, bytes_max: int) -> int:
        """How much the next record may take. (What is replicated is not halved: each entry costs messages.)"""
        if group.waiting_bytes() < self._bytes_min or group.replicated:
            return bytes_max
        crowd = group.unanswered_bytes()
        return min(bytes_max, crowd * RECORD_PERCENT // 100) if crowd else bytes_max

    def hold_until(self, now_ns: int, group: Group, until_ns: int) -> int:
        """The journal is free, and something waits. Is that too little for a record of its own? Then until when it is held back
        (monotonic); 0: it is not. To be asked anew whenever something has happened, with the answer before."""
        waiting = group.waiting_bytes()
        if self._most == 0 and RECORD_PARTS * waiting < self._bytes_min:
            self._at_once -= self._at_once > 0
            return 0  # there is no crowd, nor does one begin like this
        crowd = group.unanswered_bytes()
        if not crowd or group.open_immediate or group.pending_control or not group.leading:
            return 0
        if self._at_once or self._most < self._bytes_min or RECORD_PARTS * waiting >= max(self._most, crowd):
            self._at_once -= self._at_once > 0
            self._crowds.append(crowd)
            self._most = max(self._crowds)
            return 0
        if until_ns and now_ns >= until_ns:
            self._crowds.clear()
            self._most = 0
            self._at_once = RECORDS_AT_ONCE
            return 0
        return until_ns or now_ns + self._hold_ns
