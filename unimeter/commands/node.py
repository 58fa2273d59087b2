"""`unimeter node`: what its options mean, and how a wrong one is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unimeter import compiled
from unimeter.commands.members import EXAMPLE, NODE_ID_MAX, members_of
from unimeter.config import (
    DEFAULT_ADMIN_PORT,
    DEFAULT_PORT,
    GROUPS_DEFAULT,
    GROUPS_MAX,
    MEMORY_BYTES_DEFAULT,
    MEMORY_BYTES_MIN,
    MIB,
    MS_NS,
)

if TYPE_CHECKING:
    from unimeter.io.real.address import Address

SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
MILLISECONDS = re.compile(r"(\d{1,6})-(\d{1,6})")

app = typer.Typer()


def size_of(text: str) -> int:
    """Bytes from "4GiB", "512M", "1.5 g" or a plain number; units are powers of 1024."""
    match = SIZE.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r}: write a size like 4GiB, 512MiB or 1000000000")
    return int(float(match[1]) * UNITS[match[2].lower()])


def _address(text: str, option: str) -> Address:
    from unimeter.io.real.address import Address

    try:
        return Address.parse(text).resolved()
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
    except OSError as error:
        raise typer.BadParameter(f"{text!r}: {error.strerror}", param_hint=option) from error


def _at_least_a_mib(size: str | None, option: str) -> int | None:
    size_bytes = size_of(size) if size else None
    if size_bytes is not None and size_bytes < MIB:
        raise typer.BadParameter(f"{size!r}: at least 1MiB", param_hint=option)
    return size_bytes


def _election_ns(text: str) -> tuple[int, int]:
    match = MILLISECONDS.fullmatch(text.strip())
    if match is None or int(match[1]) >= int(match[2]):
        raise typer.BadParameter(f"{text!r}: write MIN-MAX, for example 500-1000", param_hint="--election-ms")
    return int(match[1]) * MS_NS, int(match[2]) * MS_NS


@app.command("node", no_args_is_help=True)
def node(
    data_dir: Annotated[
        Path,
        typer.Option(
            "--data-dir",
            envvar="UNIMETER_DATA_DIR",
            file_okay=False,
            help="Where the node keeps everything; made if it is not there. One process at a time.",
        ),
    ],
    node_id: Annotated[
        int, typer.Option("--id", min=1, max=NODE_ID_MAX, help="This node's number among --member.")
    ] = 1,
    member: Annotated[
        list[str] | None,
        typer.Option(
            "--member",
            metavar="ID=CLIENT,PEER",
            help="A node of the cluster: its number, and the addresses where clients and other nodes reach it, for example "
            f"{EXAMPLE}. Once for each node, this one too; the same list on all. Without: a cluster of one.",
        ),
    ] = None,
    groups: Annotated[
        int | None,
        typer.Option(
            "--groups",
            min=1,
            max=GROUPS_MAX,
            help="Groups that a new cluster divides its accounts into; can never be changed. "
            f"Default: {GROUPS_DEFAULT}, or 1 for a cluster of one.",
        ),
    ] = None,
    replicas: Annotated[
        int,
        typer.Option("--replicas", min=0, help="Nodes that hold each group in a new cluster. 0: all founding members."),
    ] = 0,
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen",
            metavar="HOST:PORT",
            help="Where clients connect. Port 0: any free port; the ready line names it. Default: the node's own client "
            f"address among --member, else 127.0.0.1:{DEFAULT_PORT}.",
        ),
    ] = None,
    peer_listen: Annotated[
        str | None,
        typer.Option(
            "--peer-listen",
            metavar="HOST:PORT",
            help="Where other nodes connect. Default: the node's own peer address among --member.",
        ),
    ] = None,
    admin: Annotated[
        str,
        typer.Option(
            "--admin",
            metavar="HOST:PORT|off",
            help="Where GET /health and GET /metrics (Prometheus) are answered, or off.",
        ),
    ] = f"127.0.0.1:{DEFAULT_ADMIN_PORT}",
    memory_max: Annotated[
        str,
        typer.Option(
            "--memory-max",
            metavar="SIZE",
            help="Memory for the aggregated state, 64MiB or more. When it is full, events that need more are refused.",
        ),
    ] = f"{MEMORY_BYTES_DEFAULT >> 30}GiB",
    advertise: Annotated[
        str | None,
        typer.Option(
            "--advertise", metavar="HOST:PORT", help="The address clients are told to connect to, if not --listen's."
        ),
    ] = None,
    election_ms: Annotated[
        str | None,
        typer.Option(
            "--election-ms",
            metavar="MIN-MAX",
            help="A leader that was silent for so long is replaced. Default: 500-1000. Longer for slow networks.",
        ),
    ] = None,
    heartbeat_ms: Annotated[
        int | None,
        typer.Option("--heartbeat-ms", min=1, help="How often an idle leader says that it is there. Default: 100."),
    ] = None,
    checkpoint_after: Annotated[
        str | None,
        typer.Option(
            "--checkpoint-after",
            metavar="SIZE",
            help="Journal written since the last checkpoint that makes the next one due; at least as much as the state is "
            "large. Less: shorter restarts, more writing. Default: 128MiB.",
        ),
    ] = None,
    catchup_rate: Annotated[
        str | None,
        typer.Option(
            "--catchup-rate",
            metavar="SIZE",
            help="While clients write, a node that is far behind gains on the leader by so much of the journal a second. More: "
            "it is back earlier, clients notice it more. Default: 3MiB (a hundred thousand events).",
        ),
    ] = None,
) -> None:
    """Run a node: the server.

    A cluster of one:

        unimeter node --data-dir ./data

    A node of three; the other two have --id 2 and --id 3, and the same list:

        unimeter node --id 1 --data-dir ./data --member 1=10.0.0.1:7001,10.0.0.1:7101
        --member 2=10.0.0.2:7001,10.0.0.2:7101 --member 3=10.0.0.3:7001,10.0.0.3:7101

    A new cluster has 1, 3 or 5 members; nodes are added later with `unimeter cluster add`. A node whose directory
    is new and whose members are a cluster already joins them. `unimeter dev` starts three nodes on this machine.

    Prints one line beginning `ready` once it serves. SIGTERM or Ctrl-C hands its work over, drains, writes a
    checkpoint and stops; a kill at any time loses nothing that was acknowledged.

    Exit codes: 0 stopped as asked; 1 it could not start, or halted (the reason is on stderr); 2 wrong usage;
    3 the data directory is in use by another process.
    """
    if not __debug__:
        typer.echo("error: do not run a node under python -O: its assertions are part of it", err=True)
        raise typer.Exit(2)
    if compiled.is_stale():
        typer.echo(f"warning: {compiled.status()}", err=True)
    from unimeter.io.real.gentle import Gentle

    gentle = Gentle()
    if member:
        gentle.begin()
    from unimeter.io.real.options import ServerOptions, StartError
    from unimeter.io.real.server import Server

    memory_max_bytes = size_of(memory_max)
    if memory_max_bytes < MEMORY_BYTES_MIN:
        raise typer.BadParameter(f"{memory_max!r}: at least {MEMORY_BYTES_MIN >> 20}MiB", param_hint="--memory-max")
    members = members_of(member or [], node_id)
    own = next((found for found in members if found.node_id == node_id), None)
    if own is None and peer_listen is not None:
        raise typer.BadParameter("name the nodes of the cluster with --member", param_hint="--peer-listen")
    if own is not None:
        listen = listen or own.client_address
        peer_listen = peer_listen or own.peer_address
    options = ServerOptions(
        data_dir=data_dir,
        listen=_address(listen or f"127.0.0.1:{DEFAULT_PORT}", "--listen"),
        admin=None if admin.lower() == "off" else _address(admin, "--admin"),
        memory_max_bytes=memory_max_bytes,
        advertise=_address(advertise, "--advertise") if advertise else None,
        node_id=node_id,
        members=members,
        peer_listen=_address(peer_listen, "--peer-listen") if peer_listen else None,
        group_count=groups or (GROUPS_DEFAULT if len(members) > 1 else 1),
        replicas=replicas,
        election_ns=_election_ns(election_ms) if election_ms else None,
        heartbeat_ns=heartbeat_ms * MS_NS if heartbeat_ms else None,
        checkpoint_after_bytes=_at_least_a_mib(checkpoint_after, "--checkpoint-after"),
        catchup_bytes_per_second=_at_least_a_mib(catchup_rate, "--catchup-rate"),
    )
    try:
        server = Server(options, gentle.end)
    except StartError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error
    raise typer.Exit(server.run())
