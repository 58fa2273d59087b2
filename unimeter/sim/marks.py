"""Which situations a run reached: places in the node that matter, and that a run may or may not come by.

Faults say what was thrown at the node, marks say where it was hit. A mark that a large fleet never reaches means
that the scenarios do not go where they should.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from unimeter.sim.requests import UNKNOWN
from unimeter.sim.sightings import PLACES

if TYPE_CHECKING:
    from unimeter.sim.host import Host
    from unimeter.sim.runner import Run

COUNTERS: Final = {  # counter of a node -> mark
    "checkpoints": "checkpoint written",
    "scans": "journal scanned for a read",
    "disk_full_events": "disk found full",
    "fingerprint_rotations": "fingerprints rotated",
    "sessions_evicted": "session evicted",
    "alerts_fired": "alert fired",
}
VERDICTS: Final = ("stored", "duplicate", "conflict", "unknown metric", "cardinality", "table full")
SESSION_VERDICTS: Final = {
    1: "session retry",
    6: "session unknown",
    7: "session window",
    8: "session settled",
    9: "sessions full",
}
CORE_MARKS: Final = (  # counted by the node itself
    "found_unreadable",
    "diverged",
    "applied_aside",
    "applied_aside_waited_for",
    "applied_before_durable",
    "sent_before_written",
    "held_back",
)
FIGURES: Final = {  # what of a node -> mark
    "bundles": "part of a request forwarded",
    "fetches": "follower read for from disk",
    "compared": "digests compared",
}
ALL_MARKS: Final = (
    *PLACES, *FIGURES.values(), *CORE_MARKS, "new replica", "noise at a peer port: hung up", "put off: redirect", "put off: no_leader", "put off: leader_changed",
    "put off: outcome_unknown", "operator: add", "operator: remove", "operator: transfer", "operator: drain",
    *COUNTERS.values(), *(f"verdict {name}" for name in VERDICTS[1:]), *SESSION_VERDICTS.values(), "segment rolled over",
    "recovered from a checkpoint", "recovered by replay", "torn tail cut off", "killed while starting",
    "killed with a journal write in flight", "killed with a checkpoint in flight", "put off: starting", "put off: overloaded",
    "put off: disk_full", "request given up", "damage seen by a read", "presumed durable", "presumed durable, and was not",
)  # fmt: skip


def _add(run: Run, mark: str, times: int = 1) -> None:
    if times:
        run.marks[mark] = run.marks.get(mark, 0) + times


def mark_process(run: Run, host: Host) -> None:
    """A process is about to end, or the run is over: what did it go through?"""
    node = host.node
    if node is None:
        return
    if not node.ready:
        return
    counters = node.counters()
    for counter, mark in COUNTERS.items():
        _add(run, mark, counters.get(counter, 0))
    for mark, times in node.marks.items():
        _add(run, mark, times)
    serving = node.serving
    figures = {
        "bundles": serving.bundles.sent,
        "fetches": serving.replication.fetches,
        "compared": serving.divergence.compared,
    }
    for figure, times in figures.items():
        _add(run, FIGURES[figure], times)
    _add(run, "recovered from a checkpoint", bool(node.recovered.checkpoints))
    _add(run, "recovered by replay", node.recovered.replayed_bytes > 0)
    _add(run, "torn tail cut off", node.recovered.torn_tail)


def mark_death(run: Run, host: Host) -> None:
    """A process is about to be killed: in the middle of what?"""
    if host.node is not None and not host.node.ready:
        _add(run, "killed while starting")
    elif host.node is not None:
        _add(run, "killed with a journal write in flight", host.disk.in_flight(bulk=False))
        _add(run, "killed with a checkpoint in flight", host.disk.in_flight(bulk=True))


def situations(run: Run) -> dict[str, int]:
    """All marks of a finished run."""
    for host in run.cluster.hosts:
        mark_process(run, host)
        _add(run, "segment rolled over", sum(name.startswith("journal/") for name in host.disk.image.files) - 2)
        _add(run, "damage seen by a read", host.disk.tainted_reads)
        _add(run, "presumed durable", host.disk.presumed)
        _add(run, "presumed durable, and was not", host.disk.presumed_wrongly)
    if run.cast.operator is not None:
        for op, times in run.cast.operator.done.items():
            _add(run, f"operator: {op}", times)
    for request in run.ledger.ingests:
        _add(run, "request given up", request.state == UNKNOWN)
        if request.result is not None:
            _add(run, SESSION_VERDICTS.get(request.result.session_verdict, ""), request.result.session_verdict != 0)
            for _, verdict in request.result.exceptions:
                _add(run, f"verdict {VERDICTS[verdict]}" if verdict < len(VERDICTS) else "verdict other")
    return run.marks
