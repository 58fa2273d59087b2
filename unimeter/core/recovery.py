"""Recovery: from the files of a data directory to the state that the log says, and the place to write next.

    identity -> newest usable checkpoint -> the journal from there on -> the end of the journal

Where reading the journal stops, exactly one of three things is true, and telling them apart is the point:

    its end      zeroes, and no valid later record anywhere behind
    a torn tail  a damaged record, and no valid later record behind: never acknowledged, cut off quietly
    rot          a record that cannot be read with valid later ones behind it: it had been durable, and perhaps
                 acknowledged. Never dropped silently. A node alone refuses to start and names the place; one that has
                 fellows tells them that it cannot be believed, and neither votes nor leads (rejoin.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgpack

from unimeter.config import BLOCK_BYTES, NodeConfig
from unimeter.core import checkpoint, identity, journal
from unimeter.core.entry import head_of
from unimeter.core.flow import Corrupt, CreateFile, Flow, ReadFailed, ReadFile, WriteFile
from unimeter.core.founding import Founding, alone
from unimeter.core.group import Group
from unimeter.core.identity import EMPTYING, FRESH, SOUND, Identity
from unimeter.core.inputs import FileInfo
from unimeter.core.journal import Position, block_floor, segment_file
from unimeter.core.journal_read import find_later, read_records
from unimeter.core.log_marks import LogMarks
from unimeter.core.prng import Prng
from unimeter.core.replay import Replay
from unimeter.kernels import layout
from unimeter.kernels.api import Kernels, Limits, StateLoader


@dataclass
class Recovered:
    identity: Identity
    founding: Founding
    groups: list[Group]
    replays: list[Replay]
    marks: LogMarks
    position: Position  # of the next record
    tail: bytes  # bytes of position's block before it
    next_segment_ready: bool
    checkpoints: list[str] = field(default_factory=list)  # oldest first; the last one was used
    stale: list[str] = field(default_factory=list)  # checkpoint files that are of no use
    notices: list[str] = field(default_factory=list)  # for the operator: why they are of none
    replayed_bytes: int = 0
    replayed_rows: int = 0
    torn_tail: bool = False


@dataclass
class Unusable:
    """A directory of a replica that must not be believed: what it is told by `why` cannot be repaired here."""

    identity: Identity
    founding: Founding
    files: list[str]  # all of them
    why: str
    emptying: bool  # its fellows do without it already; deleting it had begun


@dataclass
class Fresh:
    """A directory that was not used yet, of a node that has to find out where it belongs."""

    replica: int
    cluster_id: int  # for the case that it founds


Found = Recovered | Unusable | Fresh


def make_groups(kernels: Kernels, config: NodeConfig, founding: Founding) -> list[Group]:
    return [Group(number, kernels, config, founding.limits) for number in range(founding.group_count)]


def make_replays(groups: list[Group], founding: Founding, found: Identity) -> list[Replay]:
    founder = found.replica != 0 and founding.names(found.node_id, found.replica)
    return [
        Replay(group, founding.conf(group.number) if founder else None, alone=found.replica == 0) for group in groups
    ]


class Recovery:
    """One start-up. `run` is the flow; `progress` says in words how far it is."""

    def __init__(
        self, kernels: Kernels, config: NodeConfig, limits: Limits, prng: Prng, files: tuple[FileInfo, ...]
    ) -> None:
        """`limits`: for a directory that is used for the first time. `prng` draws the ids of a new one."""
        self._kernels = kernels
        self._config = config
        self._limits = limits
        self._prng = prng
        self._sizes = {file.name: file.size_bytes for file in files}
        self._segments = sorted(n for n in map(journal.segment_number, self._sizes) if n is not None)
        self.progress = "reading the identity"

    def run(self) -> Flow[Found]:
        found = None
        if identity.FILE in self._sizes:
            found = identity.decode((yield ReadFile(identity.FILE, 0, BLOCK_BYTES)), self._kernels)
        if found is None:
            yield from self._check_fresh()
            fresh = Fresh(1 + self._prng.below(2**63), self._prng.u64())
            if len(self._config.members) > 1:
                yield from self._write_fresh(fresh.replica)
                return fresh
            founding = alone(self._config, self._limits, fresh.cluster_id, fresh.replica)
            return (yield from self.lay_out(founding, fresh.replica))
        if found.node_id != self._config.node_id:
            raise Corrupt(
                f"this directory belongs to node {found.node_id}, not {self._config.node_id}: use another --data-dir or --id"
            )
        if found.state == FRESH:
            return Fresh(found.replica, self._prng.u64())
        founding = yield from self._founding(found)
        if found.state != SOUND:
            return self._unusable(found, founding, "the node found its data to be damaged before")
        recovered = yield from self._from_checkpoint(found, founding)
        try:
            yield from self._replay(recovered)
        except Corrupt as damage:
            if len(founding.nodes) == 1 and len(self._config.members) <= 1:
                raise  # there is nobody to get it from
            return self._unusable(found, founding, str(damage))
        if found.replica == 0:
            yield from self._upgrade(recovered)
        return recovered

    def _unusable(self, found: Identity, founding: Founding, why: str) -> Unusable:
        return Unusable(found, founding, sorted(self._sizes), why, found.state == EMPTYING)

    def _founding(self, found: Identity) -> Flow[Founding]:
        if identity.FOUNDING_FILE in self._sizes:
            block = yield ReadFile(identity.FOUNDING_FILE, 0, BLOCK_BYTES)
            if any(block):
                return identity.decode_founding(self._kernels, block)
        if found.replica:
            raise Corrupt(
                f"file {identity.FOUNDING_FILE} is missing: restore it from a backup of the directory, or from another node's"
            )
        return alone(self._config, found.limits, found.cluster_id, 0)

    def _upgrade(self, recovered: Recovered) -> Flow[None]:
        """A directory from before there were replicas becomes that of a cluster of one."""
        old = recovered.identity
        replica = 1 + self._prng.below(2**63)
        recovered.founding = alone(self._config, old.limits, old.cluster_id, replica)
        for replay in recovered.replays:
            replay.refound(recovered.founding.conf(replay.group.number))
        recovered.identity = Identity(old.cluster_id, old.node_id, old.group_count, old.limits, replica)
        yield from self._write_identity(recovered.identity, recovered.founding)

    # ---- a new directory ----

    def _check_fresh(self) -> Flow[None]:
        if any(checkpoint.checkpoint_number(name) is not None for name in self._sizes) or self._segments not in (
            [],
            [1],
        ):
            raise Corrupt(
                f"file {identity.FILE} is missing beside a journal: restore it from a backup of the directory"
            )
        if self._segments and (yield from self._has_records(1)):
            raise Corrupt(f"file {identity.FILE} is missing beside a journal with records: restore it from a backup")

    def _write_fresh(self, replica: int) -> Flow[None]:
        """A founder's replica id must outlive a crash from the moment that others may have written it down."""
        made = Identity(0, self._config.node_id, self._config.group_count, self._limits, replica, FRESH)
        yield CreateFile(identity.FILE, BLOCK_BYTES)
        self._sizes[identity.FILE] = BLOCK_BYTES
        yield WriteFile(identity.FILE, 0, made.encode(self._kernels))

    def lay_out(self, founding: Founding, replica: int) -> Flow[Recovered]:
        """Lay out a new directory; the identity comes last, so that a crash before it means: still new."""
        kernels, cluster_id = self._kernels, founding.cluster_id
        self.progress = "laying out a new data directory"
        made = Identity(cluster_id, self._config.node_id, founding.group_count, founding.limits, replica)
        yield CreateFile(segment_file(1), self._config.segment_bytes)
        yield WriteFile(segment_file(1), 0, journal.segment_header(kernels, cluster_id, 1))
        yield from self._write_identity(made, founding)
        start = journal.start(kernels, cluster_id)
        groups = make_groups(kernels, self._config, founding)
        replays = make_replays(groups, founding, made)
        return Recovered(made, founding, groups, replays, self._marks(founding), start, b"", False)

    def _write_identity(self, made: Identity, founding: Founding) -> Flow[None]:
        if identity.FOUNDING_FILE not in self._sizes:
            yield CreateFile(identity.FOUNDING_FILE, BLOCK_BYTES)
            self._sizes[identity.FOUNDING_FILE] = BLOCK_BYTES
        yield WriteFile(identity.FOUNDING_FILE, 0, identity.encode_founding(self._kernels, founding))
        if identity.FILE not in self._sizes:
            yield CreateFile(identity.FILE, BLOCK_BYTES)
        yield WriteFile(identity.FILE, 0, made.encode(self._kernels))

    def _marks(self, founding: Founding) -> LogMarks:
        start = journal.start(self._kernels, founding.cluster_id)
        return LogMarks(self._config.log_mark_bytes, founding.group_count, start)

    def _has_records(self, segment: int) -> Flow[bool]:
        try:
            block = yield ReadFile(segment_file(segment), BLOCK_BYTES, BLOCK_BYTES)
        except ReadFailed:
            return False
        return any(block)

    # ---- checkpoints ----

    def _from_checkpoint(self, found: Identity, founding: Founding) -> Flow[Recovered]:
        start = journal.start(self._kernels, found.cluster_id)
        names = sorted(name for name in self._sizes if checkpoint.checkpoint_number(name) is not None)
        notices: list[str] = []
        for number in range(len(names) - 1, -1, -1):
            self.progress = f"loading {names[number]}"
            groups = make_groups(self._kernels, self._config, founding)
            replays, marks = make_replays(groups, founding, found), self._marks(founding)
            loaders: dict[int, StateLoader] = {}
            meta = bytearray()
            sink = self._sink(meta, loaders)
            try:
                header = yield from checkpoint.read(self._kernels, names[number], self._sizes[names[number]], sink)
                if header.cluster_id != found.cluster_id or len(loaders) != len(groups):
                    raise checkpoint.Unusable("it belongs to another cluster")
                for group in groups:
                    group.adopt(loaders[group.number].finish())
                self._restore(msgpack.unpackb(bytes(meta)), replays, marks)
            except (checkpoint.Unusable, ValueError, KeyError, TypeError) as error:
                # incomplete (a crash while it was written), damaged, or of another version of this program
                why = str(error) if isinstance(error, checkpoint.Unusable) else f"malformed: {error}"
                notices.append(
                    f"{names[number]} is not used ({why}); the journal, which has everything, is read instead"
                )
                continue
            marks.rewind(header.position)
            older, newer = names[: number + 1], names[number + 1 :]
            return Recovered(
                found, founding, groups, replays, marks, header.position, b"", False, older, newer, notices
            )
        groups = make_groups(self._kernels, self._config, founding)
        replays = make_replays(groups, founding, found)
        return Recovered(
            found, founding, groups, replays, self._marks(founding), start, b"", False, stale=names, notices=notices
        )

    def _sink(self, meta: bytearray, loaders: dict[int, StateLoader]) -> checkpoint.Sink:
        def sink(section: str, total: int, data: memoryview) -> None:
            if section == "meta":
                meta.extend(data)
                return
            number = int(section.removeprefix("state:"))
            if number not in loaders:
                loaders[number] = self._kernels.state_loader(total)
            loaders[number].feed(data)

        return sink

    @staticmethod
    def _restore(meta: dict[str, Any], replays: list[Replay], marks: LogMarks) -> None:
        for replay, fields in zip(replays, meta["groups"], strict=True):
            replay.group.catalog.load(fields["catalog"])
            replay.group.archive.load(fields["archive"])
            replay.group.cluster = fields["cluster"]
            replay.restore(fields["raft"])
        marks.load(meta["marks"])

    # ---- the journal ----

    def _replay(self, recovered: Recovered) -> Flow[None]:
        """Read every record from recovered.position on; leave position and tail at the journal's end."""
        at = recovered.position
        for segment in range(at.segment, max([at.segment, *self._segments]) + 1):  # made one after the other: no gaps
            if segment not in self._segments:
                raise Corrupt(f"file {segment_file(segment)} is missing: restore it from a backup of the directory")
        while True:
            at = yield from self._replay_segment(recovered, at)
            following = at.next_segment()
            if (yield from self._continues(recovered.identity, following)):
                at = following
                continue
            break
        yield from self._check_nothing_later(at)
        for replay in recovered.replays:
            if replay.gap:
                raise Corrupt(f"the journal of group {replay.group.number} has {replay.gap}: restore it from a backup")
        recovered.marks.settle(replay.last_index for replay in recovered.replays)
        block = yield ReadFile(segment_file(at.segment), block_floor(at.offset), BLOCK_BYTES)
        recovered.position, recovered.tail = at, block[: at.offset % BLOCK_BYTES]
        recovered.next_segment_ready = yield from self._has_header(recovered.identity, at.segment + 1)

    def _replay_segment(self, recovered: Recovered, at: Position) -> Flow[Position]:
        """Take the readable records of one segment from `at` on; returns where they end."""
        size = self._sizes[segment_file(at.segment)]
        if size < self._config.segment_bytes:  # it had its full size before its first record was written
            raise Corrupt(
                f"file {segment_file(at.segment)} was cut off: {size} of {self._config.segment_bytes} bytes; restore it from a backup"
            )

        def take(began: Position, record: memoryview) -> None:
            self._take(recovered, began, record)

        at, stop = yield from read_records(self._kernels, self._config, at, size, take)
        recovered.torn_tail = stop == layout.UM_J_BAD
        return at

    def _take(self, recovered: Recovered, began: Position, record: memoryview) -> None:
        ends: dict[int, int] = {}
        for entry in self._kernels.record_entries(record):
            head = head_of(entry)
            place = f"file {segment_file(began.segment)}, offset {began.offset}"
            if head.group >= len(recovered.groups):
                raise Corrupt(f"{place}: an entry of group {head.group}, which does not exist")
            try:
                recovered.replays[head.group].take(entry, head, began, len(record))
            except ValueError as error:
                raise Corrupt(f"{place}: group {head.group}: {error}") from error
            if head.kind != layout.UM_ENTRY_HARD:
                ends[head.group] = head.index
                recovered.replayed_rows += head.row_count
        recovered.marks.record(began, ends.items())
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
