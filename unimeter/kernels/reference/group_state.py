"""api.GroupState and api.StateLoader: a State with everything that can be asked of it."""

from __future__ import annotations

from collections.abc import Sequence

from unimeter.kernels import layout as lay
from unimeter.kernels.api import Alert, Bytes, Catalog, Limits, Meta, QuerySpec
from unimeter.kernels.deferred import DeferredJob
from unimeter.kernels.reference import checkpoint
from unimeter.kernels.reference.apply import ReferenceApplied, apply
from unimeter.kernels.reference.catalog import own
from unimeter.kernels.reference.check import check
from unimeter.kernels.reference.digest import full_digest
from unimeter.kernels.reference.events import ReferenceEventScan
from unimeter.kernels.reference.glance import glance
from unimeter.kernels.reference.query import ReferenceQuery
from unimeter.kernels.reference.state import State

_INDEXED = (
    lay.UM_R_VALUES,
    lay.UM_R_ACCOUNTS,
    lay.UM_R_SERIES,
    lay.UM_R_CELLS,
    lay.UM_R_BUCKETS,
    lay.UM_R_MEMBERS,
    lay.UM_R_FPS0,
    lay.UM_R_FPS1,
    lay.UM_R_IDS,
    lay.UM_R_SESSIONS,
    lay.UM_R_PMEMBERS,
)


def _slots(records: int) -> int:
    """Slots of an index: a power of two, at least 64, at most half in use."""
    return max(64, 1 << (2 * records - 1).bit_length())


class ReferenceGroupState:
    def __init__(self, state: State) -> None:
        self.state = state
        self._image: bytes | None = None
        self._image_at = 0

    def apply(self, catalog: Catalog, entry: Bytes) -> ReferenceApplied:
        return apply(self.state, own(catalog), entry)

    def ahead(self) -> list[tuple[int, int]]:
        return []

    @property
    def memory(self) -> object:
        return None

    def begin(self, catalog: Catalog, entries: Sequence[Bytes]) -> DeferredJob:
        return DeferredJob(self, catalog, entries)

    def meta(self) -> Meta:
        meta = self.state.meta
        return Meta(*(getattr(meta, name) for name in Meta._fields))

    def limits(self) -> Limits:
        return self.state.limits

    def region_counts(self) -> tuple[int, ...]:
        return self.state.counts()

    def memory_bytes(self) -> int:
        """Bytes in use by the regions, and by the indexes that production finds records with."""
        counts = self.state.counts()
        pools = sum(count * size for count, size in zip(counts, checkpoint.RECORD_BYTES, strict=True))
        indexed = {region: counts[region] for region in _INDEXED}
        indexed[lay.UM_R_VALUES] -= 1  # "" is not in an index
        indexed[lay.UM_R_CELLS] -= counts[lay.UM_R_SERIES]  # nor is the first cell of a series
        fingerprints = [indexed.pop(region) for region in (lay.UM_R_FPS0, lay.UM_R_FPS1)]
        return (
            pools
            + sum(8 * _slots(count) for count in indexed.values())
            + sum(lay.UM_FPS_PAGE_BYTES * -(-count // lay.UM_FPS_LEAF_RECORDS) for count in fingerprints)
        )

    def glance(self, newest: Catalog, catalog: Catalog, data: Bytes) -> bytes | None:
        return glance(self.state, own(newest), own(catalog), data)

    def query(self, catalog: Catalog, spec: QuerySpec, groups_max: int, group: int = 0) -> ReferenceQuery:
        return ReferenceQuery(self.state, own(catalog), group, spec, groups_max)

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
        self,
        account: int | bytes,
        since: int,
        until: int,
        after_seq: int,
        end_seq: int,
        metric: int | None,
        group: int = 0,
    ) -> ReferenceEventScan:
        return ReferenceEventScan(self.state, group, account, since, until, after_seq, end_seq, metric)

    def digest(self) -> int:
        return full_digest(self.state)

    def check(self, catalog: Catalog) -> int:
        return check(self.state, own(catalog))

    def flip(self, region: int, byte: int, bit: int) -> None:
        """A hook for tests of divergence: what a broken memory cell does."""
        parts = [bytearray(part) for part in checkpoint.regions(self.state)]
        parts[region][byte] ^= 1 << bit
        self.state = checkpoint.load(checkpoint.image_of(parts))

    # ---- checkpoints ----

    def checkpoint_begin(self) -> int:
        assert self._image is None, "one checkpoint at a time"
        self._image = checkpoint.image(self.state)
        self._image_at = 0
        return len(self._image)

    def checkpoint_read(self, out: memoryview) -> int:
        assert self._image is not None
        piece = self._image[self._image_at : self._image_at + len(out)]
        self._image_at += len(piece)
        out[: len(piece)] = piece
        return len(piece)

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
