"""`unimeter dev`: a whole cluster on this machine, for development: its options, and what a directory remembers.

Node N of a cluster from port P on has the client port P + N - 1, the peer port 100 above that and the admin port
200 above. DIR/dev.json says how many nodes and groups the directory was made with, and from which port on: nodes
know each other by these, so a second start uses the same.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from unimeter.commands.node import size_of
from unimeter.config import DEFAULT_PORT, FOUNDERS, GROUPS_DEFAULT, GROUPS_MAX, MEMORY_BYTES_MIN

HOST = "127.0.0.1"
NODES_DEFAULT = 3
PEER_PORT_ABOVE = 100
ADMIN_PORT_ABOVE = 200
PORT_MAX = 65535 - ADMIN_PORT_ABOVE - max(FOUNDERS)
MEMORY_DEFAULT = "512MiB"
FILE = "dev.json"

app = typer.Typer()


@dataclass(frozen=True)
class Layout:
    """The shape of a development cluster."""

    nodes: int
    groups: int
    port: int

    def client(self, node_id: int) -> str:
        return f"{HOST}:{self.port + node_id - 1}"

    def peer(self, node_id: int) -> str:
        return f"{HOST}:{self.port + node_id - 1 + PEER_PORT_ABOVE}"

    def admin(self, node_id: int) -> str:
        return f"{HOST}:{self.port + node_id - 1 + ADMIN_PORT_ABOVE}"

    def node_ids(self) -> range:
        return range(1, self.nodes + 1)

    def node_options(self, node_id: int, directory: Path, memory_max: str) -> list[str]:
        """The command line of one node, behind `unimeter node`."""
        options = ["--id", str(node_id), "--data-dir", str(directory / f"node{node_id}")]
        options += ["--groups", str(self.groups), "--admin", self.admin(node_id), "--memory-max", memory_max]
        for other in self.node_ids():
            options += ["--member", f"{other}={self.client(other)},{self.peer(other)}"]
        return options


def layout_of(directory: Path, nodes: int | None, groups: int | None, port: int | None) -> Layout:
    """What the directory remembers, checked against what was asked for. Remembers what is new."""
    path = directory / FILE
    try:
        found = json.loads(path.read_text())
        kept = Layout(int(found["nodes"]), int(found["groups"]), int(found["port"]))
    except FileNotFoundError:
        wanted = nodes or NODES_DEFAULT
        made = Layout(wanted, groups or (GROUPS_DEFAULT if wanted > 1 else 1), port or DEFAULT_PORT)
        directory.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(made)) + "\n")
        fresh.replace(path)
        return made
    except (ValueError, KeyError, TypeError) as error:
        raise typer.BadParameter(
            f"{path} is not what `unimeter dev` writes: {error}", param_hint="--data-dir"
        ) from error
    for option, asked, has in (
        ("--nodes", nodes, kept.nodes),
        ("--groups", groups, kept.groups),
        ("--port", port, kept.port),
    ):
        if asked is not None and asked != has:
            raise typer.BadParameter(
                f"{directory} was made with {option} {has}, and keeps it; "
                f"leave {option} away, or name another directory with --data-dir",
                param_hint=option,
            )
    return kept


@app.command("dev")
def dev(
    nodes: Annotated[int | None, typer.Option(help=f"How many nodes: 1, 3 or 5. Default: {NODES_DEFAULT}.")] = None,
    data_dir: Annotated[
        Path,
        typer.Option("--data-dir", file_okay=False, help="Where the nodes keep their data: DIR/node1, DIR/node2, ..."),
    ] = Path("unimeter-dev"),
    port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=PORT_MAX,
            help="The first node's client port, the next ones follow. Peer ports lie 100 above, admin ports 200 above. "
            f"Default: {DEFAULT_PORT}.",
        ),
    ] = None,
    groups: Annotated[
        int | None,
        typer.Option(
            min=1, max=GROUPS_MAX, help=f"Groups of a new cluster. Default: {GROUPS_DEFAULT}, or 1 for one node."
        ),
    ] = None,
    memory_max: Annotated[
        str, typer.Option("--memory-max", metavar="SIZE", help="Memory for the state of each node.")
    ] = MEMORY_DEFAULT,
) -> None:
    """Run a cluster on this machine, to develop against and to try things out.

    Starts the nodes as processes of their own and shows what they say. Prints one line beginning `ready` with the
    addresses once all of them serve. Ctrl-C stops all (a second one does not wait); the next start goes on with the
    same data. Nothing is restarted by itself: kill a node and see what the others do.

    Exit codes: 0 stopped as asked; 1 a node died, or could not start; 2 wrong usage.
    """
    if nodes is not None and nodes not in FOUNDERS:
        raise typer.BadParameter(
            f"{nodes}: a cluster starts with 1, 3 or 5 nodes; others are added later with `unimeter cluster add`",
            param_hint="--nodes",
        )
    if size_of(memory_max) < MEMORY_BYTES_MIN:
        raise typer.BadParameter(f"{memory_max!r}: at least {MEMORY_BYTES_MIN >> 20}MiB", param_hint="--memory-max")
    from unimeter.commands.dev_run import run

    raise typer.Exit(run(layout_of(data_dir, nodes, groups, port), data_dir, memory_max))
