"""The real network and clock, on loopback, with an echoing stand-in for the driver."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import replace
from time import monotonic_ns

import pytest
import uvloop

from unimeter.config import KIB, MIB, NodeConfig
from unimeter.io.real import network as real_network
from unimeter.io.real.address import Address, bind
from unimeter.io.real.clock import RealClock
from unimeter.io.real.network import RealNetwork

PATIENCE_SECONDS = 10


class Echo:
    """What a driver would be: answers what arrives with `answer(data)`, and keeps a diary."""

    def __init__(self, network: RealNetwork, answer: Callable[[bytes], bytes]) -> None:
        self.network = network
        self.answer = answer
        self.opened: list[tuple[int, str]] = []
        self.arrived: list[tuple[int, bytes]] = []
        self.closed: list[int] = []
        self.ended: list[int] = []
        self.when_ended: Callable[[int], None] = network.close

    def link_opened(self, link: int, peer: str, inner: bool = False, dialled: int = 0) -> None:
        assert not inner
        assert not dialled
        self.opened.append((link, peer))

    def dial_failed(self, ref: int) -> None:
        raise AssertionError(ref)

    def bytes_arrived(self, link: int, data: bytes) -> None:
        self.arrived.append((link, data))
        answer = self.answer(data)
        if answer:
            self.network.send(link, answer)

    def link_ended(self, link: int) -> None:
        self.ended.append(link)
        self.when_ended(link)

    def link_closed(self, link: int) -> None:
        self.closed.append(link)


def nothing(_: bytes) -> bytes:
    return b""


class Town:
    """A loop, a network that listens, and an Echo behind it."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.errors: list[object] = []
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))

    def serve(self, config: NodeConfig | None = None, answer: Callable[[bytes], bytes] = lambda data: data) -> Echo:
        self.network = RealNetwork(self.loop, config or NodeConfig())
        self.echo = self.network.events = Echo(self.network, answer)
        bound = bind("127.0.0.1", 0)
        self.port = bound.getsockname()[1]
        self.loop.run_until_complete(self.network.listen(bound))
        return self.echo

    def run(self, coroutine: Coroutine[object, object, None]) -> None:
        self.loop.run_until_complete(asyncio.wait_for(coroutine, PATIENCE_SECONDS))

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0)  # a turn of the loop

    def close(self) -> None:
        if hasattr(self, "network"):
            self.network.stop_listening()
            self.network.close_all()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
        assert self.errors == []


@pytest.fixture
def town() -> Iterator[Town]:
    made = Town()
    yield made
    made.close()


def test_bytes_come_back_on_the_link_they_came_from(town: Town) -> None:
    echo = town.serve()

    async def play() -> None:
        streams = [await town.connect() for _ in range(5)]
        for number, (_, writer) in enumerate(streams):
            writer.write(b"hello %d" % number)
        for number, (reader, _) in enumerate(streams):
            assert await reader.readexactly(7) == b"hello %d" % number
        for _, writer in streams:
            writer.close()
        await town.until(lambda: len(echo.closed) == 5)

    town.run(play())
    assert [link for link, _ in echo.opened] == [1, 2, 3, 4, 5]
    assert all(peer.startswith("127.0.0.1:") for _, peer in echo.opened)
    assert sorted(echo.closed) == [1, 2, 3, 4, 5]
    assert town.network.link_count == 0


def test_one_read_brings_at_most_the_loops_buffer_and_loses_nothing(town: Town) -> None:
    echo = town.serve(answer=nothing)
    payload = bytes(range(256)) * 8 * KIB  # 2 MiB

    async def play() -> None:
        _, writer = await town.connect()
        writer.write(payload)
        await town.until(lambda: sum(len(data) for _, data in echo.arrived) == len(payload))
        writer.close()

    town.run(play())
    assert max(len(data) for _, data in echo.arrived) <= 250 * KIB
    assert b"".join(data for _, data in echo.arrived) == payload
    assert town.network.received_bytes == len(payload)


def test_what_was_handed_over_does_not_change_when_more_arrives(town: Town) -> None:
    echo = town.serve(answer=nothing)

    async def play() -> None:
        (_, one), (_, two) = await town.connect(), await town.connect()
        one.write(b"a" * 100)
        await town.until(lambda: len(echo.arrived) == 1)
        two.write(b"b" * 100)
        await town.until(lambda: len(echo.arrived) == 2)
        one.close()
        two.close()

    town.run(play())
    assert [data for _, data in echo.arrived] == [b"a" * 100, b"b" * 100]


def test_no_delay_is_set_on_accepted_connections(town: Town) -> None:
    town.serve()

    async def play() -> None:
        reader, writer = await town.connect()
        writer.write(b"x")
        await reader.readexactly(1)
        transport = town.network._links[1].transport
        assert transport is not None
        accepted = transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        writer.close()

    town.run(play())


def test_client_that_pipelines_without_reading_is_slowed_and_then_gets_every_answer(town: Town) -> None:
    echo = town.serve(answer=lambda data: data * 4)
    payload = bytes(251) * 64 * KIB  # 16 MiB asked, 64 MiB to answer: more than may be buffered

    async def play() -> None:
        reader, writer = await town.connect()
        writer.write(payload)
        await town.until(lambda: town.network.slowed > 0)
        before = len(echo.arrived)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(echo.arrived) == before, "nothing more is read from a link that does not take its answers"
        received = 0
        while received < 4 * len(payload):
            received += len(await reader.read(MIB))
        writer.close()

    town.run(play())
    assert town.network.cut_off == 0
    assert b"".join(data for _, data in echo.arrived) == payload


def test_link_whose_unsent_bytes_exceed_the_bound_is_cut_off_and_others_are_not(town: Town) -> None:
    config = replace(NodeConfig(), send_buffer_bytes_max=4 * MIB)
    echo = town.serve(config)

    async def play() -> None:
        (_, greedy), (reader, polite) = await town.connect(), await town.connect()
        polite.write(b"ping")
        assert await reader.readexactly(4) == b"ping"
        for _ in range(20):
            town.network.send(1, bytes(MIB))
        await town.until(lambda: echo.closed == [1])
        town.network.send(1, b"to nobody")
        polite.write(b"ping")
        assert await reader.readexactly(4) == b"ping"
        greedy.close()
        polite.close()

    town.run(play())
    assert town.network.cut_off == 1


def test_links_beyond_the_maximum_are_closed_at_once_and_make_room_when_one_leaves(town: Town) -> None:
    echo = town.serve(replace(NodeConfig(), links_max=2))

    async def play() -> None:
        (_, one), (_, two) = await town.connect(), await town.connect()
        await town.until(lambda: len(echo.opened) == 2)
        reader, three = await town.connect()
        with suppress(ConnectionError):
            assert await reader.read() == b""
        three.close()
        one.close()
        await town.until(lambda: echo.closed == [1])
        reader, four = await town.connect()
        four.write(b"in")
        assert await reader.readexactly(2) == b"in"
        two.close()
        four.close()

    town.run(play())
    assert town.network.refused == 1
    assert [link for link, _ in echo.opened] == [1, 2, 3]


def test_close_delivers_what_was_sent_before_it_even_with_unread_bytes_coming_in(town: Town) -> None:
    echo = town.serve(answer=nothing)
    answer = bytes(MIB) + b"the end"

    async def play() -> None:
        reader, writer = await town.connect()
        writer.write(b"bad frame")
        await town.until(lambda: len(echo.arrived) == 1)
        writer.write(bytes(4 * MIB))  # still coming when the link is closed
        town.network.send(1, answer)
        town.network.close(1)
        town.network.send(1, b"after the close")
        assert await reader.read() == answer
        assert echo.closed == []
        writer.close()
        await town.until(lambda: echo.closed == [1])

    town.run(play())
    assert len(echo.arrived) == 1, "what a closing link still sends is thrown away"


def test_peer_that_never_closes_cannot_hold_a_closed_link(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_network, "LINGER_SECONDS", 0.05)
    echo = town.serve()

    async def play() -> None:
        reader, writer = await town.connect()
        writer.write(b"x")
        await reader.readexactly(1)
        town.network.send(1, bytes(32 * MIB))  # never read by the client
        town.network.close(1)
        town.network.close(1)
        await town.until(lambda: echo.closed == [1])
        writer.close()

    town.run(play())
    assert town.network.link_count == 0


def test_peer_that_ended_its_side_gets_answers_that_come_later(town: Town) -> None:
    echo = town.serve(answer=nothing)

    def answer_later(link: int) -> None:
        def answer() -> None:
            town.network.send(link, b"late")
            town.network.close(link)

        town.loop.call_soon(answer)

    echo.when_ended = answer_later

    async def play() -> None:
        reader, writer = await town.connect()
        writer.write(b"question")
        writer.write_eof()
        assert await reader.read() == b"late"
        writer.close()
        await town.until(lambda: bool(echo.closed))

    town.run(play())
    assert echo.ended == echo.closed == [1]


def test_link_of_a_peer_that_ended_its_side_is_not_kept_for_ever(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_network, "HALF_CLOSED_SECONDS", 0.01)
    echo = town.serve(answer=nothing)
    echo.when_ended = lambda _: None  # a driver that never answers

    async def play() -> None:
        _, writer = await town.connect()
        writer.write_eof()
        await town.until(lambda: bool(echo.closed))
        writer.close()

    town.run(play())


def test_reset_by_the_peer_closes_the_link_once(town: Town) -> None:
    echo = town.serve()

    async def play() -> None:
        reader, writer = await town.connect()
        writer.write(b"x")
        await reader.readexactly(1)
        writer.transport.abort()  # unread data or not: a reset or an end, at the peer's whim
        await town.until(lambda: echo.closed == [1])

    town.run(play())


def test_answers_of_one_turn_leave_in_one_write_per_connection(town: Town) -> None:
    def answer(_: bytes) -> bytes:
        town.network.send(1, b"one ")
        town.network.send(2, b"uno")
        town.network.send(1, b"two ")
        return b"three"

    town.serve(answer=answer)

    async def play() -> None:
        reader, writer = await town.connect()
        await town.until(lambda: town.network.link_count == 1)
        other_reader, other = await town.connect()
        await town.until(lambda: town.network.link_count == 2)
        writer.write(b"?")
        assert await reader.readexactly(13) == b"one two three"
        assert await other_reader.readexactly(3) == b"uno"
        writer.close()
        other.close()

    town.run(play())
    assert town.network.writes == 2


def test_what_is_sent_together_leaves_when_the_callback_returns(town: Town) -> None:
    town.serve(answer=nothing)

    def sends() -> None:
        for part in (b"a", b"b", b"c"):
            town.network.send(1, part)
        assert town.network.writes == 0

    async def play() -> None:
        reader, writer = await town.connect()
        await town.until(lambda: town.network.link_count == 1)
        town.network.together(sends)
        assert town.network.writes == 1
        assert await reader.readexactly(3) == b"abc"
        writer.close()

    town.run(play())


def test_bad_callback_reaches_the_exception_handler(town: Town) -> None:
    def answer(_: bytes) -> bytes:
        raise AssertionError("a bug in the node")

    town.serve(answer=answer)

    async def play() -> None:
        _, writer = await town.connect()
        writer.write(b"?")
        await town.until(lambda: bool(town.errors))
        writer.close()

    town.run(play())
    context = town.errors.pop()
    assert isinstance(context, dict)
    assert isinstance(context["exception"], AssertionError)


def test_end_of_turn_comes_after_every_socket_that_was_ready(town: Town) -> None:
    """However many clients a poll finds ready, the node gets all of their bytes before its end of turn."""
    diary: list[str] = []
    clock = RealClock(town.loop)

    def answer(_: bytes) -> bytes:
        diary.append("bytes")
        clock.call_at(0, lambda: diary.append("end of turn"))
        return b""

    town.serve(answer=answer)
    clients: list[socket.socket] = []

    async def play() -> None:
        for _ in range(50):
            client = socket.create_connection(("127.0.0.1", town.port))
            clients.append(client)
        await town.until(lambda: town.network.link_count == 50)
        for client in clients:
            client.sendall(b"now")  # all are ready before the loop polls again
        await town.until(lambda: "end of turn" in diary)

    town.run(play())
    assert diary == ["bytes"] * 50 + ["end of turn"]
    for client in clients:
        client.close()


def test_alarm_rings_once_not_before_its_time_and_a_later_call_replaces_it(town: Town) -> None:
    clock = RealClock(town.loop)
    rung: list[tuple[str, int]] = []
    start = monotonic_ns()

    def alarm(name: str) -> Callable[[], None]:
        return lambda: rung.append((name, monotonic_ns() - start))

    async def play() -> None:
        clock.call_at(0, alarm("replaced by a later one"))
        clock.call_at(start + 20_000_000, alarm("first"))
        await town.until(lambda: len(rung) == 1)
        clock.call_at(monotonic_ns() + 3_600_000_000_000, alarm("in an hour, replaced by a sooner one"))
        clock.call_at(start + 30_000_000, alarm("second"))
        await town.until(lambda: len(rung) == 2)
        clock.call_at(0, alarm("third"))
        await town.until(lambda: len(rung) == 3)

    town.run(play())
    assert [name for name, _ in rung] == ["first", "second", "third"]
    assert rung[0][1] >= 20_000_000
    assert rung[1][1] >= 30_000_000


def test_taken_port_is_refused() -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            bind("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("1.2.3.4:5", ("1.2.3.4", 5)),
        (":7001", ("127.0.0.1", 7001)),
        ("[::1]:0", ("::1", 0)),
        ("host:65535", ("host", 65535)),
    ],
)
def test_addresses_are_read_as_people_write_them(text: str, address: tuple[str, int]) -> None:
    assert Address.parse(text) == address


@pytest.mark.parametrize("text", ["", "host", "host:", "host:65536", "host:-1", "::1:7001", "host:٣"])
def test_bad_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write HOST:PORT|in brackets"):
        Address.parse(text)


def test_address_of_every_interface_is_told_as_one_that_can_be_reached() -> None:
    assert Address("0.0.0.0", 1).reachable().host != "0.0.0.0"
    assert Address("127.0.0.1", 1).reachable() == Address("127.0.0.1", 1)
    assert str(Address("::1", 7)) == "[::1]:7"
