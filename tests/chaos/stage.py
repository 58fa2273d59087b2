"""What all runs have in common: a cluster in a directory of its own, a load, a history, and the judgement at the end.

`perform(options, act)` raises the curtain: the cluster stands, the metrics are defined, and `act(stage)` may start the
load and do what it is about. Afterwards the load is ended, everything is compared, and what is wrong is told, with
the directories left for whoever wants to know why.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos import checker
from tests.chaos.cluster import Cluster, disks_possible
from tests.chaos.final import Inspector, Verdict
from tests.chaos.history import History
from tests.chaos.plan import Cast, cast_of
from tests.chaos.workload import Workload

DRAIN_SECONDS = 100.0  # more than one SDK call and its retry may take
FORM_SECONDS = 60.0

Report = Callable[[str], None]


def say(line: str) -> None:
    print(line, flush=True)


@dataclass(frozen=True)
class Options:
    seconds: float = 60.0
    seed: int = 1
    nodes: int = 3
    faults: tuple[str, ...] = ("kill", "stop", "cut", "slow", "wipe")
    every_s: float = 1.0
    rate: int = 20_000
    groups: int = 0  # 0: the default of `unimeter node`
    memory: str = "1GiB"
    keep: bool = False
    place: Path | None = None  # where the directory of the run is made
    options: tuple[str, ...] = ()  # more for `unimeter node`


@dataclass
class Outcome:
    wrong: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    place: Path = Path()


@dataclass
class Stage:
    options: Options
    cluster: Cluster
    history: History
    load: Workload
    report: Report
    figures: dict[str, Any] = field(default_factory=dict)
    doing: Callable[[], str] = str  # for the line that is printed every second
    began: float = field(default_factory=time.monotonic)
    act: asyncio.Future[None] = field(init=False)

    @property
    def now(self) -> float:
        return time.monotonic() - self.began


def usual_cast(seed: int, groups: int) -> Cast:
    return cast_of(seed, groups, sessions=4, ids=2, stamped=1, v1=3)


async def group_count(cluster: Cluster) -> int:
    """How many groups the running cluster has."""
    if cluster.alone:
        return 1
    body = await cluster.describe()
    assert body is not None, "no node answers `cluster status`"
    return len(body["groups"])


async def perform(
    options: Options,
    act: Callable[[Stage], Awaitable[None]],
    *,
    cast: Callable[[int, int], Cast] = usual_cast,
    proxied: bool = True,
    full_disks: bool = False,
    report: Report = say,
) -> Outcome:
    place = Path(tempfile.mkdtemp(prefix="unimeter-chaos-", dir=options.place))
    cluster = Cluster(
        place, options.nodes, groups=options.groups, memory=options.memory, proxied=proxied,
        disks=disks_possible(place) if full_disks else "", options=options.options,
    )  # fmt: skip
    outcome = Outcome(place=place)
    history: History | None = None
    try:
        began = time.monotonic()
        await cluster.start()
        if missing := await cluster.await_whole(FORM_SECONDS):
            raise RuntimeError(f"the cluster did not form: {missing}")
        groups = await group_count(cluster)
        report(f"{options.nodes} nodes, {groups} groups, whole after {time.monotonic() - began:.1f} s; in {place}")
        history = History(cast(options.seed, groups))
        load = Workload(history, lambda: [n.address for n in cluster.nodes.values()], options.rate, options.seed)
        await load.define_metrics()
        stage = Stage(options, cluster, history, load, report)
        progress = asyncio.create_task(watch(stage))
        try:
            stage.act = asyncio.ensure_future(act(stage))
            await stage.act
            unfinished = await load.finish(DRAIN_SECONDS)
        finally:
            progress.cancel()
        load.close()
        if unfinished:
            history.violations.append(
                f"{unfinished} readers and writers had no answer within {DRAIN_SECONDS:.0f} s of calm"
            )
        report(f"the load is over after {stage.now:.0f} s; comparing")
        verdict = await Inspector(cluster, history, options.seed).run()
        outcome.wrong = await asyncio.to_thread(judge, history, cluster, verdict)
        outcome.figures = figures(stage, verdict)
    except (Exception, asyncio.CancelledError) as error:
        stopped = "it was stopped before its end" if isinstance(error, asyncio.CancelledError) else ""
        outcome.wrong.append(stopped or f"{type(error).__name__}: {error}")
        outcome.wrong += cluster.casualties + (history.violations if history else [])
    finally:
        keep = bool(outcome.wrong) or options.keep
        if keep and history is not None:
            history.save(place / "history.json.gz")
        await cluster.close(keep)
    tell(outcome, history, keep, report)
    return outcome


async def watch(stage: Stage) -> None:
    """A line a second."""
    acked = reads = 0
    history = stage.history
    while True:
        await asyncio.sleep(1.0)
        if stage.cluster.proxy.dead:
            history.violations.append("the proxy between the nodes died: nothing that follows means anything")
            stage.act.cancel()
            return
        new, acked = history.events_acked - acked, history.events_acked
        asked, reads = stage.load.reads - reads, stage.load.reads
        stage.report(
            f"{stage.now:6.0f} s  {acked:>10,} events acknowledged  {new:>7,}/s  {asked:>4}/s read  "
            f"{history.events_unknown:>6,} on their way  {stage.doing()}"
        )


def judge(history: History, cluster: Cluster, verdict: Verdict) -> list[str]:
    wrong = checker.shortened(history.violations) + cluster.casualties + checker.shortened(verdict.wrong)
    wrong += checker.check_reads(history)
    failed, excused = checker.check_troubles(history.troubles, history.faults, len(cluster.nodes))
    if excused:
        history.note("SDK calls that failed while no majority was whole for long", excused)
    return wrong + failed


def figures(stage: Stage, verdict: Verdict) -> dict[str, Any]:
    history = stage.history
    return {
        "seed": stage.options.seed, "seconds": round(stage.now, 1), "nodes": stage.options.nodes,
        "groups": verdict.groups, "events_acknowledged": history.events_acked, "events_unknown": history.events_unknown,
        "batches": len(history.counts), "reads": stage.load.reads,
        "totals_compared": verdict.totals, "ranges_compared": verdict.ranges,
        "events_listed": verdict.listed, "accounts_listed": verdict.listed_accounts,
        "converged_after_s": round(verdict.converge_s, 1), "sdk_errors": len(history.troubles), "notes": history.notes,
        **stage.figures,
    }  # fmt: skip


def tell(outcome: Outcome, history: History | None, keep: bool, report: Report) -> None:
    if told := outcome.figures:
        report(
            f"{told['events_acknowledged']:,} events acknowledged in {told['batches']:,} batches, {told['events_unknown']:,} "
            f"unknown; {told['reads']:,} reads; {told['totals_compared']} totals, {told['ranges_compared']} ranges, "
            f"{told['events_listed']:,} events of {told['accounts_listed']} accounts one by one; replicas of "
            f"{told['groups']} groups equal after {told['converged_after_s']} s"
        )
        report(f"notes: {told['notes']}; SDK errors: {told['sdk_errors']}")
    for trouble in history.troubles[:5] if history is not None else []:
        report(f"  raised after {trouble.seconds:.1f} s: {trouble.what}")
    if history is not None and history.stalls:
        report(f"{len(history.stalls)} times a group stood still although a majority was untouched; first:")
        report(history.stalls[0])
    for line in outcome.wrong:
        report(f"WRONG: {line}")
    if keep:
        report(f"left for you: {outcome.place} (node directories, logs, history.json.gz)")
    report("FAILED" if outcome.wrong else "every promise was kept")


def write_json(path: Path, outcome: Outcome) -> None:
    path.write_text(json.dumps({"wrong": outcome.wrong, **outcome.figures}, indent=1) + "\n")
