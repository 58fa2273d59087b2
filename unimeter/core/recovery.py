"""Recovery: from the files of a data directory to the state that the log says, and the place to write next.

    identity -> newest usable checkpoint -> the journal from there on -> the end of the journal

Where reading the journal stops, exactly one of three things is true, and telling them apart is the point:

    its end      zeroes, and no valid later record anywhere behind
    a torn tail  a damaged record, and no valid later record behind: never acknowledged, cut off quietly
    rot          a record that cannot be read with valid later ones behind it: it had been durable, and perhaps
                 acknowledged. Never dropped silently: the node refuses to start and names the place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from unimeter.config import BLOCK_BYTES, NodeConfig
from unimeter.core import checkpoint, identity, journal
from unimeter.core.flow import Corrupt, CreateFile, Flow, ReadFailed, ReadFile, WriteFile
from unimeter.core.group import Group
from unimeter.core.identity import Identity
from unimeter.core.inputs import FileInfo
from unimeter.core.journal import Position, block_floor, segment_file
from unimeter.core.journal_read import find_later, read_records
from unimeter.kernels import layout
from unimeter.kernels.api import Kernels, Limits, StateLoader


@dataclass
class Recovered:
    identity: Identity
    groups: list[Group]
    position: Position  # of the next record
    tail: bytes  # bytes of position's block before it
    next_segment_ready: bool
    checkpoints: list[str] = field(default_factory=list)  # oldest first; the last one was used
    stale: list[str] = field(default_factory=list)  # checkpoint files that are of no use
    replayed_bytes: int = 0
    replayed_rows: int = 0
    torn_tail: bool = False


class Recovery:
    """One start-up. `run` is the flow; `progress` says in words how far it is."""

    def __init__(
        self, kernels: Kernels, config: NodeConfig, limits: Limits, cluster_id: int, files: tuple[FileInfo, ...]
    ) -> None:
        """`limits` and `cluster_id` are for a directory that is used for the first time."""
        self._kernels = kernels
        self._config = config
        self._limits = limits
        self._cluster_id = cluster_id
        self._sizes = {file.name: file.size_bytes for file in files}
        self._segments = sorted(n for n in map(journal.segment_number, self._sizes) if n is not None)
        self.progress = "reading the identity"

    def run(self) -> Flow[Recovered]:
        found = None
        if identity.FILE in self._sizes:
            found = identity.decode((yield ReadFile(identity.FILE, 0, BLOCK_BYTES)), self._kernels)
        if found is None:
            return (yield from self._fresh())
        if found.node_id != self._config.node_id:
            raise Corrupt(
                f"this directory belongs to node {found.node_id}, not {self._config.node_id}: use another --data-dir or --id"
            )
        if found.group_count != self._config.group_count:
            raise Corrupt(
                f"this directory has {found.group_count} groups, not {self._config.group_count}: the number is fixed at creation"
            )
        recovered = yield from self._from_checkpoint(found)
        yield from self._replay(recovered)
        return recovered

    def _groups(self, limits: Limits) -> list[Group]:
        return [Group(n, self._kernels, self._config, limits) for n in range(self._config.group_count)]

    # ---- a new directory ----

    def _fresh(self) -> Flow[Recovered]:
        """Lay out a new directory; the identity comes last, so that a crash before it means: still new."""
        if any(checkpoint.checkpoint_number(name) is not None for name in self._sizes) or self._segments not in (
            [],
            [1],
        ):
            raise Corrupt(
                f"file {identity.FILE} is missing beside a journal: restore it from a backup of the directory"
            )
        if self._segments and (yield from self._has_records(1)):
            raise Corrupt(f"file {identity.FILE} is missing beside a journal with records: restore it from a backup")
        self.progress = "laying out a new data directory"
        made = Identity(self._cluster_id, self._config.node_id, self._config.group_count, self._limits)
        yield CreateFile(segment_file(1), self._config.segment_bytes)
        yield WriteFile(segment_file(1), 0, journal.segment_header(self._kernels, self._cluster_id, 1))
        yield CreateFile(identity.FILE, BLOCK_BYTES)
        yield WriteFile(identity.FILE, 0, made.encode(self._kernels))
        return Recovered(made, self._groups(self._limits), journal.start(self._kernels, self._cluster_id), b"", False)

    def _has_records(self, segment: int) -> Flow[bool]:
        try:
            block = yield ReadFile(segment_file(segment), BLOCK_BYTES, BLOCK_BYTES)
        except ReadFailed:
            return False
        return any(block)

    # ---- checkpoints ----

    def _from_checkpoint(self, found: Identity) -> Flow[Recovered]:
        start = journal.start(self._kernels, found.cluster_id)
        names = sorted(name for name in self._sizes if checkpoint.checkpoint_number(name) is not None)
        for number in range(len(names) - 1, -1, -1):
            self.progress = f"loading {names[number]}"
            groups = self._groups(found.limits)
            loaders: dict[int, StateLoader] = {}
            sink = self._sink(groups, loaders)
            try:
                header = yield from checkpoint.read(self._kernels, names[number], self._sizes[names[number]], sink)
                if header.cluster_id != found.cluster_id or len(loaders) != len(groups):
                    raise checkpoint.Unusable("it belongs to another cluster")
                for group in groups:
                    group.adopt(loaders[group.number].finish())
            except (checkpoint.Unusable, ValueError):
                continue  # incomplete (a crash while it was written) or damaged: the journal has everything
            return Recovered(found, groups, header.position, b"", False, names[: number + 1], names[number + 1 :])
        return Recovered(found, self._groups(found.limits), start, b"", False, stale=names)

    def _sink(self, groups: list[Group], loaders: dict[int, StateLoader]) -> Callable[[str, int, bytes], None]:
        whole: dict[str, bytearray] = {}

        def sink(section: str, total: int, data: bytes) -> None:
            kind, _, number = section.partition(":")
            group = groups[int(number)]
            if kind == "state":
                if group.number not in loaders:
                    loaders[group.number] = self._kernels.state_loader(total)
                loaders[group.number].feed(data)
                return
            gathered = whole.setdefault(section, bytearray())
            gathered += data
            if len(gathered) == total:
                (group.catalog.load if kind == "catalog" else group.archive.load)(bytes(gathered))

        return sink

    # ---- the journal ----

    def _replay(self, recovered: Recovered) -> Flow[None]:
        """Apply every record from recovered.position on; leave position and tail at the journal's end."""
        at = recovered.position
        for segment in range(at.segment, max([at.segment, *self._segments]) + 1):  # made one after the other: no gaps
            if segment not in self._segments:
                raise Corrupt(f"file {segment_file(segment)} is missing: restore it from a backup of the directory")
        while True:
            at = yield from self._replay_segment(recovered, at)
            following = at._replace(segment=at.segment + 1, offset=BLOCK_BYTES)
            if (yield from self._continues(recovered.identity, following)):
                at = following
                continue
            break
        yield from self._check_nothing_later(at)
        block = yield ReadFile(segment_file(at.segment), block_floor(at.offset), BLOCK_BYTES)
        recovered.position, recovered.tail = at, block[: at.offset % BLOCK_BYTES]
        recovered.next_segment_ready = yield from self._has_header(recovered.identity, at.segment + 1)

    def _replay_segment(self, recovered: Recovered, at: Position) -> Flow[Position]:
        """Apply the readable records of one segment from `at` on; returns where they end."""
        size = self._sizes[segment_file(at.segment)]
        if size < self._config.segment_bytes:  # it had its full size before its first record was written
            raise Corrupt(
                f"file {segment_file(at.segment)} was cut off: {size} of {self._config.segment_bytes} bytes; restore it from a backup"
            )

        def apply(began: Position, record: bytes) -> None:
            self._apply(recovered, began, record)

        at, stop = yield from read_records(self._kernels, self._config, at, size, apply)
        recovered.torn_tail = stop == layout.UM_J_BAD
        return at

    def _apply(self, recovered: Recovered, began: Position, record: bytes) -> None:
        for entry in self._kernels.record_entries(record):
            head = layout.EntryHead._make(layout.ENTRY.unpack_from(entry))
            if head.group >= len(recovered.groups):
                place = f"file {segment_file(began.segment)}, offset {began.offset}"
                raise Corrupt(f"{place}: an entry of group {head.group}, which does not exist")
            recovered.groups[head.group].replay(entry, began, len(record))
            recovered.replayed_rows += head.row_count
        recovered.replayed_bytes += len(record)
        file = segment_file(began.segment)
        self.progress = f"replaying {file} of {len(self._segments)}: {recovered.replayed_rows} events so far"

    def _has_header(self, found: Identity, segment: int) -> Flow[bool]:
        if self._sizes.get(segment_file(segment), 0) != self._config.segment_bytes:
            return False
        block = yield ReadFile(segment_file(segment), 0, BLOCK_BYTES)
        return journal.is_segment_header(self._kernels, block, found.cluster_id, segment)

    def _continues(self, found: Identity, at: Position) -> Flow[bool]:
        """Does the chain go on with the first record of at.segment?"""
        if not (yield from self._has_header(found, at.segment)):
            return False
        data = yield ReadFile(segment_file(at.segment), at.offset, self._config.recovery_read_bytes)
        scan = self._kernels.journal_verify(data, at.seq, at.chain)
        if scan.offsets or scan.stop != layout.UM_J_END:
            return bool(scan.offsets)
        data = yield ReadFile(segment_file(at.segment), at.offset, self._config.segment_bytes - at.offset)
        return bool(self._kernels.journal_verify(data, at.seq, at.chain).offsets)

    def _check_nothing_later(self, at: Position) -> Flow[None]:
        """Raises Corrupt when a valid record later than at.seq stands anywhere behind `at`: that makes it rot."""
        for segment in [n for n in self._segments if n >= at.segment]:
            size = self._sizes[segment_file(segment)]
            later = yield from find_later(self._kernels, self._config, segment, size, at)
            if later is not None:
                raise Corrupt(
                    f"file {segment_file(at.segment)}, offset {at.offset}: record {at.seq + 1} cannot be read, but a later "
                    f"record stands in {segment_file(segment)} at offset {later}. Acknowledged events would be lost: "
                    "restore these files from a backup (unimeter inspect shows the damage)"
                )
