"""`unimeter node`: what its options mean, and how a wrong one is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from unimeter.config import DEFAULT_ADMIN_PORT, DEFAULT_PORT, MEMORY_BYTES_DEFAULT, MEMORY_BYTES_MIN

SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}

app = typer.Typer()


def size_of(text: str) -> int:
    """Bytes from "4GiB", "512M", "1.5 g" or a plain number; units are powers of 1024."""
    match = SIZE.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r}: write a size like 4GiB, 512MiB or 1000000000")
    return int(float(match[1]) * UNITS[match[2].lower()])


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
    listen: Annotated[
        str,
        typer.Option(
            "--listen",
            metavar="HOST:PORT",
            help="Where clients connect. Port 0: any free port; the ready line names it.",
        ),
    ] = f"127.0.0.1:{DEFAULT_PORT}",
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
) -> None:
    """Run a node: the server.

    Prints one line beginning `ready` once it serves. SIGTERM or Ctrl-C drains, writes a checkpoint and stops;
    a kill at any time loses nothing that was acknowledged.

    Exit codes: 0 stopped as asked; 1 it could not start, or halted (the reason is on stderr); 2 wrong usage;
    3 the data directory is in use by another process.
    """
    if not __debug__:
        typer.echo("error: do not run a node under python -O: its assertions are part of it", err=True)
        raise typer.Exit(2)
    from unimeter.io.real.network import Address
    from unimeter.io.real.server import Server, ServerOptions, StartError

    def address(text: str, option: str) -> Address:
        try:
            return Address.parse(text).resolved()
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint=option) from error
        except OSError as error:
            raise typer.BadParameter(f"{text!r}: {error.strerror}", param_hint=option) from error

    memory_max_bytes = size_of(memory_max)
    if memory_max_bytes < MEMORY_BYTES_MIN:
        raise typer.BadParameter(f"{memory_max!r}: at least {MEMORY_BYTES_MIN >> 20}MiB", param_hint="--memory-max")
    options = ServerOptions(
        data_dir=data_dir,
        listen=address(listen, "--listen"),
        admin=None if admin.lower() == "off" else address(admin, "--admin"),
        memory_max_bytes=memory_max_bytes,
        advertise=address(advertise, "--advertise") if advertise else None,
    )
    try:
        server = Server(options)
    except StartError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error
    raise typer.Exit(server.run())
