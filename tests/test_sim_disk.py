"""The simulator's disk: the same claims as the real one, and what only a fake can be made to do."""

from __future__ import annotations

import pytest

from tests.disk_conformance import BLOCK, Completion, DiskConformance, Heard, block
from unimeter.core.effects import Create, Read, Write
from unimeter.core.inputs import DiskError, ReadDone, WriteDone
from unimeter.io.interface import Disk
from unimeter.sim.disk import KILL, POWER_CUT, DiskPort, SimDisk
from unimeter.sim.image import SECTOR_BYTES
from unimeter.sim.prng import Prng
from unimeter.sim.trace import Trace
from unimeter.sim.world import SECOND, World


class SimHarness:
    def __init__(self, seed: int = 0) -> None:
        self.world = World(Trace())
        self.disk = SimDisk(self.world, Prng(seed, "disk"))
        self.heard = Heard()

    def make_disk(self) -> Disk:
        port = self.disk.port(lambda call, *args: call(*args))
        port.start(self.heard.completed, self.heard.presume)
        return port

    def run_until_idle(self) -> list[Completion]:
        self.world.run(self.world.now_ns + SECOND)
        return self.heard.take_done()

    def crash_and_reopen(self) -> Disk:
        self.disk.crash(POWER_CUT)
        return self.make_disk()


class TestSimDisk(DiskConformance):
    @pytest.fixture(params=[0, 1, 2])
    def harness(self, request: pytest.FixtureRequest) -> SimHarness:
        return SimHarness(request.param)


def started(seed: int) -> tuple[SimHarness, Disk]:
    harness = SimHarness(seed)
    disk = harness.make_disk()
    disk.submit(Create(1, "a", 8 * BLOCK))
    disk.submit(Create(2, "b", 8 * BLOCK))
    harness.run_until_idle()
    return harness, disk


def sectors_of(harness: SimHarness, name: str, fill: int) -> list[bool]:
    content = harness.disk.image.files[name].actual
    return [content[at] == fill for at in range(0, len(content), SECTOR_BYTES)]


def test_power_cut_tears_a_write_at_any_subset_of_its_sectors_and_never_inside_one() -> None:
    seen = set()
    for seed in range(60):
        harness, disk = started(seed)
        disk.submit(Write(3, "a", 0, block(7, 2)))
        harness.disk.crash(POWER_CUT)
        content = harness.disk.image.files["a"].actual
        for at in range(0, len(content), SECTOR_BYTES):
            assert len(set(content[at : at + SECTOR_BYTES])) == 1, "a sector is whole or untouched"
        seen.add(tuple(sectors_of(harness, "a", 7)[:16]))
        assert not any(sectors_of(harness, "a", 7)[16:])
    assert (False,) * 16 in seen
    assert (True,) * 16 in seen
    assert len(seen) > 10, "torn in many ways"


def test_kill_leaves_a_prefix_of_what_one_lane_was_told() -> None:
    for seed in range(60):
        harness, disk = started(seed)
        for op in range(4):
            disk.submit(Write(3 + op, "a", op * BLOCK, block(7)))
        harness.disk.crash(KILL)
        landed = sectors_of(harness, "a", 7)
        assert landed == sorted(landed, reverse=True)


def test_nothing_of_a_dead_process_completes_later() -> None:
    harness, disk = started(0)
    disk.submit(Write(3, "a", 0, block(7)))
    harness.disk.crash(POWER_CUT)
    assert harness.run_until_idle() == []


def test_failed_sync_leaves_the_range_unknown_and_says_so() -> None:
    harness, disk = started(5)
    harness.disk.faults.verdict = lambda effect: DiskError.FAILED if isinstance(effect, Write) else None
    disk.submit(Write(3, "a", 0, block(7)))
    assert harness.run_until_idle() == [WriteDone(3, DiskError.FAILED)]
    assert harness.disk.failures == 1


def test_full_disk_refuses_growth_changes_nothing_and_takes_it_once_there_is_room() -> None:
    harness, disk = started(0)
    harness.disk.settings.capacity_bytes = harness.disk.image.used_bytes()
    disk.submit(Create(3, "c", BLOCK))
    disk.submit(Write(4, "a", 0, block(7)))
    disk.submit(Write(5, "b", 8 * BLOCK, block(7), bulk=True))
    done = {completion.op: completion.error for completion in harness.run_until_idle()}
    assert done == {3: DiskError.NO_SPACE, 4: None, 5: DiskError.NO_SPACE}
    assert sorted(harness.disk.image.files) == ["a", "b"]
    harness.disk.settings.capacity_bytes += 4 * BLOCK
    disk.submit(Create(6, "c", BLOCK))
    assert harness.run_until_idle() == [WriteDone(6)]


def test_misdirected_write_is_reported_done_and_taints_both_places_until_repaired() -> None:
    harness, disk = started(1)
    disk.submit(Write(3, "a", 0, block(1)))
    harness.run_until_idle()
    harness.disk.faults.misdirect = lambda effect: True
    assert not harness.disk.lying
    disk.submit(Write(4, "a", BLOCK, block(2)))
    assert harness.disk.lying, "it is decided when it is submitted: no other machine may be damaged meanwhile"
    assert harness.run_until_idle() == [WriteDone(4)]
    assert not harness.disk.lying
    assert harness.disk.fragile, "until another journal write follows, a crash could lose it unnoticed"
    assert "a" in harness.disk.image.tainted()
    assert harness.disk.image.files["a"].actual[BLOCK : 2 * BLOCK] != block(2)
    harness.disk.image.repair()
    assert harness.disk.image.tainted() == []
    assert harness.disk.image.files["a"].actual[: 2 * BLOCK] == block(1) + block(2)


def test_rot_spares_the_newest_journal_write_and_what_lies_behind_it() -> None:
    for seed in range(40):
        harness, disk = started(seed)
        for op in range(3):
            disk.submit(Write(3 + op, "a", op * BLOCK, block(7)))
        harness.run_until_idle()
        assert harness.disk.rot() is not None
        file = harness.disk.image.files["a"]
        assert file.actual[2 * BLOCK :] == file.ideal[2 * BLOCK :]
        assert harness.disk.image.tainted()


def test_read_during_a_write_sees_old_or_new_sectors_and_nothing_else() -> None:
    mixtures = set()
    for seed in range(30):
        harness, disk = started(seed)
        disk.submit(Write(3, "a", 0, block(7)))
        disk.submit(Read(4, "a", 0, BLOCK))
        for done in harness.run_until_idle():
            if isinstance(done, ReadDone):
                pieces = [done.data[at : at + SECTOR_BYTES] for at in range(0, BLOCK, SECTOR_BYTES)]
                assert all(piece in (bytes(SECTOR_BYTES), bytes([7]) * SECTOR_BYTES) for piece in pieces)
                mixtures.add(tuple(piece[0] for piece in pieces))
    assert len(mixtures) > 5


def test_changing_the_data_of_a_write_in_flight_is_noticed() -> None:
    harness, disk = started(0)
    data = bytearray(block(1))
    disk.submit(Write(3, "a", 0, data))
    data[0] = 9
    with pytest.raises(AssertionError, match="changed while it was being written"):
        harness.run_until_idle()


def test_unaligned_operations_are_refused() -> None:
    _, disk = started(0)
    assert isinstance(disk, DiskPort)
    for effect in (Write(3, "a", 512, block(1)), Write(3, "a", 0, b"x"), Read(3, "a", 1, BLOCK), Read(3, "a", 0, 1000)):
        with pytest.raises(AssertionError):
            disk.submit(effect)
