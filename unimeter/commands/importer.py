"""`unimeter import FILE`"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unimeter.commands.common import DEFAULT_SERVER, ServerOption, servers_of

if TYPE_CHECKING:
    from unimeter.commands.import_rows import Mapping

app = typer.Typer()

BATCH_EVENTS = 4096


@app.command("import", no_args_is_help=True)
def import_file(
    file: Annotated[
        Path, typer.Argument(help="A .csv or .ndjson file, or one of them with .gz; - reads standard input.")
    ],
    metric: Annotated[str, typer.Option("--metric", help="The metric of all rows; it must exist.")],
    account: Annotated[
        str,
        typer.Option("--account", metavar="COL", help="Column with the account. Digits: a number; else text."),
    ],
    value: Annotated[
        str | None,
        typer.Option("--value", metavar="COL", help="Column with the value, a whole number. Default: 1 each."),
    ] = None,
    time_column: Annotated[
        str | None,
        typer.Option(
            "--time",
            metavar="COL",
            help="Column with the time. Default: rows are stamped on arrival, and a row that was imported before keeps "
            "its first stamp.",
        ),
    ] = None,
    properties: Annotated[
        list[str] | None,
        typer.Option(
            "--property",
            metavar="COL[=KEY]",
            help="Column to keep as a property (named KEY). Repeat for more. Empty: none.",
        ),
    ] = None,
    id_column: Annotated[
        str | None,
        typer.Option(
            "--id",
            metavar="COL",
            help="Column with the event's id: it counts once per account, whoever sends it, under any metric. Default: "
            "made from the source, the metric, the row and its place among equal rows.",
        ),
    ] = None,
    operation: Annotated[
        str | None, typer.Option("--operation", metavar="COL", help="Column with add or remove, for count-unique.")
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option(
            "--scale", min=0, max=18, metavar="N", help="Values are decimals; store them times 10^N, exactly."
        ),
    ] = None,
    time_format: Annotated[
        str,
        typer.Option(
            help="auto: ISO 8601 (without an offset UTC; a date alone is its midnight) or nanoseconds since 1970. Or s, ms, "
            "us, ns for numbers since 1970, or a strptime format such as '%d/%m/%Y %H:%M'."
        ),
    ] = "auto",
    file_format: Annotated[
        str | None, typer.Option("--format", metavar="csv|ndjson", help="What the file is. Default: by its name.")
    ] = None,
    delimiter: Annotated[str, typer.Option(help=r"Between the columns of a CSV file; \t is a tab.")] = ",",
    source: Annotated[
        str | None,
        typer.Option(
            help="Name of this data: rows of the same name are never imported twice. Default: the file's name without its "
            "folder."
        ),
    ] = None,
    text_accounts: Annotated[bool, typer.Option("--text", help="All accounts are text, also those of digits.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Read the whole file first; if any row is bad, import nothing.")
    ] = False,
    bad_rows: Annotated[
        Path | None,
        typer.Option("--bad-rows", metavar="FILE", help="Write every row that was not imported here, with the reason."),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, max=65536, help="Rows in one request.")] = BATCH_EVENTS,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds to keep trying while the server does not answer.")
    ] = 60.0,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Import events from a file. Running it again, or after being killed half-way, adds nothing twice.

    Every row becomes one event with an id: that of --id, or one made from the row itself. Rows that are no events
    are named by their line and counted, never skipped in silence; the others are imported. A line without anything on
    it is no row.

    Exit code 0: every row is in the server now. 1: some rows are not (bad, conflicting or refused), or the import was
    not completed: run it again. 2: wrong usage, for example a column that is not there. 4: no server.
    """
    from unimeter.commands.import_rows import Mapping, parse_properties, time_parser
    from unimeter.commands.import_source import kind_of
    from unimeter.errors import InvalidArgument

    is_stdin = str(file) == "-"
    if not is_stdin and not file.is_file():
        raise typer.BadParameter(f"there is no file {file}", param_hint="FILE")
    if file_format not in (None, "csv", "ndjson"):
        raise typer.BadParameter("use csv or ndjson", param_hint="--format")
    if is_stdin and not (source or id_column):
        raise InvalidArgument("standard input has no name: give it one with --source, or use --id")
    if is_stdin and strict:
        raise InvalidArgument("--strict reads the file twice, which standard input cannot")
    delimiter = delimiter.replace("\\t", "\t")
    if len(delimiter) != 1:
        raise typer.BadParameter("one character", param_hint="--delimiter")
    if not delimiter.isprintable() and delimiter != "\t":
        raise typer.BadParameter("a printable character or a tab", param_hint="--delimiter")
    time_parser(time_format)
    mapping = Mapping(
        metric=metric, account=account, value=value, time=time_column, id=id_column, operation=operation,
        properties=parse_properties(properties or []), scale_decimals=scale, time_format=time_format,
        source=source or file.name, text_accounts=text_accounts,
    )  # fmt: skip
    kind = file_format or kind_of(file)
    done = asyncio.run(_import(file, kind, delimiter, mapping, strict, bad_rows, batch, timeout, server))
    raise typer.Exit(0 if done else 1)


async def _import(  # one call, from import_file
    file: Path, kind: str, delimiter: str, mapping: Mapping, strict: bool, bad_rows: Path | None, batch: int,
    timeout: float, server: str,
) -> bool:  # fmt: skip
    from rich.console import Console

    from unimeter.client.async_client import AsyncClient
    from unimeter.commands.import_progress import Bar
    from unimeter.commands.import_run import Complaints, Import, check_metric
    from unimeter.commands.import_source import Source
    from unimeter.errors import InvalidArgument, UnimeterError

    console = Console(stderr=True, soft_wrap=True)

    def show(text: str) -> None:
        readable = text.encode("utf-8", "replace").decode()  # a bad row may hold anything
        console.print(readable, markup=False, highlight=False)

    def open_source() -> Source:
        return Source(file, kind, delimiter, mapping.columns())

    with Complaints(show, bad_rows, kind) as complaints:
        async with AsyncClient(servers_of(server), timeout=timeout, connect_timeout=0) as client:
            info = await client.connect()
            batch = min(batch, info.batch_events_max)
            remark = await check_metric(client, mapping)
            if remark:
                show(f"note: {remark}")
            started = time.monotonic()
            work = Import(mapping, batch, complaints, info.groups)
            if strict:
                with open_source() as opened, Bar(console, "checking", opened.size_bytes) as bar:
                    good = work.check(opened, bar.at)
                if not good:
                    show(f"{work.counts.bad:,} of {work.counts.read:,} rows are bad; nothing was imported (--strict)")
                    return False
                work = Import(mapping, batch, complaints, info.groups)
            with open_source() as opened, Bar(console, "importing", opened.size_bytes) as bar:
                try:
                    await work.run(opened, client, bar.at)
                except InvalidArgument:
                    raise  # it will be as wrong the next time
                except (UnimeterError, OSError):
                    show(
                        f"stopped: {work.counts.stored:,} rows stored so far; run the same import again to complete it"
                    )
                    raise
    counts = work.counts
    seconds = time.monotonic() - started
    typer.echo(
        f"rows read {counts.read}, stored {counts.stored}, duplicates {counts.duplicates}, "
        f"conflicts {counts.conflicts}, refused {counts.refused}, bad {counts.bad}, seconds {seconds:.2f}"
    )
    return counts.is_clean
