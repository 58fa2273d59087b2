"""The command line: which commands there are. Each is a module of `unimeter.commands` with a Typer `app`, and is
imported when it is asked for, so that `unimeter --help` is quick and a part that is broken breaks nothing else.

Exit codes, of every command: 0 done; 1 the server, a file's content or a check said no; 2 wrong usage; 4 no server
could be reached; 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

import typer

COMMANDS = {
    "node": ("unimeter.commands.node", "Run a node: the server."),
    "dev": ("unimeter.commands.dev", "Run a cluster of several nodes on this machine, to develop against."),
    "metric": ("unimeter.commands.metric", "Create, list and delete metrics."),
    "import": ("unimeter.commands.importer", "Import events from a CSV or NDJSON file; running it again is harmless."),
    "query": ("unimeter.commands.query", "Ask for an account's totals."),
    "cluster": ("unimeter.commands.cluster", "See and change a running cluster: status, add, remove, drain, transfer."),
    "inspect": ("unimeter.commands.inspect", "Show and verify what is in a data directory."),
    "sim": ("unimeter.commands.sim", "Run the simulator: the real node in a hostile, reproducible world."),
    "bench": ("unimeter.commands.bench", "Measure this node on this machine."),
    "demo": ("unimeter.commands.demo", "Start a node, import a real data set, print totals, stop."),
}

HELP = """Unimeter records usage events durably, counts each exactly once, and answers billing questions.

Start a node with `unimeter node --data-dir DIR`, or three of them on this machine with `unimeter dev`; make a metric
with `unimeter metric create`, send events with the Python SDK or `unimeter import`, and ask with `unimeter query`. Every
command explains itself: `unimeter COMMAND --help`.

Exit codes: 0 done; 1 the server, a file's content or a check said no; 2 wrong usage; 4 no server could be reached."""

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 4
EXIT_INTERRUPTED = 130


def build(wanted: str | None) -> typer.Typer:
    """The application, with the wanted command loaded and all others as names with a line of help."""
    app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")
    app.callback()(_root)
    for name, (module, summary) in COMMANDS.items():
        if name != wanted:
            app.command(name, help=summary)(_not_loaded)
            continue
        part: typer.Typer = import_module(module).app
        commands = part.registered_commands
        if len(commands) == 1 and not part.registered_callback and not part.registered_groups and commands[0].callback:
            app.command(name, help=commands[0].help, no_args_is_help=commands[0].no_args_is_help)(commands[0].callback)
        else:
            app.add_typer(part, name=name)
    return app


def _root(
    version: bool = typer.Option(False, "--version", is_eager=True, callback=lambda asked: _version(asked)),
) -> None:
    del version


_root.__doc__ = HELP


def _version(asked: bool) -> None:
    if asked:
        from unimeter import __version__, compiled

        typer.echo(f"unimeter {__version__} ({compiled.status()})")
        raise typer.Exit


def _not_loaded() -> None:
    raise AssertionError("main() loads the command that is asked for")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `unimeter`. Always ends in SystemExit."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    wanted = next((word for word in words if not word.startswith("-")), None)
    from unimeter.errors import ConnectionFailed, InvalidArgument, UnimeterError

    code = EXIT_ERROR
    try:
        app = build(wanted)
        command = typer.main.get_command(app)
        command.main(words, prog_name="unimeter")
    except ConnectionFailed as error:
        typer.echo(f"error: {error}", err=True)
        code = EXIT_UNREACHABLE
    except InvalidArgument as error:
        typer.echo(f"error: {error}", err=True)
        code = EXIT_USAGE
    except UnimeterError as error:
        typer.echo(f"error: {error}", err=True)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    sys.exit(code)


if __name__ == "__main__":
    main()
