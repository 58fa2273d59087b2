"""Real nodes under real faults, for as long as a test may take; `python -m tests.chaos` goes on for hours."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvloop

from tests.chaos import plays
from tests.chaos.cluster import free_ports
from tests.chaos.proxy import CLIENTS, ProxyControl
from tests.chaos.stage import Options, Outcome, Stage, perform

SMALL = "256MiB"
SILENCE_S = 0.2  # nothing came for so long: it was stopped


def said(lines: list[str], outcome: Outcome) -> str:
    return "\n".join([*lines[-30:], *outcome.wrong])


def test_three_nodes_keep_every_promise_while_something_happens_every_second(tmp_path: Path) -> None:
    lines: list[str] = []
    options = Options(seconds=20.0, seed=11, rate=4000, memory=SMALL, place=tmp_path)
    outcome = uvloop.run(plays.chaos(options, lines.append))
    assert not outcome.wrong, said(lines, outcome)
    assert outcome.figures["events_acknowledged"] > 10_000
    assert outcome.figures["reads"] > 100
    assert sum(outcome.figures["faults"].values()) > 5, "too little happened to mean anything"


def test_one_node_keeps_every_promise_though_it_is_killed_and_stopped(tmp_path: Path) -> None:
    lines: list[str] = []
    options = Options(
        seconds=6.0, seed=3, nodes=1, faults=("kill", "stop", "cut"), rate=4000, memory=SMALL, place=tmp_path
    )
    outcome = uvloop.run(plays.chaos(options, lines.append))
    assert not outcome.wrong, said(lines, outcome)
    assert outcome.figures["events_acknowledged"] > 1000


def test_a_node_that_forgets_is_found_out(tmp_path: Path) -> None:
    """The judge is worth something: a node whose directory is emptied behind its back is called wrong."""

    async def act(stage: Stage) -> None:
        stage.load.start()
        while stage.history.events_acked < 2000:
            await asyncio.sleep(0.05)
        assert await stage.load.finish(20.0) == 0
        node = stage.cluster.nodes[1]
        await stage.cluster.kill(node)
        stage.cluster.wipe(node)
        await stage.cluster.launch(node)
        await stage.cluster.await_ready(node)
        await stage.load.define_metrics()

    lines: list[str] = []
    outcome = uvloop.run(perform(Options(nodes=1, memory=SMALL, place=tmp_path), act, report=lines.append))
    assert any("acknowledged events are not listed" in line for line in outcome.wrong), said(lines, outcome)
    assert any("were acknowledged" in line for line in outcome.wrong), said(lines, outcome)


async def echo_through_a_proxy() -> tuple[ProxyControl, asyncio.StreamReader, asyncio.StreamWriter]:
    """A client of node 1, which echoes what it gets."""
    behind, before = free_ports(2)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
        writer.close()

    await asyncio.start_server(echo, "127.0.0.1", behind)
    proxy = ProxyControl()
    await proxy.start()
    await proxy.listen(1, before, behind, peers=True)
    return proxy, *await asyncio.open_connection("127.0.0.1", before)


def test_a_cut_is_silence_in_one_direction_and_what_was_held_back_arrives_late() -> None:
    async def run() -> None:
        for cut in ((CLIENTS, 1), (1, CLIENTS)):
            proxy, reader, writer = await echo_through_a_proxy()
            writer.write(b"before")
            assert await reader.readexactly(6) == b"before"
            proxy.cut([cut])
            await asyncio.sleep(SILENCE_S)  # the command is on its way through a pipe
            writer.write(b"during")
            late = asyncio.create_task(reader.readexactly(6))
            assert not (await asyncio.wait([late], timeout=SILENCE_S))[0]
            proxy.heal([cut], reset=False)
            assert await late == b"during"
            await proxy.stop()

    asyncio.run(run())


CALLER = """
import socket, sys
link = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print("there", flush=True)
for line in sys.stdin:
    link.sendall(line.encode())
    print(link.recv(100).decode().strip(), flush=True)
"""


def test_a_cut_between_two_nodes_leaves_the_clients_alone_because_the_caller_is_known_by_its_process() -> None:
    async def run() -> None:
        proxy, reader, writer = await echo_through_a_proxy()
        port = writer.get_extra_info("peername")[1]
        node = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CALLER, str(port), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert node.stdin is not None
        assert node.stdout is not None
        proxy.node_is(2, node.pid)
        assert await node.stdout.readline() == b"there\n"
        node.stdin.write(b"before\n")
        assert await node.stdout.readline() == b"before\n"
        proxy.cut([(2, 1)])
        await asyncio.sleep(SILENCE_S)
        node.stdin.write(b"during\n")
        late = asyncio.create_task(node.stdout.readline())
        assert not (await asyncio.wait([late], timeout=SILENCE_S))[0]
        writer.write(b"client")
        assert await reader.readexactly(6) == b"client"
        proxy.heal([(2, 1)], reset=False)
        assert await late == b"during\n"
        node.kill()
        await node.wait()
        await proxy.stop()

    asyncio.run(run())


def test_connections_of_a_cut_that_was_healed_by_a_reset_are_gone_and_new_ones_hang_during_it() -> None:
    async def run() -> None:
        proxy, reader, writer = await echo_through_a_proxy()
        writer.write(b"before")
        assert await reader.readexactly(6) == b"before"
        port = writer.get_extra_info("peername")[1]
        proxy.cut([(1, CLIENTS)])
        await asyncio.sleep(SILENCE_S)
        new_reader, new_writer = await asyncio.open_connection("127.0.0.1", port)
        new_writer.write(b"hello")
        hanging = asyncio.create_task(new_reader.readexactly(5))
        assert not (await asyncio.wait([hanging], timeout=SILENCE_S))[0]
        proxy.heal([(1, CLIENTS)], reset=True)
        gone = await asyncio.gather(reader.read(1), hanging, return_exceptions=True)
        assert gone[0] == b"" or isinstance(gone[0], ConnectionError)
        await proxy.stop()

    asyncio.run(run())
