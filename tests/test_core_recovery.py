"""Starting again: after a death at any write to the disk, and on directories from before there were replicas."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.cluster_bench import CLUSTER, ClusterBench, Machine
from tests.core_journal import KERNELS, Written
from tests.harness import JAN_1, SMALL, Bench, v1_event, v1_ingest, v1_metric, v1_usage
from tests.test_core_cluster import Clients
from unimeter.config import KIB, MIB
from unimeter.core import identity
from unimeter.core.effects import Create, Delete, Read, Write
from unimeter.core.entry import head_of
from unimeter.core.identity import FOUNDING_FILE, VERSION, VERSION_ALONE
from unimeter.core.inputs import Input
from unimeter.kernels import layout
from unimeter.kernels import protocol as wire

SECTOR = 512
RESTLESS = replace(  # rolls and checkpoints all the time
    CLUSTER,
    frame_bytes_max=8 * KIB,
    entry_bytes_max=16 * KIB,
    segment_bytes=48 * KIB,
    checkpoint_after_bytes=12 * KIB,
    checkpoint_after_state_percent=0,
    recovery_read_bytes=8 * KIB,
    scan_read_bytes=4 * KIB,
    append_bytes_max=8 * KIB,
    log_mark_bytes=4 * KIB,
    peer_frame_bytes_max=4 * MIB,
)


class Mortal(ClusterBench):
    """One node dies in the middle of its n-th disk operation, and what it wrote is torn."""

    victim = 0
    left = -1  # operations until it dies; negative: it lives
    tear = ""

    def _disk(self, machine: Machine, effect: Write | Create | Delete | Read) -> Input:
        if machine.node_id == self.victim and not isinstance(effect, Read) and self.left >= 0:
            self.left -= 1
            if self.left < 0:
                if isinstance(effect, Write) and self.tear != "nothing":
                    self._torn(machine, effect)
                return lambda: self.kill(machine.node_id)  # type: ignore[return-value]  # the queue takes both
        return super()._disk(machine, effect)

    def _torn(self, machine: Machine, effect: Write) -> None:
        content, data = machine.files[effect.file], bytes(effect.data)
        sectors = range(0, len(data), SECTOR)
        kept = {"half": sectors[: len(sectors) // 2], "ends": [*sectors[:1], *sectors[-1:]], "all": sectors}[self.tear]
        content.extend(bytes(max(0, effect.offset + len(data) - len(content))))
        for at in kept:
            content[effect.offset + at : effect.offset + at + SECTOR] = data[at : at + SECTOR]


def work(clients: Clients, first: int, rounds: int) -> None:
    for n in range(first, first + rounds):
        events = [v1_event("calls", account, 1, JAN_1 + n * 1000 + k) for account in range(4) for k in range(6)]
        stored(clients, v1_ingest(*events), 1 + n % 3)


def stored(clients: Clients, request: bytes, first: int) -> None:
    """Send it until somebody says that it is stored; the one that is asked may die of it."""
    bench = clients.bench
    for attempt in range(300):  # an election or two
        number = 1 + (first + attempt) % 3
        if bench.machines[number].node is not None:
            link = bench.client(number)
            answer = bench.ask(number, link, request)
            for _ in range(60):
                if answer or bench.machines[number].node is None:
                    break
                answer = bench.ask(number, link, b"", 10)
            if answer and answer[0] == 0:
                return
        bench.run(10)
    raise AssertionError("nobody stores this")


@pytest.mark.parametrize("tear", ["nothing", "half", "ends", "all"])
def test_a_death_at_any_disk_operation_loses_nothing_and_adds_nothing(tear: str) -> None:
    bench = Mortal(3, 2, RESTLESS)
    bench.start()
    bench.run(5000, bench.ready)
    clients = Clients(bench)
    assert clients.raw(1, v1_metric("calls"), 2000)[0] == 0
    rounds = 0
    for death in range(14):
        bench.victim, bench.left, bench.tear = 1 + death % 3, 3 * death % 11, tear
        work(clients, rounds, 6)
        rounds += 6
        if bench.machines[bench.victim].node is None:
            bench.left = -1
            bench.start(bench.victim)
            bench.run(8000, bench.ready)
    bench.left = -1
    bench.run(8000, bench.ready)
    assert [clients.count(account) for account in range(4)] == [6 * rounds] * 4
    bench.run(1000)
    for group in range(2):
        assert len({(n.groups[group].applied_index, n.groups[group].state.meta().digest) for n in bench.nodes()}) == 1
    before = [bench.machines[n].node.groups[0].state.meta().digest for n in (1, 2, 3)]
    for number in (1, 2, 3):
        bench.kill(number)
    bench.start()
    bench.run(8000, bench.ready)
    bench.run(1000)
    assert [bench.machines[n].node.groups[0].state.meta().digest for n in (1, 2, 3)] == before
    assert any(bench.machines[n].node.recovered.checkpoints for n in (1, 2, 3))


# ---- before there were replicas ----


def old_directory(count: int = 40) -> tuple[dict[str, bytearray], int, bytes]:
    """A directory of format 1 with so many events of account 7: no founding, no hard states. And its state's digest."""
    bench = Bench()
    bench.disk()
    bench.link()
    assert bench.ask(1, v1_metric("calls")) == (0, b"")
    for n in range(count):
        assert bench.ask(1, v1_ingest(v1_event("calls", 7, 1, JAN_1 + n)))[0] == 0
    node = bench.node
    found = node.recovered.identity
    written = Written(SMALL, found.cluster_id)
    segment = bytes(bench.files["journal/0000000001.seg"][4096:])
    start = written.start()
    scan = KERNELS.journal_verify(segment, start.seq, start.chain)
    for begin, end in zip(scan.offsets, [*scan.offsets[1:], scan.consumed], strict=True):
        entries = [e for e in KERNELS.record_entries(segment[begin:end]) if head_of(e).kind != layout.UM_ENTRY_HARD]
        if entries:
            written.append([bytes(e) for e in entries])
    fields = {
        "version": VERSION_ALONE,
        "cluster": found.cluster_id,
        "node": found.node_id,
        "groups": 1,
        "limits": layout.encode_limits(found.limits),
    }
    files = dict(written.files)
    files[identity.FILE] = bytearray(identity._seal(KERNELS, identity.MAGIC, fields))
    return files, count, node.groups[0].state.meta().digest


def serves(bench: Bench, count: int, digest: object) -> None:
    assert bench.node.ready, (bench.halted, bench.node.progress)
    assert bench.node.groups[0].state.meta().digest == digest
    bench.link()
    status, payload = bench.ask(1, v1_usage(7, "calls", 0, 2**62))
    assert status == 0 and wire.V1_AGGREGATE.unpack(payload)[2] == count


def test_a_directory_from_before_there_were_replicas_becomes_a_cluster_of_one() -> None:
    files, count, digest = old_directory()
    bench = Bench(files)
    bench.disk()
    serves(bench, count, digest)
    found = identity.decode(bytes(bench.files[identity.FILE]), KERNELS)
    assert found is not None and found.replica
    assert (
        identity._unseal(KERNELS, identity.MAGIC, identity.FILE, bytes(bench.files[identity.FILE]))["version"]
        == VERSION
    )
    assert identity.decode_founding(KERNELS, bytes(bench.files[FOUNDING_FILE])).names(found.node_id, found.replica)
    again = bench.restart()
    assert again.node.replica == found.replica
    serves(again, count, digest)
    assert again.ask(1, v1_ingest(v1_event("calls", 7, 1, JAN_1 + 999)))[0] == 0
    serves(again.restart(), count + 1, again.node.groups[0].state.meta().digest)


@pytest.mark.parametrize("operations", range(12))
def test_an_upgrade_that_dies_half_way_is_done_by_the_next_start(operations: int) -> None:
    files, count, digest = old_directory(5)
    bench = Bench(files)
    bench.disk(operations)
    again = bench.restart()
    serves(again, count, digest)
    serves(again.restart(), count, digest)


def test_the_event_log_of_an_old_directory_survives_a_torn_tail() -> None:
    files, count, _ = old_directory()
    segment = files["journal/0000000001.seg"]
    end = max(at for at in range(len(segment)) if segment[at])
    segment[end - 20] ^= 0xFF
    bench = Bench(files)
    bench.disk()
    assert bench.node.ready and bench.node.recovered.torn_tail
    bench.link()
    status, payload = bench.ask(1, v1_usage(7, "calls", 0, 2**62))
    assert status == 0 and wire.V1_AGGREGATE.unpack(payload)[2] == count - 1
