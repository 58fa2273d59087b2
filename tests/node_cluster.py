"""Several node processes that are one cluster, on this machine: for tests that kill, add and remove some."""

from __future__ import annotations

from pathlib import Path

from unimeter.commands import bench_cluster

SMALL = ("--memory-max", "64MiB")
QUICK = ("--election-ms", "300-600", "--heartbeat-ms", "50")


class NodeCluster(bench_cluster.NodeCluster):
    """Small nodes that elect quickly."""

    def __init__(self, directory: Path, nodes: int = 3, groups: int = 4) -> None:
        super().__init__(directory, nodes, groups, (*SMALL, *QUICK))
