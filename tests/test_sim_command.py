"""`unimeter sim` as its user sees it."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner, Result

from unimeter.commands.sim import app


def sim(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_fleet_passes_and_writes_what_it_did(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    done = sim("--seeds", "12", "--first-seed", "100", "--jobs", "1", "--json", str(path))
    result = json.loads(path.read_text())
    assert result["failure"] is None, result["failure"]
    assert result["runs"] == 12
    assert result["evaluated"]["totals_match_the_oracle"] > 0
    assert done.exit_code == (1 if result["never_evaluated"] else 0)
    assert "seeds/s" in done.output


def test_canary_fails_the_fleet_and_the_printed_command_reproduces_it() -> None:
    done = sim("--seeds", "50", "--jobs", "1", "--canary", "drops_a_threshold")
    assert done.exit_code == 1
    assert "alerts_match_the_oracle" in done.output
    assert "For all thresholds" in done.output
    line = next(line for line in done.output.splitlines() if "reproduce:" in line)
    digest = done.output.split("trace digest ")[1].split()[0]
    again = sim(*line.split("unimeter sim ")[1].split())
    assert again.exit_code == 1
    assert digest in again.output


def test_invariant_that_was_never_put_to_the_test_fails_the_fleet() -> None:
    done = sim("--seeds", "1", "--scenario", "quiet_day", "--jobs", "1")
    assert done.exit_code == 1
    assert "NEVER EVALUATED" in done.output


def test_replay_passes_and_its_trace_is_readable(tmp_path: Path) -> None:
    path = tmp_path / "trace.txt"
    done = sim("--scenario", "quiet_day", "--seed", "1", "--trace", str(path))
    assert done.exit_code == 0
    lines = path.read_text().splitlines()
    assert len(lines) > 500
    assert any("host node1 boots #1" in line for line in lines)


def test_list_names_scenarios_invariants_and_canaries() -> None:
    done = sim("--list")
    assert done.exit_code == 0
    for name in ("swarm", "nothing_counts_twice", "forgets_sessions"):
        assert name in done.output


def test_wrong_usage_exits_with_2() -> None:
    for arguments in ([], ["--seeds", "1", "--seed", "1"], ["--scenario", "nope", "--seed", "1"], ["--seed", "1"]):
        assert sim(*arguments).exit_code == 2, arguments
    assert sim("--seeds", "1", "--canary", "nope").exit_code == 2
    assert sim("--scenario", "swarm", "--seed", "1", "--clients", "nope").exit_code == 2
