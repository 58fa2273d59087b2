"""`unimeter query ACCOUNT METRIC`"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from unimeter.client.results import UsageRow, Value
from unimeter.client.times import TIMESTAMP_MAX_NS, iso, parse_time
from unimeter.client.values import Period
from unimeter.commands.common import DEFAULT_SERVER, ServerOption, account_of, print_table, servers_of, split_pair

app = typer.Typer()


@app.command(no_args_is_help=True)
def query(
    account: Annotated[str, typer.Argument(help="The account: a number, or text.")],
    metric: Annotated[str, typer.Argument(help="The metric's code.")],
    start: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="From this time on. Default: everything before --to.")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="Up to, not including, this time. Default: no end.")
    ] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="KEY=VALUE",
            help="Only events whose dimension KEY is VALUE. Repeat to allow more values.",
        ),
    ] = None,
    group_by: Annotated[
        list[str] | None,
        typer.Option("--group-by", metavar="KEY", help="One row per value of KEY. Repeat for more keys."),
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="ACCOUNT is text, even if it looks like a number.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object: count, sum, min, max, latest, unique.")
    ] = False,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """The totals of one account and metric: exact, over any range of time, including every acknowledged event.

    A TIME is ISO 8601 (2030-01-31T12:00:00+02:00; without an offset it is UTC; a date alone is its midnight) or
    nanoseconds since 1970 UTC.
    """
    from unimeter.client.client import Client

    period = Period(parse_time(start) if start else 0, parse_time(end) if end else TIMESTAMP_MAX_NS)
    wanted: dict[str, list[str]] = {}
    for pair in filters or []:
        key, value = split_pair(pair, "--filter")
        wanted.setdefault(key, []).append(value)
    who = account_of(account, text)
    keys = list(dict.fromkeys(group_by or []))
    with Client(servers_of(server), connect_timeout=0) as client:
        if keys:
            rows = client.query_breakdown(who, metric, period, group_by=keys, filters=wanted)
        else:
            rows = [UsageRow({}, client.query(who, metric, period, filters=wanted).value)]
    if as_json:
        objects = [_object(row.value) | ({"dimensions": dict(row.dimensions)} if keys else {}) for row in rows]
        typer.echo(json.dumps({"rows": objects} if keys else objects[0]))
        return
    _print_table(keys, rows)


def _object(value: Value) -> dict[str, Any]:
    return {
        "count": value.count,
        "sum": value.sum,
        "min": value.min,
        "max": value.max,
        "latest": value.last_value,
        "unique": value.unique,
    }


def _print_table(keys: list[str], rows: list[UsageRow]) -> None:
    from rich.table import Table

    with_unique = any(row.value.unique is not None for row in rows)
    table = Table(*keys, box=None, pad_edge=False)
    for name in ("count", "sum", "min", "max", "latest", "latest at"):
        table.add_column(name, justify="right")
    if with_unique:
        table.add_column("unique", justify="right")
    for row in rows:
        value = row.value
        cells: list[Any] = [value.count, value.sum, value.min, value.max, value.last_value]
        cells.append(iso(value.last_timestamp) if value.last_timestamp is not None else None)
        if with_unique:
            cells.append(value.unique)
        table.add_row(*(row.dimensions.get(key, "") for key in keys), *("-" if c is None else str(c) for c in cells))
    print_table(table)
