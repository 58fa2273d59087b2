"""What damage to a data directory looks like: `unimeter inspect` names it, and a node does not start as if it were whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import JAN_1, SMALL, Bench, v1_event, v1_ingest, v1_metric
from unimeter import kernels
from unimeter.core.audit import Audit, Report
from unimeter.core.inputs import StopRequested
from unimeter.io.offline import files_of, run_reading

FIRST, SECOND = "journal/0000000001.seg", "journal/0000000002.seg"
Files = dict[str, bytearray]


@pytest.fixture(scope="module")
def whole() -> Bench:
    """A node with records in two segments and a third made ready."""
    bench = Bench()
    bench.disk()
    bench.link()
    bench.ask(1, v1_metric("calls", 1, ("region",)))
    number = 0
    while bench.node.journal.position.segment < 2 or not bench.node.journal.next_segment_ready:
        events = [v1_event("calls", 7, 1, JAN_1 + number * 1000 + n, 0, {"region": "x" * 60}) for n in range(300)]
        assert bench.ask(1, v1_ingest(*events))[0] == 0
        number += 1
    assert bench.ask(1, v1_ingest(v1_event("calls", 8, 1, JAN_1)))[0] == 0
    return bench


def inspect(files: Files, place: Path) -> Report:
    for name, data in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return run_reading(place, Audit(kernels.load(), SMALL, files_of(place)).run())


def start(files: Files) -> Bench:
    bench = Bench({name: bytearray(data) for name, data in files.items()})
    bench.disk()
    return bench


def flip(name: str, back: int) -> Callable[[Files], None]:
    def damage(files: Files) -> None:
        end = len(bytes(files[name]).rstrip(b"\0"))
        files[name][end - back] ^= 1

    return damage


def cut(files: Files) -> None:
    del files[SECOND][-4096:]


def remove(name: str) -> Callable[[Files], None]:
    return lambda files: (files.pop(name), None)[1]


def test_a_whole_directory_has_no_problems(whole: Bench, tmp_path: Path) -> None:
    report = inspect(whole.files, tmp_path)
    assert (report.problems, report.torn_tail) == ([], False)
    assert [segment.number for segment in report.segments] == [1, 2, 3]
    assert start(whole.files).node.ready


@pytest.mark.parametrize(
    ("damage", "file"),
    [
        (flip(FIRST, 200_000), FIRST),
        (flip(FIRST, 50), FIRST),
        (remove(FIRST), FIRST),
        (remove(SECOND), SECOND),
        (cut, SECOND),
    ],
    ids=["rot", "rot in the last record of a segment", "first file gone", "middle file gone", "file cut off"],
)
def test_damage_is_named_by_inspect_and_refused_at_the_start(
    whole: Bench, tmp_path: Path, damage: Callable[[Files], None], file: str
) -> None:
    files = {name: bytearray(data) for name, data in whole.files.items()}
    damage(files)
    report = inspect(files, tmp_path)
    assert report.problems[0].startswith(file)
    assert not report.torn_tail
    again = start(files)
    assert again.halted is not None and file in str(again.halted.reason)


def test_a_torn_tail_is_no_damage(whole: Bench, tmp_path: Path) -> None:
    files = {name: bytearray(data) for name, data in whole.files.items()}
    flip(SECOND, 20)(files)
    report = inspect(files, tmp_path)
    assert (report.problems, report.torn_tail) == ([], True)
    assert start(files).node.ready


def test_a_journal_that_ends_before_its_checkpoint_is_damage(whole: Bench, tmp_path: Path) -> None:
    stopped = whole.restart()
    stopped.step(StopRequested())
    stopped.disk()
    files = {name: bytearray(data) for name, data in stopped.files.items()}
    assert any(name.startswith("checkpoint/") for name in files)
    flip(SECOND, 20)(files)
    report = inspect(files, tmp_path)
    assert report.problems == [
        "the journal ends with record {}, but a checkpoint holds record {}".format(*ends(report))
    ]


def ends(report: Report) -> tuple[int, int]:
    return max(segment.last_record for segment in report.segments), report.checkpoints[-1].record
