"""python -m tests.chaos [failover | catchup | grow] ...: see --help. Exit code 0: every promise was kept."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

import uvloop

from tests.chaos import plays
from tests.chaos.faults import KINDS
from tests.chaos.stage import Options, Outcome, write_json


def kinds_of(text: str) -> tuple[str, ...]:
    kinds = tuple(kind for kind in text.replace(" ", "").split(",") if kind)
    for kind in kinds:
        if kind not in KINDS:
            raise argparse.ArgumentTypeError(f"{kind!r}: the faults are {', '.join(KINDS)}")
    return kinds


def arguments_of(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description="Real nodes, real faults, one judgement."
    )
    parser.add_argument("what", nargs="?", default="chaos", choices=("chaos", "failover", "catchup", "grow"))
    parser.add_argument("--seconds", type=float, default=60.0, help="of faults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--faults", type=kinds_of, default=kinds_of("kill,stop,cut,slow,wipe"), help=", ".join(KINDS))
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two faults")
    parser.add_argument("--rate", type=int, default=20_000, help="events a second")
    parser.add_argument("--groups", type=int, default=0)
    parser.add_argument("--memory", default="1GiB", help="--memory-max of each node")
    parser.add_argument("--kills", type=int, default=20, help="failover: how many leaders are killed")
    parser.add_argument("--events", type=int, default=1_000_000, help="catchup: written while a node is away")
    parser.add_argument("--times", type=int, default=3, help="catchup: how often a node is down before one is wiped")
    parser.add_argument("--dir", type=Path, default=None, help="where the nodes' directories are made")
    parser.add_argument("--keep", action="store_true", help="leave the directories, whatever happens")
    parser.add_argument("--json", type=Path, default=None, help="write the figures to this file")
    return parser.parse_args(words)


async def until_stopped(arguments: argparse.Namespace) -> Outcome:
    """SIGTERM and SIGINT end the run early: what is known by then is told, and everything is cleaned up."""
    task = asyncio.ensure_future(perform(arguments))
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, task.cancel)
    return await task


async def perform(arguments: argparse.Namespace) -> Outcome:
    options = Options(
        seconds=arguments.seconds, seed=arguments.seed, nodes=arguments.nodes, faults=arguments.faults,
        every_s=arguments.every, rate=arguments.rate, groups=arguments.groups, memory=arguments.memory,
        keep=arguments.keep, place=arguments.dir,
    )  # fmt: skip
    if arguments.what == "failover":
        return await plays.failover(options, arguments.kills)
    if arguments.what == "catchup":
        return await plays.catchup(options, arguments.events, arguments.times)
    if arguments.what == "grow":
        return await plays.grow(options)
    return await plays.chaos(options)


def main() -> int:
    arguments = arguments_of(sys.argv[1:])
    outcome = uvloop.run(until_stopped(arguments))
    if arguments.json:
        write_json(arguments.json, outcome)
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
