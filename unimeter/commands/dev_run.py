"""The nodes of `unimeter dev`: child processes, their words with a prefix, and how they are ended.

Children live in sessions of their own, so that a Ctrl-C reaches them only through this process, once, as a
request to stop; and the kernel ends them when this process is killed (Linux).
"""

from __future__ import annotations

import asyncio
import ctypes
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from unimeter.commands.dev import Layout
from unimeter.io.real.address import Address, bind

STYLES = ("cyan", "magenta", "green", "yellow", "blue")
LINE_BYTES_MAX = 1 << 20  # of what a node says; longer lines come in pieces
EXIT_FAILED = 1
PR_SET_PDEATHSIG = 1  # linux/prctl.h

EXAMPLE = """
  client ports   {clients}
  admin ports    {admins}   (GET /health, GET /metrics)

  from unimeter import AggType, Client, Event, MetricSchema, current_month

  with Client([{quoted}]) as client:
      client.metrics.create(MetricSchema(code="api_calls", agg_type=AggType.COUNT))
      client.ingest([Event(account_id=42, metric_code="api_calls")])
      print(client.query(42, "api_calls", current_month()).value.count)

  unimeter cluster status --server {all}
  Ctrl-C stops the nodes; their data stays in {directory}.
"""


def run(layout: Layout, directory: Path, memory_max: str) -> int:
    """Start the nodes, and wait for their end. The exit code."""
    for node_id in layout.node_ids():
        for address in (layout.client(node_id), layout.peer(node_id), layout.admin(node_id)):
            try:
                bind(*Address.parse(address)).close()
            except OSError as error:
                typer.echo(
                    f"error: cannot listen on {address}: {error.strerror}; stop what uses it, "
                    "or start with another --port in another --data-dir",
                    err=True,
                )
                return EXIT_FAILED
    return asyncio.run(Cluster(layout, directory, memory_max).run())


def _die_with_parent() -> None:
    """In the child, before it becomes a node."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Cluster:
    """The processes of one development cluster."""

    def __init__(self, layout: Layout, directory: Path, memory_max: str) -> None:
        self._layout = layout
        self._directory = directory
        self._memory_max = memory_max
        self._console = Console(stderr=True)
        self._processes: dict[int, Process] = {}
        self._ready: set[int] = set()
        self._stopping = False
        self._failed = False

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled)
        async with asyncio.TaskGroup() as lives:
            for node_id in self._layout.node_ids():
                self._processes[node_id] = await self._start(node_id)
                if self._stopping:  # asked while this one was being made
                    self._processes[node_id].terminate()
                lives.create_task(self._live(node_id, self._processes[node_id]))
                if self._stopping:
                    break
        return EXIT_FAILED if self._failed else 0

    async def _start(self, node_id: int) -> Process:
        options = self._layout.node_options(node_id, self._directory, self._memory_max)
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "unimeter.cli", "node", *options),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            limit=LINE_BYTES_MAX,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )

    async def _live(self, node_id: int, process: Process) -> None:
        """One node from its start to its end."""
        assert process.stdout is not None
        assert process.stderr is not None
        self._tell(node_id, f"process {process.pid}")
        await asyncio.gather(self._forward(node_id, process.stdout), self._forward(node_id, process.stderr))
        code = await process.wait()
        del self._processes[node_id]
        if self._stopping and code == 0:
            self._tell(node_id, "stopped")
            return
        self._failed = True
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        rest = f"; {len(self._processes)} of {self._layout.nodes} nodes go on" if not self._stopping else ""
        self._tell(node_id, f"DIED: it {how}{rest}", "bold red")
        if self._processes and not self._stopping:
            self._tell(node_id, "stop all (Ctrl-C) and start again to have it back", "bold red")

    async def _forward(self, node_id: int, stream: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # longer than the limit; what there was of it is gone
                continue
            if not line:
                return
            words = line.decode(errors="replace").rstrip("\n")
            self._tell(node_id, words)
            if words.startswith("ready"):
                self._ready.add(node_id)
                if len(self._ready) == self._layout.nodes and not self._stopping:
                    self._announce()

    def _tell(self, node_id: int, words: str, style: str = "") -> None:
        prefix = Text(f"node{node_id} | ", STYLES[(node_id - 1) % len(STYLES)])
        self._console.print(prefix.append(words, style or "default"), soft_wrap=True)

    def _announce(self) -> None:
        layout = self._layout
        clients = [layout.client(node_id) for node_id in layout.node_ids()]
        text = EXAMPLE.format(
            clients=" ".join(clients),
            admins=" ".join(layout.admin(node_id) for node_id in layout.node_ids()),
            quoted=", ".join(f'"{address}"' for address in clients),
            all=",".join(clients),
            directory=self._directory,
        )
        print("ready: " + ",".join(clients), text, sep="\n", flush=True)

    def _signalled(self) -> None:
        if not self._stopping:
            self._console.print("stopping ... (again: do not wait)", highlight=False)
        for process in self._processes.values():
            if process.returncode is None:
                process.kill() if self._stopping else process.terminate()
        self._stopping = True
