"""The first two promises, on a real process: nothing acknowledged is lost, nothing is counted twice."""

from __future__ import annotations

from pathlib import Path

from tests.crash_loop import crash_loop


def test_acknowledged_events_count_exactly_once_after_every_kill(tmp_path: Path) -> None:
    outcome = crash_loop(tmp_path / "data", rounds=4, seed=11, load_s=0.4)
    assert outcome.rounds == 4
    assert outcome.events > 0
    assert outcome.resent_batches > 0, "no batch was ever in flight at a kill: the load was too light to mean anything"
