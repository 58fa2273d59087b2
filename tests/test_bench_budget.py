"""What an event costs in Python calls and in instructions stays within bench/budget.json."""

from __future__ import annotations

import pytest

from bench import budget
from bench.budget import HOW, compare, count_calls, count_instructions, load


def check(found: dict[str, object]) -> None:
    over, notes = compare(load(), found)
    print("\n".join(notes))
    assert not over, "\n".join([*over, HOW])


def test_calls_per_request_are_within_the_budget() -> None:
    check({"python": budget.python(), "calls": count_calls()})


def test_instructions_per_event_are_within_the_budget() -> None:
    if reason := budget.why_no_instructions():
        pytest.skip(f"instructions were not counted: {reason}")
    check({"compiler": budget.compiler(), "instructions": count_instructions()})


def test_what_costs_more_is_named_with_both_prices_and_what_is_missing_too() -> None:
    allowed = {"python": "3.11", "calls": {"write.python": 100.0, "query.python": 50.0, "gone.c": 1.0}}
    over, notes = compare(allowed, {"python": "3.11", "calls": {"write.python": 103.0, "query.python": 40.0}})
    assert over == [
        "calls gone.c: only in the budget",
        "calls write.python: 103.00, the budget is 100.00 (+3.0%)",
    ]
    assert notes == ["calls query.python: 40.00 is better than its budget 50.00: tighten it"]


def test_another_python_has_more_room() -> None:
    allowed = {"python": "3.11", "calls": {"write.python": 100.0}}
    assert compare(allowed, {"python": "3.13", "calls": {"write.python": 125.0}})[0] == []
    assert compare(allowed, {"python": "3.13", "calls": {"write.python": 140.0}})[0] != []
