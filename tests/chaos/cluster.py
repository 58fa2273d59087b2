"""Real nodes as processes: start, kill, stop, continue, wipe; and the ports, directories and proxies that they need.

    clients ---> proxied client address ---> --listen        of `unimeter node --id N`
    peers   ---> proxied peer address   ---> --peer-listen

Ports lie below the range from which the system takes the ports of outgoing connections: a node that is down for a
second must find its port still free. A process that ends without having been told to is a casualty: the run fails.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.chaos import wire
from tests.chaos.proxy import CLIENTS, ProxyControl, Route

RUN = "import sys; from unimeter.cli import main; sys.exit(main())"
PORTS = range(15_000, 31_000)
READY_WAIT_S = 120.0
STOP_WAIT_S = 60.0
DISK_BYTES = 3 << 30  # of a file system that can be filled
PR_SET_PDEATHSIG = 1


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, each bound once to be sure."""
    found: list[int] = []
    chance = random.SystemRandom()
    while len(found) < count:
        port = chance.choice(PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found


def who_has(*ports: int) -> str:
    """What `ss` says of these local ports."""
    listed = subprocess.run(["ss", "-Htanp"], capture_output=True, text=True, check=False).stdout.splitlines()
    return "\n".join(line for line in listed if any(f":{port} " in line for port in ports))


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class ChaosNode:
    """One node: its addresses, its directory, its process of the moment."""

    def __init__(self, number: int, place: Path, proxied: bool, disk: str) -> None:
        self.number = number
        self.mount = place / f"disk{number}" if disk else None
        self.disk = disk
        self.data_dir = (self.mount or place) / f"node{number}"
        self.log_path = place / f"node{number}.log"
        ports = free_ports(4)
        self.client_port, self.peer_port = ports[:2]
        self.client_proxy, self.peer_proxy = ports[2:] if proxied else ports[:2]
        self.process: asyncio.subprocess.Process | None = None
        self.ready = asyncio.Event()
        self.stopped = False  # SIGSTOP
        self.starts = 0
        self.watch: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Where clients are told to go."""
        return f"127.0.0.1:{self.client_proxy}"

    @property
    def direct(self) -> str:
        """Where the checker goes: past the proxy."""
        return f"127.0.0.1:{self.client_port}"

    @property
    def peer(self) -> str:
        return f"127.0.0.1:{self.peer_proxy}"

    @property
    def up(self) -> bool:
        return self.process is not None and not self.stopped

    def log(self, line: str) -> None:
        """Every line with the time of the history."""
        with self.log_path.open("a") as log:
            log.write(f"{time.monotonic():.3f} {line}\n")

    def log_tail(self, lines: int = 12) -> str:
        with suppress(OSError):
            return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])
        return ""


class Cluster:
    def __init__(
        self, place: Path, count: int, *, groups: int = 0, memory: str = "1GiB", proxied: bool = True, disks: str = "",
        options: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.place = place
        self.groups = groups
        self.memory = memory
        self.proxied = proxied
        self.options = options
        self.disks = disks  # "", "loop" or "tmpfs": file systems of their own, so that they can be full
        self.proxy = ProxyControl()
        self.casualties: list[str] = []
        self.nodes: dict[int, ChaosNode] = {}
        self.alone = count == 1
        for number in range(1, count + 1):
            self.nodes[number] = ChaosNode(number, place, proxied, disks)

    async def start(self) -> None:
        if self.proxied:
            await self.proxy.start()
        for node in self.nodes.values():
            await self.furnish(node)
        for node in self.nodes.values():
            await self.launch(node)
        await asyncio.gather(*(self.await_ready(node) for node in self.nodes.values()))

    async def furnish(self, node: ChaosNode) -> None:
        """What a node needs around it: proxies, a disk."""
        if self.proxied:
            await self.proxy.listen(node.number, node.client_proxy, node.client_port, peers=False)
            await self.proxy.listen(node.number, node.peer_proxy, node.peer_port, peers=True)
        if node.mount is not None:
            mount(node.mount, node.disk)

    def command(self, node: ChaosNode) -> list[str]:
        command = [sys.executable, "-c", RUN, "node", "--data-dir", str(node.data_dir), "--admin", "off"]
        command += ["--memory-max", self.memory, "--listen", node.direct]
        if self.alone:
            return [*command, "--advertise", node.address, *self.options]
        command += ["--id", str(node.number), "--peer-listen", f"127.0.0.1:{node.peer_port}"]
        for member in self.nodes.values():
            command += ["--member", f"{member.number}={member.address},{member.peer}"]
        if self.groups:
            command += ["--groups", str(self.groups)]
        return [*command, *self.options]

    async def launch(self, node: ChaosNode) -> None:
        assert node.process is None
        node.ready.clear()
        node.stopped = False
        node.starts += 1
        process = await asyncio.create_subprocess_exec(
            *self.command(node), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=die_with_parent, start_new_session=True,
        )  # fmt: skip
        node.log(f"--- start {node.starts}")
        node.process = process
        if self.proxied:
            self.proxy.node_is(node.number, process.pid)
        node.watch = asyncio.create_task(self.observe(node, process))

    async def observe(self, node: ChaosNode, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        listener = asyncio.create_task(self.listen(node, process))
        while line := await process.stdout.readline():
            if line.startswith(b"ready") and node.process is process:
                node.ready.set()
        code = await process.wait()
        await listener
        if node.process is process:  # nobody asked for it
            node.process = None
            self.casualties.append(f"node {node.number} ended by itself with code {code}:\n{node.log_tail()}")
            if "in use" in node.log_tail(2):
                self.casualties.append(f"who has its ports:\n{who_has(node.client_port, node.peer_port)}")

    async def listen(self, node: ChaosNode, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        while line := await process.stderr.readline():
            node.log(line.decode(errors="replace").rstrip())

    async def await_ready(self, node: ChaosNode, seconds: float = READY_WAIT_S) -> None:
        """Raises RuntimeError when it ended meanwhile, or needs too long."""
        until = time.monotonic() + seconds
        while not node.ready.is_set():
            if node.process is None:
                raise RuntimeError(f"node {node.number} ended before it was ready:\n{node.log_tail()}")
            if time.monotonic() > until:
                raise RuntimeError(f"node {node.number} was not ready after {seconds:.0f} s:\n{node.log_tail()}")
            await asyncio.sleep(0.02)

    async def end(self, node: ChaosNode, how: signal.Signals) -> int:
        process, node.process = node.process, None
        node.ready.clear()
        if process is None:
            return 0
        with suppress(ProcessLookupError):
            if node.stopped and how != signal.SIGKILL:
                process.send_signal(signal.SIGCONT)
            process.send_signal(how)
        node.stopped = False
        try:
            return await asyncio.wait_for(process.wait(), STOP_WAIT_S)
        except TimeoutError:
            process.kill()
            await process.wait()
            self.casualties.append(f"node {node.number} did not end within {STOP_WAIT_S:.0f} s of {how.name}")
            return -1

    async def kill(self, node: ChaosNode) -> None:
        await self.end(node, signal.SIGKILL)

    def stop(self, node: ChaosNode) -> None:
        if node.process is not None:
            node.process.send_signal(signal.SIGSTOP)
            node.stopped = True

    def cont(self, node: ChaosNode) -> None:
        if node.process is not None and node.stopped:
            with suppress(ProcessLookupError):
                node.process.send_signal(signal.SIGCONT)
            node.stopped = False

    async def crash(self) -> None:
        """Everything at once, as when the power fails in a building."""
        await asyncio.gather(*(self.kill(node) for node in self.nodes.values()))
        for node in self.nodes.values():
            await self.launch(node)
        await asyncio.gather(*(self.await_ready(node) for node in self.nodes.values()))

    def wipe(self, node: ChaosNode) -> None:
        assert node.process is None
        shutil.rmtree(node.data_dir, ignore_errors=True)

    async def close(self, keep: bool) -> None:
        for node in self.nodes.values():
            await self.end(node, signal.SIGKILL)
            if node.watch is not None:
                node.watch.cancel()
        await self.proxy.stop()
        for node in self.nodes.values():
            if node.mount is not None:
                if keep:
                    shutil.copytree(node.data_dir, self.place / f"node{node.number}", dirs_exist_ok=True)
                unmount(node.mount)
        if not keep:
            shutil.rmtree(self.place, ignore_errors=True)

    # ---- cuts ----

    def routes(self, node: int, others: list[int], direction: str) -> list[Route]:
        """in: towards the node; out: from it; both."""
        into = [(other, node) for other in others] if direction in ("in", "both") else []
        out = [(node, other) for other in others] if direction in ("out", "both") else []
        return into + out

    def others(self, node: int, clients: bool = False) -> list[int]:
        return [number for number in self.nodes if number != node] + ([CLIENTS] if clients else [])

    # ---- what the cluster says of itself ----

    async def describe(self) -> wire.Body | None:
        """`cluster status` as any node that answers tells it; None when none does (or a node knows no clusters)."""
        for node in self.nodes.values():
            if node.up and node.ready.is_set():
                with suppress(OSError, TimeoutError, wire.Refused, EOFError):
                    return await wire.ask_once(node.direct, wire.CLUSTER, {"op": "status"}, 2.0)
        return None

    async def snapshot(self) -> str:
        """What every node, asked by itself, says of the groups: for whoever wants to know why nothing moves."""
        lines = []
        for node in self.nodes.values():
            if not node.up:
                lines.append(f"node {node.number}: down")
                continue
            said: list[str] = []
            for kind, body in ((wire.STATUS, {}), (wire.CLUSTER, {"op": "status"})):
                try:
                    answer = await wire.ask_once(node.direct, kind, body, 1.0)
                except (OSError, TimeoutError, wire.Refused, EOFError) as error:
                    said.append(repr(error))
                    continue
                if kind == wire.STATUS:
                    said.append(f"applied {answer.get('applied')}")
                for group in answer.get("groups", []):
                    said.append(
                        str({key: group[key] for key in ("group", "leader", "term", "commit", "voters", "learners")})
                    )
            lines.append(f"node {node.number}: " + "\n    ".join(said))
        return "\n".join(lines)

    async def leads(self) -> dict[int, int]:
        """group -> the node that leads it, 0 for none."""
        if self.alone:
            return {0: 1}
        body = await self.describe()
        return {} if body is None else {group["group"]: group["leader"] for group in body["groups"]}

    async def unhealed(self) -> str:
        """ "" when every group has all its voters, no learner and a leader; else what is missing."""
        body = await self.describe()
        if body is None:
            return "nobody answers"
        for group in body["groups"]:
            if group["learners"] or group.get("moving") or not group["leader"]:
                return f"group {group['group']}: leader {group['leader']}, learners {group['learners']}"
            if len(group["voters"]) < min(3, len(self.nodes)):
                return f"group {group['group']}: voters {group['voters']}"
        listed = {told["id"]: told["state"] for told in body["nodes"]}
        strange = [f"node {number}: {listed.get(number)}" for number in self.nodes if listed.get(number) != "active"]
        return strange[0] if strange else ""

    async def whole(self) -> str:
        """As above, and every node is up."""
        if self.alone:
            return ""
        if missing := await self.unhealed():
            return missing
        body = await self.describe()
        down = [told["id"] for told in body["nodes"] if not told["up"] and told["id"] in self.nodes] if body else [0]
        return f"down: {down}" if down else ""

    async def await_whole(self, seconds: float) -> str:
        until = time.monotonic() + seconds
        missing = await self.whole()
        while missing and time.monotonic() < until:
            await asyncio.sleep(0.2)
            missing = await self.whole()
        return missing


# ---- file systems of their own ----


def mount(where: Path, kind: str) -> None:
    where.mkdir(parents=True)
    if kind == "tmpfs":
        run("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(where))
        return
    image = where.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    run("mkfs.ext4", "-q", "-m", "0", str(image))
    run("mount", "-o", "loop", str(image), str(where))


def unmount(where: Path) -> None:
    for _ in range(20):
        if subprocess.run(["umount", str(where)], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.1)


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def disks_possible(place: Path) -> str:
    """The kind of file system that we may mount here: "loop", "tmpfs", or "" for none."""
    if os.geteuid() != 0:
        return ""
    for kind in ("loop", "tmpfs"):
        trial = place / f"trial-{kind}"
        try:
            mount(trial, kind)
        except (subprocess.CalledProcessError, OSError):
            continue
        finally:
            unmount(trial) if trial.is_mount() else None
            trial.with_suffix(".img").unlink(missing_ok=True)
        return kind
    return ""
