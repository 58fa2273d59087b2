"""api.GroupState and api.StateLoader: a State with everything that can be asked of it."""

from __future__ import annotations

from unimeter.kernels import layout as lay
from unimeter.kernels.api import Alert, Bytes, Limits, Meta, QuerySpec
from unimeter.kernels.reference import checkpoint
from unimeter.kernels.reference.apply import ReferenceApplied, apply
from unimeter.kernels.reference.catalog import ReferenceCatalog
from unimeter.kernels.reference.check import check
from unimeter.kernels.reference.digest import full_digest
from unimeter.kernels.reference.events import ReferenceEventScan
from unimeter.kernels.reference.query import ReferenceQuery
from unimeter.kernels.reference.state import State

_INDEX_BYTES_PER_RECORD = 32  # what a dictionary entry is taken to cost


class ReferenceGroupState:
    def __init__(self, state: State, group: int = 0) -> None:
        self.state = state
        self.group = group
        self._image: bytes | None = None
        self._image_at = 0

    def apply(self, catalog: ReferenceCatalog, entry: Bytes) -> ReferenceApplied:
        return apply(self.state, catalog, entry)

    def meta(self) -> Meta:
        meta = self.state.meta
        return Meta(*(getattr(meta, name) for name in Meta._fields))

    def limits(self) -> Limits:
        return self.state.limits

    def region_counts(self) -> tuple[int, ...]:
        return self.state.counts()

    def memory_bytes(self) -> int:
        """Bytes the records are worth, and something for the dictionaries that find them."""
        return sum(
            count * (lay_bytes + _INDEX_BYTES_PER_RECORD)
            for count, lay_bytes in zip(self.state.counts(), checkpoint.RECORD_BYTES, strict=True)
        )

    def query(self, catalog: ReferenceCatalog, spec: QuerySpec, groups_max: int) -> ReferenceQuery:
        return ReferenceQuery(self.state, catalog, self.group, spec, groups_max)

    def alerts(self, since: int, account: int | bytes | None, limit: int) -> list[Alert]:
        """Alerts with number > since, oldest first; account None = all."""
        found: list[Alert] = []
        for record in self.state.alerts:
            key = self.state.account_key(record.account, record.text)
            if len(found) >= limit:
                break
            if record.number > since and account in (None, key):
                found.append(
                    Alert(
                        record.number,
                        key,
                        record.metric,
                        record.slot,
                        record.value,
                        record.stamp_ns,
                        record.period_start,
                        record.seq,
                    )
                )
        return found

    def events(
        self, account: int | bytes, since: int, until: int, after_seq: int, end_seq: int, metric: int | None
    ) -> ReferenceEventScan:
        return ReferenceEventScan(self.state, self.group, account, since, until, after_seq, end_seq, metric)

    def digest(self) -> int:
        return full_digest(self.state)

    def check(self, catalog: ReferenceCatalog) -> int:
        return check(self.state, catalog)

    # ---- checkpoints ----

    def checkpoint_begin(self) -> int:
        assert self._image is None, "one checkpoint at a time"
        self._image = checkpoint.image(self.state)
        self._image_at = 0
        return len(self._image)

    def checkpoint_read(self, bytes_max: int) -> bytes:
        assert self._image is not None
        piece = self._image[self._image_at : self._image_at + bytes_max]
        self._image_at += len(piece)
        return piece

    def checkpoint_end(self) -> None:
        self._image = None


class ReferenceStateLoader:
    def __init__(self, image_bytes: int) -> None:
        self._image_bytes = image_bytes
        self._image = bytearray()

    def feed(self, data: Bytes) -> None:
        self._image += data
        if len(self._image) > self._image_bytes:
            raise ValueError("the image is longer than it was said to be")

    def finish(self) -> ReferenceGroupState:
        if len(self._image) != self._image_bytes:
            raise ValueError("the image is shorter than it was said to be")
        return ReferenceGroupState(checkpoint.load(bytes(self._image)))


def new_state(limits: Limits) -> ReferenceGroupState:
    return ReferenceGroupState(State(limits))


RECORD_BYTES = checkpoint.RECORD_BYTES
assert len(RECORD_BYTES) == lay.UM_REGIONS
