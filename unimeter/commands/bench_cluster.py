"""One node or several that are one cluster, as processes on this machine: for measuring, and for tests that kill some."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from unimeter.commands.bench_node import NodeProcess, free_port

START_SECONDS_MAX = 120.0


class NodeCluster:
    """`with NodeCluster(directory, 3) as cluster:` starts the nodes 1, 2, 3 and ends them, whatever happens.

    A cluster of one is a plain node. `groups` 0: as many as a node makes by itself.
    """

    def __init__(self, directory: Path, nodes: int = 3, groups: int = 0, options: tuple[str, ...] = ()) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.groups = groups
        self.options = options
        self.nodes: dict[int, NodeProcess] = {}
        self._ports: dict[int, tuple[int, int]] = {n: (free_port(), free_port()) for n in range(1, nodes + 1)}
        for node_id in range(1, nodes + 1):
            self.nodes[node_id] = self._make(node_id)

    def __enter__(self) -> NodeCluster:
        try:
            self.start(self.nodes)
        except BaseException:
            self.kill(list(self.nodes))
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill(list(self.nodes))

    def _make(self, node_id: int) -> NodeProcess:
        options = [*(("--groups", str(self.groups)) if self.groups else ()), *self.options]
        if len(self._ports) > 1:
            options += ["--id", str(node_id)]
            for other in self._ports:
                options += ["--member", f"{other}={self.client(other)},{self.peer(other)}"]
        return NodeProcess(self.directory / f"node{node_id}", *options, port=self._ports[node_id][0])

    def client(self, node_id: int) -> str:
        return f"127.0.0.1:{self._ports[node_id][0]}"

    def peer(self, node_id: int) -> str:
        return f"127.0.0.1:{self._ports[node_id][1]}"

    @property
    def addresses(self) -> list[str]:
        return [node.address for node in self.nodes.values()]

    @property
    def servers(self) -> str:
        return ",".join(self.addresses)

    def extra(self, node_id: int) -> NodeProcess:
        """One more node, that knows all the others; not started."""
        self._ports[node_id] = (free_port(), free_port())
        self.nodes[node_id] = self._make(node_id)
        return self.nodes[node_id]

    def start(self, node_ids: Iterable[int]) -> None:
        """Start together, and wait until all are ready: they may need each other for that."""
        wanted = [self.nodes[node_id] for node_id in node_ids]
        with ThreadPoolExecutor(len(wanted)) as pool:
            for started in [pool.submit(node.start, START_SECONDS_MAX) for node in wanted]:
                started.result()

    def kill(self, node_ids: Iterable[int]) -> None:
        for node_id in node_ids:
            self.nodes[node_id].kill()

    def stop(self, node_ids: Iterable[int]) -> list[int]:
        """SIGTERM to all of them at once; their exit codes."""
        wanted = [self.nodes[node_id] for node_id in node_ids]
        with ThreadPoolExecutor(len(wanted)) as pool:
            return list(pool.map(NodeProcess.stop, wanted))

    def said(self, node_id: int) -> str:
        return self.nodes[node_id].log_path.read_text(errors="replace")

    # ---- what they cost together ----

    def cpu_ns(self) -> int:
        return sum(node.cpu_ns() for node in self.nodes.values())

    def resident_bytes(self) -> int:
        return sum(node.resident_bytes() for node in self.nodes.values())
