"""Garbage at the port disturbs nobody (a small count; `python -m tests.port_garbage` sends a million frames)."""

from __future__ import annotations

from pathlib import Path

from tests.port_garbage import port_garbage


def test_garbage_changes_no_total_and_disturbs_no_connection(tmp_path: Path) -> None:
    outcome = port_garbage(tmp_path / "data", frames=6_000, seed=3)
    assert outcome.bystander_events > 0
