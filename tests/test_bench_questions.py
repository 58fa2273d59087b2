"""The benchmarks as programs: every question answers, and the table of targets says what it does not know."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import latency, targets
from bench.__main__ import SELECTION
from bench.common import ROOT, Settings, answer
from bench.rivals import why_no_redis
from unimeter.commands import _load

TINY = Settings(seconds=0.2, warmup_s=0.05, rounds=1, memory_max="64MiB")
NO_QUESTIONS = {"__init__", "__main__", "budget", "budget_calls", "common", "plots", "rivals", "targets"}


def test_every_file_is_a_question_of_the_selection_or_says_what_else_it_is() -> None:
    files = {path.stem for path in (ROOT / "bench").glob("*.py")} - NO_QUESTIONS
    assert files == {question.name for _, question, _ in SELECTION}
    for _, question, _ in SELECTION:
        assert question.included
        assert question.excluded


def test_a_question_answers_with_conditions_raw_figures_and_rows(tmp_path: Path) -> None:
    found = answer(latency.QUESTION, TINY)
    again = json.loads(json.dumps(found))
    assert again["figures"]["percentiles"]["durable write"]["count"] > 0
    assert again["raw"]["write_p50_ns"] > 0
    assert again["conditions"]["cpus"] >= 1
    rows = latency.QUESTION.rows(found["figures"])
    assert {len(row) for row in rows} == {len(rows[0])}
    assert not list(tmp_path.iterdir())


def test_histograms_of_raw_times_have_the_generators_buckets() -> None:
    of_the_generator = {int(_load.lib.um_load_bucket_ns(number)) for number in range(2560)}
    found = latency.histogram([*range(1, 5000, 7), 10**6, 3 * 10**9])
    assert {least for least, _ in found.buckets} <= of_the_generator
    assert sum(count for _, count in found.buckets) == found.count


def test_targets_say_yes_no_disturbed_failed_or_not_measured() -> None:
    figures = {"durable_over_raw_p50": 1.1, "durable_over_raw_p99": 1.7, "query_over_echo_p50": 0.4}
    results = {"latency": {"figures": figures}, "floor": {"failed": "failed: no compiler"}}
    rows = {row[0]: row[1:] for row in targets.rows(results)}
    assert rows["single durable write, 1 node, p50 / (raw write + echo)"] == ["at most 1.15x", "1.10x", "yes"]
    assert rows["single durable write, 1 node, p99 / (raw write + echo)"] == ["at most 1.50x", "1.70x", "no"]
    assert rows["query, idle, p50 / echo"][2] == "disturbed"
    assert rows["node CPU per event / the floor's, batch 500 async, v1"][1] == "failed: no compiler"
    assert rows["restart, 10 M events since the last checkpoint"][1:] == ["not measured", ""]


def test_an_absent_rival_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert "apt install redis-server" in why_no_redis()
