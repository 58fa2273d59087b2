"""Two nodes' worth of kernels side by side: everything is done twice, and everything observable must be equal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.twin_strategies import BASE, METRICS, Metric, Play, Request, Turn
from unimeter.kernels import layout as lay
from unimeter.kernels import load
from unimeter.kernels.api import Kernels, Limits, QuerySpec, TooManyGroups

NATIVE, REFERENCE = 0, 1


def both() -> list[Kernels]:
    return [load("native"), load("reference")]


def same(results: list[Any]) -> Any:
    """The one answer of both twins."""
    native, reference = results
    assert native == reference
    return reference


def plain(value: Any) -> Any:
    """Views as bytes, so that they can be compared."""
    return bytes(value) if isinstance(value, memoryview | bytearray) else value


def limits_of(play: Play) -> Limits:
    return Limits(play.records_max, play.fingerprints_per_generation, play.cells_per_series_max, play.session_idle_ns)


def image_piece(state: Any, size: int) -> bytes:
    """The next bytes of the image that a state is giving out."""
    out = bytearray(size)
    return bytes(out[: state.checkpoint_read(memoryview(out))])


class Twins:
    def __init__(self, play: Play, metrics: tuple[Metric, ...] = METRICS, intake_bytes: int = 1 << 20) -> None:
        self.kernels = both()
        self.change_metrics(metrics)
        self.states = [k.state(limits_of(play)) for k in self.kernels]
        self.intakes = [k.intake(0, intake_bytes, 100) for k in self.kernels]
        self.index = 0
        self.stamp_ns = BASE
        self.next_seq = 1
        self.record_seq = 0
        self.chain = 12345
        self.records: list[bytes] = []

    def change_metrics(self, metrics: tuple[Metric, ...]) -> None:
        self.catalogs = [k.catalog([m.pack(n) for n, m in enumerate(metrics)]) for k in self.kernels]

    def pair(self, what: Callable[[int], Any]) -> Any:
        return same([plain(what(NATIVE)), plain(what(REFERENCE))])

    def take(self, request: Request) -> int:
        """One frame into the open entry. Returns the stop code."""

        def one(twin: int) -> tuple[int, int]:
            frames = self.kernels[twin].frame_scan(request.frame, 1 << 20)
            assert len(frames) == 1
            return self.intakes[twin].take(self.catalogs[twin], request.frame, frames, 0, request.link)

        stop, _ = self.pair(one)
        self.pair(lambda twin: (self.intakes[twin].batch_count, self.intakes[twin].row_count))
        self.pair(lambda twin: self.intakes[twin].used_bytes)
        assert isinstance(stop, int)
        return stop

    def turn(self, turn: Turn, change_to: tuple[Metric, ...] | None = None) -> bytes:
        """Requests, one entry of them, applied; the answers. Returns the entry. change_to: the metrics change
        between intake and apply."""
        self.stamp_ns += turn.elapsed_ns
        self.pair(lambda twin: self.intakes[twin].immediate())
        for request in turn.requests:
            self.take(request)
        self.index += 1
        seal = (0, self.index, 1, self.stamp_ns, self.next_seq)
        entry: bytes = self.pair(lambda twin: self.intakes[twin].seal(*seal))
        self.pair(lambda twin: self.intakes[twin].immediate())
        assert self.pair(lambda twin: self.kernels[twin].entry_verify(entry))
        self.append(entry)
        if change_to is not None:
            self.change_metrics(change_to)
        applied = self.apply(entry)
        self.pair(lambda twin: self.intakes[twin].answers(applied[twin]))
        self.pair(lambda twin: self.intakes[twin].clear())
        return entry

    def append(self, entry: bytes) -> None:
        """One more journal record."""

        def one(twin: int) -> tuple[int, int, bytes]:
            out = bytearray(len(entry) + 256)
            length, chain = self.kernels[twin].record(
                memoryview(out), [entry], lay.UM_RECORD_ENTRIES, self.record_seq + 1, self.chain, self.stamp_ns
            )
            return length, chain, bytes(out[:length])

        _, self.chain, record = self.pair(one)
        self.record_seq += 1
        self.records.append(record)

    @property
    def journal(self) -> bytes:
        return b"".join(self.records)

    def apply(self, entry: bytes) -> list[Any]:
        applied = [self.states[twin].apply(self.catalogs[twin], entry) for twin in (NATIVE, REFERENCE)]
        for name in ("batch_count", "row_count", "min_ts", "max_ts", "alerts_before", "alerts_after"):
            same([getattr(a, name) for a in applied])
        for batch in range(applied[REFERENCE].batch_count):
            same([a.summary(batch) for a in applied])
        self.next_seq = self.pair(lambda twin: self.states[twin].meta()).next_seq
        self.pair(lambda twin: self.states[twin].region_counts())
        self.pair(lambda twin: self.states[twin].digest())
        return applied

    def image(self) -> bytes:
        def one(twin: int) -> bytes:
            state = self.states[twin]
            length = state.checkpoint_begin()
            image = b""
            while piece := image_piece(state, 1000):
                image += piece
            state.checkpoint_end()
            assert len(image) == length
            return image

        image: bytes = self.pair(one)
        return image

    def reload(self, image: bytes, piece: int) -> None:
        """Both states as loaded from the image, fed in pieces."""
        for twin in (NATIVE, REFERENCE):
            loader = self.kernels[twin].state_loader(len(image))
            for at in range(0, len(image), piece):
                loader.feed(image[at : at + piece])
            self.states[twin] = loader.finish()
        assert self.image() == image
        self.check()

    def check(self) -> None:
        assert self.pair(lambda twin: self.states[twin].check(self.catalogs[twin])) == 0

    def query(self, spec: QuerySpec, groups_max: int = 1000) -> Any:
        def one(twin: int) -> Any:
            try:
                query = self.states[twin].query(self.catalogs[twin], spec, groups_max)
            except (TooManyGroups, ValueError) as error:
                return type(error)
            plan = (query.needs_scan, query.needs_scan and (query.first_seq, query.end_seq, query.edges))
            if query.needs_scan:
                query.scan(self.journal)
            return plan, query.rows()

        return self.pair(one)

    def events(self, account: int | bytes, since: int, until: int, after: int, metric: int | None, limit: int) -> Any:
        end = self.next_seq

        def one(twin: int) -> Any:
            scan = self.states[twin].events(account, since, until, after, end, metric)
            return scan.scan(self.journal, limit)

        return self.pair(one)
