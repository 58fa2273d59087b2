"""`--member ID=CLIENT,PEER`: the nodes of a cluster as a command line names them.

Client addresses are told to v1 clients, as at most 23 bytes of ip:port, so names are looked up here, once. Peer
addresses stay as they are written: they are looked up at every dial.

A name that means nothing yet may belong to a node that is just being started (in containers, names come with
their machine), so other nodes' names are given RESOLVE_SECONDS_MAX.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from unimeter.config import Member

if TYPE_CHECKING:
    from unimeter.io.real.address import Address

NODE_ID_MAX = 255
RESOLVE_SECONDS_MAX = 30.0
RESOLVE_AGAIN_SECONDS = 0.5
EXAMPLE = "1=10.0.0.1:7001,10.0.0.1:7101"
OPTION = "--member"
SHAPE = re.compile(r"(\d{1,9})=([^,]+),([^,]+)")
ANYWHERE = ("0.0.0.0", "::")


def members_of(texts: Sequence[str], own_id: int) -> tuple[Member, ...]:
    """What the --member options say, checked, client addresses numeric. typer.BadParameter with the fix."""
    found: list[tuple[int, Address, Address]] = []
    taken: dict[str, int] = {}
    for text in texts:
        number, client, peer = _parsed(text)
        if any(number == other for other, _, _ in found):
            raise _wrong(f"node {number} is named twice")
        for address in (str(client), str(peer)):
            if address in taken:
                raise _wrong(f"{address} is named for node {taken[address]} and for node {number}; each needs its own")
            taken[address] = number
        found.append((number, client, peer))
    if found and not any(number == own_id for number, _, _ in found):
        listed = ", ".join(str(number) for number, _, _ in found)
        raise _wrong(
            f"this node, {own_id}, is not among the members ({listed}); "
            f"name it too, or say with --id which of them it is"
        )
    return tuple(
        Member(number, str(_numeric(client, number == own_id)), str(peer)) for number, client, peer in sorted(found)
    )


def _parsed(text: str) -> tuple[int, Address, Address]:
    match = SHAPE.fullmatch(text.strip())
    if match is None or not match[1].isascii():
        raise _wrong(f"{text!r}: write ID=CLIENT_ADDRESS,PEER_ADDRESS, for example {EXAMPLE}")
    number = int(match[1])
    if not 1 <= number <= NODE_ID_MAX:
        raise _wrong(f"{text!r}: a node's id lies between 1 and {NODE_ID_MAX}")
    return number, address_of(match[2], OPTION), address_of(match[3], OPTION)


def address_of(text: str, option: str) -> Address:
    """An address that others can connect to. typer.BadParameter with the fix."""
    from unimeter.io.real.address import Address

    try:
        address = Address.parse(text)
    except ValueError as error:
        raise _wrong(str(error), option) from error
    if address.port == 0:
        raise _wrong(f"{text!r}: others cannot connect to port 0; write the real one", option)
    if address.host in ANYWHERE:
        raise _wrong(
            f"{text!r}: nobody can connect to {address.host}; write the address that others reach the node at, "
            "and --listen (or --peer-listen) of `unimeter node` for the interfaces it listens on",
            option,
        )
    return address


def _numeric(address: Address, own: bool) -> Address:
    """What v1 clients can be told."""
    until = time.monotonic() + (0 if own else RESOLVE_SECONDS_MAX)
    told = False
    while True:
        try:
            return address.resolved()
        except OSError as error:
            if time.monotonic() >= until:
                raise _wrong(f"{address}: {error.strerror}; write an address that this machine can look up") from error
        if not told:
            typer.echo(f"starting: waiting for the name {address.host} to mean something", err=True)
            told = True
        time.sleep(RESOLVE_AGAIN_SECONDS)


def _wrong(message: str, option: str = OPTION) -> typer.BadParameter:
    return typer.BadParameter(message, param_hint=option)
