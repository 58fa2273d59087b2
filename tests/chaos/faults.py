"""Every second something happens to a node.

    kill       SIGKILL; started again after a while
    stop       SIGSTOP, then SIGCONT: a machine that froze, a long pause
    cut        bytes to it, from it, or both stop travelling, to one other node, to all, or also to clients
    slow       everything to and from it takes longer
    wipe       SIGKILL, the data directory removed, started again with the same command: a new replica
    full_disk  its file system is filled, and freed later

Most faults leave a majority untouched: they hit a node that something is already wrong with, or the only one. Now
and then (`BEYOND`) they do not: then nothing can be written for a while, and still nothing may be lost. A node is wiped
only while all others are well and hold what it held: two copies lost at once are lost.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from tests.chaos.cluster import ChaosNode, Cluster
from tests.chaos.final import level
from tests.chaos.history import UNKNOWN, Fault, History

KINDS = ("kill", "stop", "cut", "slow", "wipe", "full_disk")
WEIGHTS = {"kill": 4, "stop": 3, "cut": 4, "slow": 1, "wipe": 1, "full_disk": 1}
SECONDS = {
    "kill": (0.2, 3.0),
    "stop": (0.1, 5.0),
    "cut": (0.2, 5.0),
    "slow": (0.5, 5.0),
    "wipe": (0.05, 2.0),
    "full_disk": (10.0, 60.0),
}
WIPE_REST_S = 15.0  # between two wipes
CALM_SECONDS_MAX = 70.0  # for all nodes to be whole after the last fault
HEAL_SECONDS_MAX = 120.0
BEYOND = 0.12
FILLER = "filler"
FREE_BYTES = 64 << 10  # what is left on a full disk


class Faults:
    def __init__(self, cluster: Cluster, history: History, kinds: tuple[str, ...], every_s: float, seed: int) -> None:
        self.cluster = cluster
        self.history = history
        self.kinds = kinds
        self.every_s = every_s
        self.random = random.Random(seed)
        self.active: dict[int, set[str]] = {number: set() for number in cluster.nodes}
        self.tasks: set[asyncio.Task[None]] = set()
        self.healing = ""  # a wiped node that does not hold its replicas again
        self.wiped_at = time.monotonic()
        self.giving_up = False
        self.leads: dict[int, int] = {}  # group -> leader, as far as known
        self.counts: dict[str, int] = {}

    async def run(self, until: float) -> None:
        """Until the given monotonic time."""
        watch = asyncio.create_task(self.watch_leaders())
        try:
            while (now := time.monotonic()) < until:
                if self.wipe_is_due():
                    await self.begin_wipe()
                self.strike()
                await asyncio.sleep(min(self.every_s, until - now))
        finally:
            watch.cancel()

    async def watch_leaders(self) -> None:
        while True:
            self.leads = await self.cluster.leads() or self.leads
            await asyncio.sleep(0.3)

    def strike(self) -> None:
        kinds = [kind for kind in self.kinds if kind != "wipe"]
        if kinds:
            kind = self.random.choices(kinds, [WEIGHTS[kind] for kind in kinds])[0]
            node = self.victim(kind)
            if node is not None:
                self.begin(kind, node)

    def begin(self, kind: str, node: ChaosNode) -> None:
        low, high = SECONDS[kind]
        seconds = low * (high / low) ** self.random.random()  # short ones are as likely as long ones
        self.active[node.number].add(kind)
        self.counts[kind] = self.counts.get(kind, 0) + 1
        leads = tuple(group for group, leader in self.leads.items() if leader == node.number)
        fault = Fault(kind, node.number, time.monotonic(), leads=leads)
        self.history.faults.append(fault)
        self.keep(self.inflict(kind, node, seconds, fault))

    def keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def wipe_is_due(self) -> bool:
        rested = time.monotonic() - self.wiped_at > WIPE_REST_S
        return "wipe" in self.kinds and rested and not self.healing and len(self.cluster.nodes) > 1

    async def begin_wipe(self) -> None:
        """Nothing else begins until all is calm and every copy is where it belongs; then one of them goes."""
        until = time.monotonic() + CALM_SECONDS_MAX
        while any(self.active.values()) and time.monotonic() < until:
            await asyncio.sleep(0.1)
        missing = await self.cluster.await_whole(CALM_SECONDS_MAX)
        if missing:
            self.history.violations.append(f"after {CALM_SECONDS_MAX:.0f} s without faults: {missing}")
            self.wiped_at = time.monotonic()
        elif not any(self.active.values()):  # else: a disk is full for long; next time
            self.begin("wipe", self.random.choice(list(self.cluster.nodes.values())))

    def victim(self, kind: str) -> ChaosNode | None:
        """A node to which this can be done now."""
        nodes = list(self.cluster.nodes.values())
        possible = [node for node in nodes if self.possible(kind, node)]
        hurt = [number for number, faults in self.active.items() if faults - {"full_disk"}]  # it bites late, or not
        tolerated = (len(nodes) - 1) // 2 if len(nodes) > 1 else 1
        if len(hurt) >= tolerated and self.random.random() > BEYOND:
            possible = [node for node in possible if node.number in hurt]
        return self.random.choice(possible) if possible else None

    def possible(self, kind: str, node: ChaosNode) -> bool:
        active = self.active[node.number]
        if kind in active or "wipe" in active:
            return False
        if kind in ("kill", "stop"):
            return node.process is not None and node.ready.is_set() and not active & {"kill", "stop"}
        if kind in ("cut", "slow"):
            return self.cluster.proxied and not active & {"cut", "slow"}
        return node.mount is not None

    async def inflict(self, kind: str, node: ChaosNode, seconds: float, fault: Fault) -> None:
        try:
            if kind == "kill":
                await self.kill(node, seconds, fault)
            elif kind == "stop":
                fault.detail = f"{seconds:.1f} s"
                self.cluster.stop(node)
                await asyncio.sleep(seconds)
                self.cluster.cont(node)
            elif kind in ("cut", "slow"):
                await self.cut(kind, node, seconds, fault)
            elif kind == "wipe":
                await self.wipe(node, seconds, fault)
            else:
                await self.fill(node, seconds, fault)
        except Exception as error:
            self.history.violations.append(f"{kind} of node {node.number}: {type(error).__name__}: {error}")
        finally:
            if "healing" not in self.active[node.number] or kind != "wipe":
                fault.until = time.monotonic()
            self.active[node.number].discard(kind)

    async def kill(self, node: ChaosNode, seconds: float, fault: Fault) -> None:
        await self.cluster.kill(node)
        await asyncio.sleep(seconds)
        await self.cluster.launch(node)
        await self.cluster.await_ready(node)
        fault.detail = f"down for {seconds:.1f} s, ready after {time.monotonic() - fault.since:.1f} s"

    async def cut(self, kind: str, node: ChaosNode, seconds: float, fault: Fault) -> None:
        others = self.cluster.others(node.number)
        if len(others) > 1 and self.random.random() < 0.5:
            others = [self.random.choice(others)]
        if not others or self.random.random() < 0.3:
            others = self.cluster.others(node.number, clients=True)
        direction = self.random.choice(("in", "out", "both", "both"))
        routes = self.cluster.routes(node.number, others, direction)
        reset = self.random.random() < 0.5
        fault.detail = f"{direction}, {len(others)} others, {seconds:.1f} s" + (", reset" if reset else "")
        if kind == "cut":
            self.cluster.proxy.cut(routes)
        else:
            reset = False
            self.cluster.proxy.delay(routes, self.random.choice((0.01, 0.05, 0.2)))
        try:
            await asyncio.sleep(seconds)
        finally:
            self.cluster.proxy.heal(routes, reset)

    async def wipe(self, node: ChaosNode, seconds: float, fault: Fault) -> None:
        self.healing = f"node {node.number}"
        await self.cluster.kill(node)
        self.cluster.wipe(node)
        await asyncio.sleep(seconds)
        await self.cluster.launch(node)
        await self.cluster.await_ready(node)
        self.active[node.number].add("healing")
        task = asyncio.create_task(self.heal(node, fault))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def heal(self, node: ChaosNode, fault: Fault) -> None:
        """Wait until its replicas are voters again. Other faults go on meanwhile, though no wipes."""
        missing = "not asked"
        while missing and not self.giving_up:
            await asyncio.sleep(0.3)
            missing = await self.cluster.unhealed() or ("" if await level(self.cluster, node) else "it lags behind")
        seconds = time.monotonic() - fault.since
        fault.detail = f"whole again after {seconds:.1f} s" if not missing else f"not healed: {missing}"
        if missing:
            self.history.violations.append(f"node {node.number} was wiped, and {seconds:.0f} s later: {missing}")
        fault.until = self.wiped_at = time.monotonic()
        self.healing = ""
        self.active[node.number].discard("healing")

    async def fill(self, node: ChaosNode, seconds: float, fault: Fault) -> None:
        assert node.mount is not None
        filler = node.mount / FILLER
        taken = await asyncio.to_thread(fill_disk, filler)
        fault.detail = f"{taken >> 20} MiB taken, {seconds:.1f} s"
        try:
            await asyncio.sleep(seconds)
        finally:
            filler.unlink(missing_ok=True)

    async def settle(self) -> None:
        """Wait until everything that was begun has been undone, and a wiped node is a replica again."""
        until = time.monotonic() + HEAL_SECONDS_MAX
        while self.tasks:
            self.giving_up = time.monotonic() > until
            await asyncio.wait(list(self.tasks), timeout=1.0)
        assert all(fault.until != UNKNOWN for fault in self.history.faults)

    def describe(self) -> str:
        active = [f"{kind} {number}" for number, kinds in self.active.items() for kind in sorted(kinds)]
        return ", ".join(active + ([f"healing {self.healing}"] if self.healing else []))


def fill_disk(filler: Path) -> int:
    """Take all of a file system but a little, at once where it can allocate."""
    fd = os.open(filler, os.O_CREAT | os.O_WRONLY)
    taken, step = 0, 256 << 20
    try:
        while step >= FREE_BYTES:
            try:
                os.posix_fallocate(fd, taken, step)
                taken += step
            except OSError:
                step //= 2
    finally:
        os.close(fd)
    return taken
