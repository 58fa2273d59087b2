"""`unimeter cluster status|add|remove|drain|transfer`: a running cluster, seen and changed.

What a command asks for is decided and kept by the cluster (its coordinator); waiting for the end of it is only
watching. So a command that is interrupted while it waits takes nothing back, and the same command again watches on.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeVar

import typer

from unimeter.commands.cluster_status import ClusterStatus, decode_status, start_command, tables
from unimeter.commands.common import DEFAULT_SERVER, ServerOption, print_table, servers_of
from unimeter.commands.members import NODE_ID_MAX, address_of
from unimeter.errors import Unavailable, UnimeterError

POLL_SECONDS = 0.5
TRANSFER_POLL_SECONDS = 0.1  # the cluster may balance its leaders again at once
TRANSFER_AGAIN_SECONDS = 2.0  # a transfer that a busy cluster gave up is asked for again
REQUEST_SECONDS_MAX = 15.0
TRANSFERS_MAX = 5
EXIT_FAILED = 1
T = TypeVar("T")

app = typer.Typer(
    help="""See and change a running cluster.

Any node can be asked; it passes the request on. Add a node, and the cluster moves a share of its groups there by
itself, while it serves; take one away, and the others take over what it held.""",
    no_args_is_help=True,
)

IdOption = Annotated[int, typer.Option("--id", min=1, max=NODE_ID_MAX, help="The node's number.")]
NoWaitOption = Annotated[bool, typer.Option("--no-wait", help="Ask for it, and do not wait until it is done.")]


class Admin:
    """An operator's requests to a cluster."""

    def __init__(self, servers: str) -> None:
        from unimeter.client.async_client import AsyncClient

        self._client = AsyncClient(servers_of(servers), timeout=REQUEST_SECONDS_MAX, connect_timeout=0)

    async def __aenter__(self) -> Admin:
        await self._client.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._client.close()

    async def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        return await self._client.cluster(op, **fields)

    async def status(self) -> ClusterStatus:
        return decode_status(await self.ask("status"))

    async def until(
        self,
        done: Callable[[ClusterStatus], bool],
        words: Callable[[ClusterStatus], str],
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        """Watch until it is done, and say how far it is whenever that changes. A cluster that cannot answer now (a
        node that is stopping, an election) is asked again."""
        said = ""
        while True:
            try:
                status = await self.status()
            except (Unavailable, TimeoutError, ConnectionError) as error:
                line = f"asking again: {error}"
            else:
                if done(status):
                    return
                line = words(status)
            if line != said:
                typer.echo(line, err=True)
                said = line
            await asyncio.sleep(poll_seconds)


def _run(servers: str, work: Callable[[Admin], Coroutine[Any, Any, T]]) -> T:
    async def session() -> T:
        async with Admin(servers) as admin:
            return await work(admin)

    return asyncio.run(session())


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole answer as one JSON object.")] = False,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Show the nodes, and the groups with their leaders.

    A node that is not up is in nobody's reach now. A group without a leader takes no events until a majority of its
    voters is up again. `index` counts what the group has committed; `moving` means that its members are being changed.

    Exit code 1 if a group has no leader (so that it can be used in scripts).
    """
    body = _run(server, lambda admin: admin.ask("status"))
    seen = decode_status(body)
    if as_json:
        typer.echo(json.dumps(body, indent=1))
    else:
        typer.echo(f"cluster {seen.cluster}")
        for table in tables(seen):
            typer.echo()
            print_table(table)
    leaderless = [str(group.group) for group in seen.groups if not group.leader]
    if leaderless:
        typer.echo(f"no leader: group {', '.join(leaderless)}; start the voters that are not up", err=True)
        raise typer.Exit(EXIT_FAILED)


@app.command(no_args_is_help=True)
def add(
    node_id: IdOption,
    address: Annotated[
        str, typer.Option("--address", metavar="HOST:PORT", help="Where clients will reach it, as ip:port.")
    ],
    peer: Annotated[str, typer.Option("--peer", metavar="HOST:PORT", help="Where other nodes will reach it.")],
    no_wait: NoWaitOption = False,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Add a node. The cluster gives it a share of the groups.

        unimeter cluster add --id 4 --address 10.0.0.4:7001 --peer 10.0.0.4:7101 --server 10.0.0.1:7001

    Then start it; the command prints how. It fetches what it is to hold, becomes a voter group by group, and the command
    ends when it has its share. Interrupt it if you like: the cluster goes on.
    """
    clients, peers = address_of(address, "--address"), address_of(peer, "--peer")
    try:
        numeric = clients.resolved()
    except OSError as error:
        raise typer.BadParameter(f"{address!r}: {error.strerror}", param_hint="--address") from error

    async def work(admin: Admin) -> None:
        await admin.ask("add", id=node_id, address=str(numeric), peer=str(peers))
        seen = await admin.status()
        typer.echo(f"node {node_id} is registered")
        node = seen.node(node_id)
        if node is None or not node.up:
            typer.echo(f"start it: {start_command(seen, node_id)}", err=True)
        if no_wait:
            return

        def words(seen: ClusterStatus) -> str:
            node = seen.node(node_id)
            if node is None or not node.up:
                return f"waiting for node {node_id} to be started"
            learning = sum(node_id in group.learners for group in seen.groups)
            return f"node {node_id} is {node.state}: holds {node.holds} of {seen.share()} groups, fetches {learning}"

        await admin.until(lambda seen: seen.joined(node_id), words)
        typer.echo(f"node {node_id} has its share")

    _run(server, work)


@app.command(no_args_is_help=True)
def remove(node_id: IdOption, no_wait: NoWaitOption = False, server: ServerOption = DEFAULT_SERVER) -> None:
    """Take a node out of the cluster for good. The others take over what it held.

        unimeter cluster remove --id 4

    The node may be up or dead; while it is up, leave it running until this command ends. Afterwards it can be stopped
    and its directory deleted.
    """

    async def work(admin: Admin) -> None:
        await admin.ask("remove", id=node_id)
        typer.echo(f"node {node_id} is being removed")
        if not no_wait:
            await admin.until(lambda seen: seen.gone(node_id), lambda seen: _left(seen, node_id))
            typer.echo(f"node {node_id} is removed; it can be stopped, and its directory deleted")

    _run(server, work)


@app.command(no_args_is_help=True)
def drain(node_id: IdOption, no_wait: NoWaitOption = False, server: ServerOption = DEFAULT_SERVER) -> None:
    """Move everything away from a node, and keep it registered.

        unimeter cluster drain --id 2

    Its groups go to other nodes; there must be enough of them. To give it work again: `unimeter cluster add` with its
    number and addresses.
    """

    async def work(admin: Admin) -> None:
        await admin.ask("drain", id=node_id)
        typer.echo(f"node {node_id} is being drained")
        if not no_wait:
            await admin.until(lambda seen: seen.emptied(node_id), lambda seen: _left(seen, node_id))
            typer.echo(f"node {node_id} holds nothing any more")

    _run(server, work)


def _left(seen: ClusterStatus, node_id: int) -> str:
    node = seen.node(node_id)
    if node is None:
        held = sum(node_id in group.voters or node_id in group.learners for group in seen.groups)
        return f"node {node_id}: {held} groups left"
    return f"node {node_id} is {node.state}: leads {node.leads}, holds {node.holds} groups"


@app.command(no_args_is_help=True)
def transfer(
    group: Annotated[int, typer.Option("--group", min=0, help="The group's number.")],
    to: Annotated[int, typer.Option("--to", min=1, max=NODE_ID_MAX, help="The node that is to lead it.")],
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Hand the leadership of a group to another of its voters.

        unimeter cluster transfer --group 3 --to 2

    No request is lost; those that arrive in the moment of the change are sent again by their clients. Later the cluster
    may balance its leaders by itself again.
    """

    def there(seen: ClusterStatus) -> bool:
        return any(found.group == group and found.leader == to for found in seen.groups)

    def words(_: ClusterStatus) -> str:
        return f"waiting for node {to} to lead group {group}"

    async def work(admin: Admin) -> None:
        for _ in range(TRANSFERS_MAX):
            await admin.ask("transfer", group=group, to=to)
            try:
                async with asyncio.timeout(TRANSFER_AGAIN_SECONDS):
                    await admin.until(there, words, TRANSFER_POLL_SECONDS)
                break
            except TimeoutError:
                continue
        else:
            raise UnimeterError(
                f"node {to} does not lead group {group} after {TRANSFERS_MAX} tries; it may be behind, or not be among "
                "the group's voters: see `unimeter cluster status`"
            )
        typer.echo(f"node {to} leads group {group}")

    _run(server, work)
