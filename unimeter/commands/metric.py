"""`unimeter metric create|list|delete`"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from unimeter.client.values import AggType, MetricSchema, PeriodType, Threshold
from unimeter.commands.common import DEFAULT_SERVER, ServerOption, print_table, servers_of, split_pair

app = typer.Typer(
    help="Create, list and delete metrics. An event names its metric; the metric says what is done with it.",
    no_args_is_help=True,
)


@app.command(no_args_is_help=True)
def create(
    code: Annotated[str, typer.Argument(help="The metric's name, 1 to 63 bytes, for example api_calls.")],
    agg: Annotated[
        AggType,
        typer.Option(
            "--agg",
            help="count: number of events. sum: total of values. max: largest value. latest: value of the latest "
            "event. count-unique: number of distinct values.",
        ),
    ],
    dimension: Annotated[
        list[str] | None,
        typer.Option("--dimension", help="A property to filter and group by. Repeat for more (up to 16)."),
    ] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            "--threshold",
            metavar="NAME=VALUE",
            help="Alert once per period when an account's total reaches VALUE. Repeat for more.",
        ),
    ] = None,
    recurring_threshold: Annotated[
        list[str] | None,
        typer.Option(
            "--recurring-threshold", metavar="NAME=VALUE", help="Alert each time the total rises to VALUE from below."
        ),
    ] = None,
    period: Annotated[
        PeriodType,
        typer.Option("--period", help="The metric's own periods, in UTC, for thresholds. week: ISO. fixed: 30 days."),
    ] = PeriodType.MONTH,
    billing_day: Annotated[
        int, typer.Option("--billing-day", min=1, max=28, help="The day on which a month begins.")
    ] = 1,
    recurring: Annotated[
        bool,
        typer.Option(
            "--recurring", help="count-unique: members stay from period to period until they are removed (seats)."
        ),
    ] = False,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Create a metric. The same definition again is fine; dimensions and thresholds may be added later."""
    from unimeter.client.client import Client

    thresholds = [_threshold(text, "--threshold", False) for text in threshold or []]
    thresholds += [_threshold(text, "--recurring-threshold", True) for text in recurring_threshold or []]
    schema = MetricSchema(code, agg, dimension or [], thresholds, period, billing_day, recurring)
    with Client(servers_of(server), connect_timeout=0) as client:
        created = client.metrics.create(schema)
    typer.echo(f"created {code}" if created else f"{code} is there")


def _threshold(text: str, option: str, recurring: bool) -> Threshold:
    name, value = split_pair(text, option)
    try:
        return Threshold(name, int(value), recurring)
    except ValueError:
        raise typer.BadParameter(f"{text!r}: VALUE is a whole number") from None


@app.command("list")
def list_metrics(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """List all metrics."""
    from unimeter.client.client import Client
    from unimeter.client.decode import encode_schema

    with Client(servers_of(server), connect_timeout=0) as client:
        metrics = client.metrics.list()
    if as_json:
        typer.echo(json.dumps([encode_schema(metric.schema) | {"id": metric.id} for metric in metrics], indent=1))
        return
    if not metrics:
        typer.echo("no metrics yet; create one: unimeter metric create CODE --agg count")
        return
    from rich.table import Table

    table = Table("metric", "aggregation", "dimensions", "period", "thresholds", box=None, pad_edge=False)
    for metric in metrics:
        schema = metric.schema
        table.add_row(
            schema.code,
            schema.agg_type.value + (" recurring" if schema.recurring else ""),
            ", ".join(schema.dimensions),
            _period_words(schema),
            ", ".join(f"{t.name}={t.value}{' recurring' if t.recurring else ''}" for t in schema.thresholds),
        )
    print_table(table)


def _period_words(schema: MetricSchema) -> str:
    if schema.period is None:
        return ""
    day = schema.billing_day or 1
    return f"{schema.period.value} from day {day}" if schema.period is PeriodType.MONTH and day > 1 else schema.period


@app.command(no_args_is_help=True)
def delete(
    code: Annotated[str, typer.Argument(help="The metric to delete.")],
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Delete a metric: it takes no more events and answers no more queries. Its events stay in the journal."""
    from unimeter.client.client import Client

    with Client(servers_of(server), connect_timeout=0) as client:
        client.metrics.delete(code)
    typer.echo(f"deleted {code}")
