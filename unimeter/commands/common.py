"""What the commands that talk to a server share."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from unimeter.errors import InvalidArgument

ServerOption = Annotated[
    str,
    typer.Option(
        "--server",
        envvar="UNIMETER_SERVER",
        metavar="ADDR[,ADDR...]",
        help="Address of a node to talk to, host:port; or of several, with commas between them.",
    ),
]
DEFAULT_SERVER = "127.0.0.1:7001"


def servers_of(text: str) -> list[str]:
    """The addresses that --server names."""
    return [part.strip() for part in text.split(",") if part.strip()]


def print_table(table: Table) -> None:
    """A table without lines; never folded to 80 columns when another program reads it."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=1000)
    console.print(table, markup=False, highlight=False)


def split_pair(text: str, option: str) -> tuple[str, str]:
    """KEY=VALUE."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise typer.BadParameter(f"{text!r}: write {option} KEY=VALUE")
    return key, value


def account_of(text: str, is_text: bool = False) -> int | str:
    """An account as people write it: a whole number below 2^64 is numeric, everything else is text. A number with
    leading zeroes is text too, or 007 and 7 would be one account."""
    if not is_text and text.isascii() and text.isdigit() and (text[0] != "0" or text == "0"):
        number = int(text)
        if number < 2**64:
            return number
    if not text:
        raise InvalidArgument("the account is empty")
    return text
