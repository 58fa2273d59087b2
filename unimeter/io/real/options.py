"""What a node process is started with, and the node's configuration that follows from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unimeter.config import Member, NodeConfig
from unimeter.io.real.address import Address

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_LOCKED = 3


class StartError(Exception):
    """The node cannot start. The message says why and what to do."""

    def __init__(self, message: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class ServerOptions:
    data_dir: Path
    listen: Address
    admin: Address | None
    memory_max_bytes: int
    advertise: Address | None = None  # None: its address among the members, or as it listens
    node_id: int = 1
    members: tuple[Member, ...] = ()  # this node included; empty: a cluster of one without a peer port
    peer_listen: Address | None = None
    group_count: int = 1
    replicas: int = 0
    election_ns: tuple[int, int] | None = None  # None: as NodeConfig has it
    heartbeat_ns: int | None = None
    checkpoint_after_bytes: int | None = None
    catchup_bytes_per_second: int | None = None

    def own_member(self) -> Member | None:
        return next((member for member in self.members if member.node_id == self.node_id), None)

    def node_config(self, listening: Address) -> NodeConfig:
        """`listening`: the client port's real address. StartError when the options do not fit together."""
        own = self.own_member()
        if self.advertise is not None:
            advertise = str(self.advertise)
        else:
            advertise = own.client_address if own is not None else str(listening.reachable())
        members = tuple(
            replace(member, client_address=advertise) if member is own else member for member in self.members
        )
        given: dict[str, Any] = {}
        if self.election_ns is not None:
            given["election_min_ns"], given["election_max_ns"] = self.election_ns
        if self.heartbeat_ns is not None:
            given["heartbeat_ns"] = self.heartbeat_ns
        if self.checkpoint_after_bytes is not None:
            given["checkpoint_after_bytes"] = self.checkpoint_after_bytes
        if self.catchup_bytes_per_second is not None:
            given["catchup_bytes_per_second"] = self.catchup_bytes_per_second
        try:
            return NodeConfig(
                node_id=self.node_id,
                advertise=advertise,
                members=members,
                group_count=self.group_count,
                replicas=self.replicas,
                memory_max_bytes=self.memory_max_bytes,
                **given,
            )
        except ValueError as error:
            raise StartError(str(error), EXIT_USAGE) from error
