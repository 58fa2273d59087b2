"""`unimeter inspect`"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from unimeter import kernels
from unimeter.commands.common import print_table
from unimeter.config import NodeConfig
from unimeter.core.audit import Audit, Report
from unimeter.io.offline import files_of, run_reading

app = typer.Typer()


@app.command(no_args_is_help=True)
def inspect(
    data_dir: Annotated[Path, typer.Argument(help="A node's data directory.", exists=True, file_okay=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what is in a data directory's journal and checkpoints, and verify all of it.

    Every record's checksum and every link of the chain is checked, also in segments that starting does not need any
    more: they are the only copy of their events. Nothing is changed; a running node does no harm, but what it is
    writing at this moment may show as a torn tail. Exit code 1 when something is damaged.
    """
    report = run_reading(data_dir, Audit(kernels.load(), NodeConfig(), files_of(data_dir)).run())
    if as_json:
        typer.echo(json.dumps(asdict(report)))
    else:
        _print(report)
    raise typer.Exit(1 if report.problems else 0)


def _print(report: Report) -> None:
    console = Console(soft_wrap=True)
    if report.identity is not None:
        identity = report.identity
        console.print(
            f"cluster {identity.cluster_id:016x}, node {identity.node_id}, {identity.group_count} group(s)",
            highlight=False,
        )
    segments = Table("segment", "records", "entries", "batches", "events", "bytes", "state", box=None, title="journal")
    for segment in report.segments:
        records = f"{segment.first_record}..{segment.last_record}" if segment.last_record else "none"
        counts = (segment.entries, segment.batches, segment.rows, segment.bytes)
        segments.add_row(str(segment.number), records, *map(str, counts), segment.problem or "ok")
    print_table(segments)
    if report.checkpoints:
        checkpoints = Table(
            "checkpoint", "up to record", "bytes", "state bytes", "state", box=None, title="checkpoints"
        )
        for found in report.checkpoints:
            state = found.problem or "ok"
            checkpoints.add_row(found.file, str(found.record), str(found.bytes), str(found.state_bytes), state)
        print_table(checkpoints)
    if report.torn_tail:
        console.print(
            "The journal ends in a torn record: a write that was never acknowledged. The next start cuts it off."
        )
    for problem in report.problems:
        console.print(f"DAMAGED {problem}", markup=False, highlight=False)
    if not report.problems:
        console.print("Everything in the journal can be read and is as it was written.")
    if any(found.problem for found in report.checkpoints):
        console.print(
            "A checkpoint is incomplete or damaged: a start goes from an older one, or from the journal, and loses nothing."
        )
