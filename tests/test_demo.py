"""Claims about `unimeter demo`: it goes through, and its check can fail."""

from __future__ import annotations

import gzip
from itertools import islice
from pathlib import Path

import pytest
from rich.console import Console

from unimeter import Client, MetricSchema, cli
from unimeter.commands import demo
from unimeter.commands.bench_node import NodeProcess

ROWS = 8000


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first flights of the demo's data."""
    path = tmp_path_factory.mktemp("demo") / "flights.csv.gz"
    with gzip.open(demo.DATA, "rt") as whole, gzip.open(path, "wt") as out:
        out.writelines(islice(whole, ROWS + 1))
    return path


def test_the_demo_goes_through_and_leaves_nothing(part: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["demo", "--file", str(part)])
    out = capfd.readouterr().out
    assert not ended.value.code, out
    assert out.count(f"stored {ROWS}, duplicates 0") == out.count(f"stored 0, duplicates {ROWS}") == len(demo.METRICS)
    assert "no total has changed" in out


def test_the_demo_notices_totals_that_are_not_what_the_file_says(part: Path, tmp_path: Path) -> None:
    with NodeProcess(tmp_path / "data", "--memory-max", "64MiB") as node, Client([node.address]) as client:
        for code, aggregation, _ in demo.METRICS:
            client.metrics.create(MetricSchema(code, aggregation, demo.DIMENSIONS))
        with pytest.raises(demo.DemoFailed, match="not what SQLite computes"):
            demo._verify(Console(), client, part)
