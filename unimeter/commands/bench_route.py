"""Which nodes a load goes to: the question that is asked once, before the generator starts.

One address is enough: every node knows the partition map, and the map names all nodes that lead something. A server
that has no map (the floor, a node of another make) is driven as it is, alone. From then on the generator keeps the
map by itself (csrc/bench/routes.c).
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from unimeter.commands.load import LoadError, Plan, ServerUnreachable, split_address
from unimeter.kernels import protocol as wire

ANSWER_SECONDS_MAX = 5.0
MAP_ENTRY_BYTES = 4 * wire.V1_ADDRESS_BYTES
MAP_REQUEST = wire.V1_REQUEST_HEADER.pack(wire.V1_MAGIC, wire.V1_VERSION, wire.V1_TYPE_PARTITION_MAP, 0xFFFF, 0, 1)
BALANCE_POLL_SECONDS = 0.1


def partition_map(address: str) -> list[tuple[str, ...]]:
    """Of each partition the addresses of its nodes, the leader's first. Empty: this server has no map."""
    host, port = split_address(address)
    try:
        link = socket.create_connection((host, port), ANSWER_SECONDS_MAX)
    except OSError as error:
        raise ServerUnreachable(f"connect to {host}:{port}: {error.strerror or error}") from error
    with link, link.makefile("rb") as stream:
        try:
            link.sendall(MAP_REQUEST)
            header = stream.read(wire.V1_RESPONSE_HEADER.size)
            status, _, length = wire.V1_RESPONSE_HEADER.unpack(header) if header else (wire.V1_STATUS_ERROR, 0, 0)
            body = stream.read(length) if status == wire.V1_STATUS_OK else b""
        except OSError:
            return []
    if len(body) != wire.PARTITIONS * MAP_ENTRY_BYTES:
        return []
    return [addresses(body[at : at + MAP_ENTRY_BYTES]) for at in range(0, len(body), MAP_ENTRY_BYTES)]


def addresses(entry: bytes) -> tuple[str, ...]:
    fields = [entry[at : at + wire.V1_ADDRESS_BYTES] for at in range(0, MAP_ENTRY_BYTES, wire.V1_ADDRESS_BYTES)]
    return tuple(name for name in (field.partition(b"\0")[0].decode("ascii", "replace") for field in fields) if name)


def group_count(servers: Sequence[str]) -> int:
    from unimeter import Client

    with Client(list(servers)) as client:
        return client.topology().groups


def aimed(plan: Plan, servers: Sequence[str], routed: bool | None = None, one_group: bool = False) -> Plan:
    """The plan for these servers: a cluster is found by its map. `routed` None: if it is one, yes."""
    found: list[tuple[str, ...]] = []
    unreachable: ServerUnreachable | None = None
    for server in servers:
        try:
            found = partition_map(server)
            break
        except ServerUnreachable as error:
            unreachable = error
    else:
        assert unreachable is not None
        raise unreachable
    nodes = list(servers)
    if len(servers) == 1:
        named = {name: None for entry in found for name in entry}  # in the map's order
        if len(named) > 1:
            nodes = list(named)
    is_cluster = len(nodes) > 1
    if is_cluster and not found:
        raise LoadError("several servers that have no partition map are no cluster")
    if routed and not is_cluster:
        raise LoadError(f"{servers[0]} is not a node of a cluster: there is nothing to route")
    is_routed = is_cluster if routed is None else routed
    if one_group and not is_routed:
        raise LoadError("batches of one group are for a routed load")
    host, port = split_address(nodes[0])
    groups = group_count(nodes) if one_group else 0
    return replace(
        plan, host=host, port=port, others=tuple(nodes[1:]), cluster=is_cluster, routed=is_routed, groups=groups
    )


def await_balance(servers: Sequence[str], groups: int, seconds_max: float = 30.0) -> dict[str, int]:
    """Wait until the nodes' leaderships differ by one group at most, and all nodes say the same. Partitions by leader."""
    until = time.monotonic() + seconds_max
    while True:
        maps = [[entry[0] for entry in partition_map(server)] for server in servers]
        led = Counter(maps[0])
        groups_led = Counter(maps[0][:groups])  # the first partitions, one of each group
        spread = max(groups_led.values(), default=0) - min((groups_led[server] for server in servers), default=0)
        if maps[0] and spread <= 1 and all(other == maps[0] for other in maps):
            return dict(sorted(led.items()))
        if time.monotonic() > until:
            raise LoadError(f"the nodes do not share the leadership after {seconds_max:.0f} s: {dict(led)}")
        time.sleep(BALANCE_POLL_SECONDS)
