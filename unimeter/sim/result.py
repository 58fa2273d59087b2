"""What comes out of a run. Never compiled: results are sent between processes, and what is compiled cannot be pickled."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Failure:
    invariant: str
    sentence: str
    detail: str
    step: int
    virtual_ns: int
    tail: list[str] = field(default_factory=list)
    also: list[str] = field(default_factory=list)  # other invariants that the same facts break


@dataclass
class RunResult:
    scenario: str
    seed: int
    digest: str
    steps: int
    virtual_ns: int
    cpu_s: float
    events_stored: int
    requests: int
    fired: dict[str, int]
    marks: dict[str, int]
    evaluated: dict[str, int]
    failure: Failure | None = None
