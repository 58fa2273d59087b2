"""The runs: chaos, failover, catchup, grow. Each is what happens on a `Stage` while the load goes on."""

from __future__ import annotations

import asyncio
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from tests.chaos import checker
from tests.chaos.cluster import RUN, ChaosNode, Cluster
from tests.chaos.faults import Faults
from tests.chaos.final import level
from tests.chaos.history import Fault
from tests.chaos.plan import Cast, cast_of
from tests.chaos.stage import Options, Outcome, Report, Stage, perform, say

WARM_SECONDS = 1.0
BASE_SECONDS = 8.0  # of undisturbed load, before and after
FAILOVER_SECONDS_MAX = 30.0
CATCHUP_SECONDS_MAX = 600.0
MOVE_SECONDS_MAX = 180.0
BALANCE_SECONDS_MAX = 60.0
BULK_RATE = 10**9  # as fast as it goes
STALL_SECONDS = 2.5
STALLS_MAX = 30
QUIET_RATE = 5000  # of the load while failovers are timed: the machine is not what is measured


# ---- chaos ----


async def chaos(options: Options, report: Report = say) -> Outcome:
    async def act(stage: Stage) -> None:
        kinds = options.faults
        if "full_disk" in kinds and not stage.cluster.disks:
            report("full_disk is left out: file systems cannot be mounted here (root is needed)")
            kinds = tuple(kind for kind in kinds if kind != "full_disk")
        faults = Faults(stage.cluster, stage.history, kinds, options.every_s, options.seed)
        stage.doing = faults.describe
        stage.load.start()
        observer = asyncio.create_task(observe_stalls(stage, faults))
        await asyncio.sleep(WARM_SECONDS)
        await faults.run(time.monotonic() + options.seconds)
        await faults.settle()
        observer.cancel()
        gaps = checker.outages(stage.history)
        stage.figures |= {"faults": faults.counts, "leader_kills": len(gaps), **spread("outage", gaps)}
        report(f"faults: {faults.counts}; writes of a killed leader's groups stood still for {table(gaps)}")
        for kind in ("stop", "cut"):
            gaps = checker.outages(stage.history, kind)
            stage.figures |= spread(f"{kind}_outage", gaps)
            report(f"  {kind}: {table(gaps)}")

    return await perform(options, act, full_disks="full_disk" in options.faults, report=report)


async def observe_stalls(stage: Stage, faults: Faults) -> None:
    """While a group takes no writes although a majority is untouched: what do the nodes say?"""
    since = 0.0  # a majority is untouched
    while True:
        await asyncio.sleep(0.5)
        hurt = sum(1 for active in faults.active.values() if active)
        since = (since or time.monotonic()) if hurt <= (len(faults.active) - 1) // 2 else 0.0
        groups = stage.load.stalled(STALL_SECONDS)
        if groups and since and time.monotonic() - since > STALL_SECONDS and len(stage.history.stalls) < STALLS_MAX:
            told = await stage.cluster.snapshot()
            stage.history.stalls.append(
                f"at {stage.now:.1f} s, groups {groups} stand still; {faults.describe()}\n{told}"
            )


# ---- failover ----


async def failover(options: Options, kills: int, report: Report = say) -> Outcome:
    """A leader is killed, and started again when its groups are served by others; and again."""
    chance = random.Random(options.seed)

    async def act(stage: Stage) -> None:
        stage.load.start(readers=1, v1_readers=0)
        stage.load.probe_reads()
        await asyncio.sleep(WARM_SECONDS)
        for number in range(1, kills + 1):
            if missing := await stage.cluster.await_whole(FAILOVER_SECONDS_MAX * 2):
                stage.history.violations.append(f"before kill {number} the cluster is not whole: {missing}")
                return
            while not (leads := await stage.cluster.leads()):
                await asyncio.sleep(0.1)
            node = stage.cluster.nodes[leads[chance.choice(sorted(leads))]]
            led = tuple(group for group, leader in leads.items() if leader == node.number)
            stage.doing = lambda n=number, led=led: f"kill {n}: groups {', '.join(map(str, led))}"  # type: ignore[misc]
            await asyncio.sleep(chance.uniform(0.5, 1.5))
            fault = Fault("kill", node.number, time.monotonic(), leads=led)
            stage.history.faults.append(fault)
            await stage.cluster.kill(node)
            await asyncio.sleep(3.0)
            await stage.cluster.launch(node)
            await stage.cluster.await_ready(node)
            fault.until = time.monotonic()
            await asyncio.sleep(1.0)
        writes, reads = checker.outages(stage.history), stage.load.read_outages()
        stage.figures |= {"kills": kills, **spread("write_outage", writes), **spread("read_outage", reads)}
        report(f"{kills} kills; per group that the killed node led, without an answer for")
        report(f"  writes  {table(writes)}")
        report(f"  reads   {table(reads)}")

    quiet = replace(options, rate=min(options.rate, QUIET_RATE))
    return await perform(quiet, act, proxied=False, report=report)


# ---- catch up ----


def bulk_cast(seed: int, groups: int) -> Cast:
    return cast_of(seed, groups, sessions=6, ids=0, stamped=0, v1=0)


async def catchup(options: Options, events: int, times: int, report: Report = say) -> Outcome:
    """A node misses `events` events, `times` times keeping its directory, then once losing it, while the load goes on at full speed."""

    async def act(stage: Stage) -> None:
        stage.load.bulk()
        stage.load.start(readers=1, v1_readers=0)
        node = stage.cluster.nodes[max(stage.cluster.nodes)]
        slowed: list[float] = []
        for what in (*["down"] * times, "wiped"):
            await asyncio.sleep(WARM_SECONDS)
            stage.doing = lambda what=what: f"before a node is {what}"  # type: ignore[misc]
            before = await pace(stage, BASE_SECONDS)
            await stage.cluster.kill(node)
            stage.doing = lambda what=what: f"one node {what}"  # type: ignore[misc]
            away = await pace_until(stage, stage.history.events_acked + events)
            if what == "wiped":
                stage.cluster.wipe(node)
            began, acked = time.monotonic(), stage.history.events_acked
            await stage.cluster.launch(node)
            stage.doing = lambda: "catching up"
            caught = await caught_up(stage.cluster, node)
            seconds = time.monotonic() - began
            if not caught:
                stage.history.violations.append(f"the node that was {what} had not caught up after {seconds:.0f} s")
                return
            during = (stage.history.events_acked - acked) / seconds
            stage.doing = lambda: "afterwards"
            after = await pace(stage, BASE_SECONDS)
            slower = 100 * (1 - during / ((before + after) / 2))  # shared machines drift
            report(
                f"{what}: caught up with {events:,} events after {seconds:.1f} s; events/s before {before:,.0f}, with "
                f"one node away {away:,.0f}, during {during:,.0f} ({slower:+.0f}% slower than before and after), after {after:,.0f}"
            )
            stage.figures[what] = {
                "seconds": round(seconds, 1), "before": round(before), "away": round(away), "during": round(during),
                "after": round(after), "slower_percent": round(slower, 1),
            }  # fmt: skip
            slowed += [slower] if what == "down" else []
        report(f"a node that was down slowed the load by {statistics.median(slowed):+.0f}% (median of {times})")
        stage.figures["down_slower_percents"] = [round(each, 1) for each in slowed]

    return await perform(replace(options, rate=BULK_RATE), act, cast=bulk_cast, proxied=False, report=report)


async def pace(stage: Stage, seconds: float) -> float:
    """Events acknowledged a second, for so long."""
    began, acked = time.monotonic(), stage.history.events_acked
    await asyncio.sleep(seconds)
    return (stage.history.events_acked - acked) / (time.monotonic() - began)


async def pace_until(stage: Stage, wanted: int) -> float:
    began, acked = time.monotonic(), stage.history.events_acked
    until = began + CATCHUP_SECONDS_MAX
    while stage.history.events_acked < wanted and time.monotonic() < until:
        await asyncio.sleep(0.1)
    return (stage.history.events_acked - acked) / (time.monotonic() - began)


async def caught_up(cluster: Cluster, node: ChaosNode) -> bool:
    """It votes in every group, and has applied what the others had applied a moment before it was asked."""
    until = time.monotonic() + CATCHUP_SECONDS_MAX
    while time.monotonic() < until:
        if not node.ready.is_set() and node.process is None:
            return False
        if not await cluster.unhealed() and await level(cluster, node):
            return True
        await asyncio.sleep(0.2)
    return False


# ---- grow ----


async def grow(options: Options, report: Report = say) -> Outcome:
    """A fourth node comes, and one of the first three goes, under load."""

    async def act(stage: Stage) -> None:
        cluster = stage.cluster
        stage.load.start()
        await asyncio.sleep(BASE_SECONDS)
        new = ChaosNode(max(cluster.nodes) + 1, cluster.place, cluster.proxied, "")
        await cluster.furnish(new)
        stage.doing = lambda: f"node {new.number} comes"
        began = time.monotonic()
        said = await command(
            cluster, "add", "--id", str(new.number), "--address", new.address, "--peer", new.peer, "--no-wait"
        )
        report(said)
        cluster.nodes[new.number] = new
        await cluster.launch(new)
        await cluster.await_ready(new)
        if not await settled(stage, began, "come"):
            return
        await asyncio.sleep(BASE_SECONDS)
        gone = cluster.nodes[min(cluster.nodes)]
        stage.doing = lambda: f"node {gone.number} goes"
        began = time.monotonic()
        report(await command(cluster, "remove", "--id", str(gone.number)))
        await cluster.end(gone, signal.SIGTERM)
        del cluster.nodes[gone.number]
        if await settled(stage, began, "go"):
            await asyncio.sleep(BASE_SECONDS)

    return await perform(options, act, report=report)


async def settled(stage: Stage, began: float, what: str) -> bool:
    """Every node that should be there is, every group has its voters, and leaders are spread evenly."""
    missing = await stage.cluster.await_whole(MOVE_SECONDS_MAX)
    until = time.monotonic() + BALANCE_SECONDS_MAX
    leads: dict[int, int] = {}
    while not missing and time.monotonic() < until:
        leads = dict.fromkeys(stage.cluster.nodes, 0)
        for leader in (await stage.cluster.leads()).values():
            leads[leader] = leads.get(leader, 0) + 1
        if max(leads.values()) - min(leads.values()) <= 1:
            seconds = time.monotonic() - began
            stage.figures[f"{what}_s"] = round(seconds, 1)
            stage.report(f"settled after {seconds:.1f} s; groups led: {leads}")
            return True
        await asyncio.sleep(0.3)
    stage.history.violations.append(f"a node was to {what}, but: {missing or f'leaders are not spread: {leads}'}")
    return False


async def command(cluster: Cluster, *words: str) -> str:
    servers = ",".join(node.address for node in cluster.nodes.values())
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUN, "cluster", *words, "--server", servers,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), MOVE_SECONDS_MAX)
    text = output.decode(errors="replace").strip()
    if process.returncode:
        raise RuntimeError(f"unimeter cluster {' '.join(words)} exited with {process.returncode}: {text}")
    return text


# ---- figures ----


def spread(name: str, values: Sequence[float]) -> dict[str, float | None]:
    ordered = sorted(values)
    if not ordered:
        return {f"{name}_{what}_s": None for what in ("median", "p90", "max")}
    p90 = ordered[min(len(ordered) - 1, len(ordered) * 9 // 10)]
    found = {"median": statistics.median(ordered), "p90": p90, "max": ordered[-1]}
    return {f"{name}_{what}_s": round(value, 3) for what, value in found.items()}


def table(values: Sequence[float]) -> str:
    told = spread("x", values)
    return f"median {told['x_median_s']} s, p90 {told['x_p90_s']} s, max {told['x_max_s']} s ({len(values)} times)"
