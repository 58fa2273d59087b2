"""Has this event been counted already? Asked per row, before anything of the row is stored.

Rows with an id: the id counts once per account, whoever sends it. The same content again is a duplicate,
other content a conflict. Ids are never forgotten.

Rows of v1 batches with a timestamp: the fingerprint of all their bytes. Equal events inside one request are
told apart by their ordinal, so they count twice; the request again adds nothing. Fingerprints live in two
generations: the current one fills up, then the other is emptied and becomes current.
"""

from __future__ import annotations

from unimeter.kernels import layout as lay
from unimeter.kernels.reference import rows
from unimeter.kernels.reference.records import Identity
from unimeter.kernels.reference.rows import RowView
from unimeter.kernels.reference.state import State


def rotate(state: State, row_count: int) -> None:
    """At the start of an entry: make the other generation current if this one is full, or would not hold it."""
    current = state.fingerprints[state.meta.fps_current]
    room = state.limits.records_max[lay.UM_R_FPS0 + state.meta.fps_current]
    if row_count and (
        len(current) >= state.limits.fingerprints_per_generation or (current and len(current) + row_count > room)
    ):
        state.meta.fps_current ^= 1
        state.meta.fps_rotations += 1
        state.fingerprints[state.meta.fps_current].clear()


class Claim:
    """What a new row will be remembered by once it is stored."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.id: tuple[int, int] | None = None  # identity, content
        self.fingerprint: int | None = None

    def has_room(self) -> bool:
        if self.id is not None and not self.state.room(lay.UM_R_IDS):
            return False
        return self.fingerprint is None or self.state.room(lay.UM_R_FPS0 + self.state.meta.fps_current)

    def remember(self, seq: int) -> None:
        state = self.state
        if self.id is not None:
            state.id_numbers[self.id[0]] = len(state.ids)
            state.ids.append(Identity(*self.id, seq))
        if self.fingerprint is not None:
            state.fingerprints[state.meta.fps_current][self.fingerprint] = None


class Dedup:
    """The judge of one batch: equal fingerprints are counted within it."""

    def __init__(self, state: State, v1: bool) -> None:
        self.state = state
        self.v1 = v1
        self.equal_before: dict[int, int] = {}  # fingerprint -> earlier rows of this batch that were not refused

    def judge(self, row: RowView) -> tuple[int, Claim]:
        """(UM_V_STORED for a new row, else DUPLICATE or CONFLICT; what to remember it by)."""
        claim = Claim(self.state)
        if row.id is not None:
            return self._judge_id(row, claim), claim
        if self.v1 and row.timestamp_ns:
            return self._judge_fingerprint(row, claim), claim
        return lay.UM_V_STORED, claim

    def _judge_id(self, row: RowView, claim: Claim) -> int:
        name, said = rows.identity(row), rows.content(row)
        known = self.state.id_numbers.get(name)
        if known is None:
            claim.id = name, said
            return lay.UM_V_STORED
        return lay.UM_V_DUPLICATE if self.state.ids[known].content == said else lay.UM_V_CONFLICT

    def _judge_fingerprint(self, row: RowView, claim: Claim) -> int:
        base = rows.fingerprint(row)
        claim.fingerprint = base
        if self._known(base):
            ordinal = self.equal_before.get(base, 0)
            if ordinal == 0:
                return lay.UM_V_DUPLICATE
            claim.fingerprint = rows.ordinal_fingerprint(base, ordinal)
            if self._known(claim.fingerprint):
                return lay.UM_V_DUPLICATE
        return lay.UM_V_STORED

    def _known(self, fingerprint: int) -> bool:
        return fingerprint in self.state.fingerprints[0] or fingerprint in self.state.fingerprints[1]

    def settle(self, row: RowView, verdict: int) -> None:
        """The row's final verdict: refused rows do not count as earlier equals."""
        if self.v1 and row.timestamp_ns and row.id is None and verdict in (lay.UM_V_STORED, lay.UM_V_DUPLICATE):
            base = rows.fingerprint(row)
            self.equal_before[base] = self.equal_before.get(base, 0) + 1
