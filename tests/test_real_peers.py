"""Links between nodes on the real network: dialled, taken in, and with bounds of their own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace

import pytest
import uvloop

from unimeter.config import MIB, NodeConfig
from unimeter.io.real import dialer
from unimeter.io.real import network as real_network
from unimeter.io.real.address import bind
from unimeter.io.real.network import RealNetwork

PATIENCE_SECONDS = 10


class Diary:
    """What a driver would be: writes down what the network reports."""

    def __init__(self) -> None:
        self.opened: dict[int, tuple[bool, int]] = {}
        self.failed: list[int] = []
        self.arrived: dict[int, bytearray] = {}
        self.largest = 0
        self.ended: list[int] = []
        self.closed: list[int] = []

    def link_opened(self, link: int, peer: str, inner: bool = False, dialled: int = 0) -> None:
        assert peer.startswith("127.0.0.1:")
        self.opened[link] = (inner, dialled)
        self.arrived[link] = bytearray()

    def dial_failed(self, ref: int) -> None:
        self.failed.append(ref)

    def bytes_arrived(self, link: int, data: bytes) -> None:
        self.largest = max(self.largest, len(data))
        self.arrived[link] += data

    def link_ended(self, link: int) -> None:
        self.ended.append(link)

    def link_closed(self, link: int) -> None:
        self.closed.append(link)


class Place:
    """One node's network."""

    def __init__(self, loop: asyncio.AbstractEventLoop, config: NodeConfig) -> None:
        self.network = RealNetwork(loop, config)
        self.diary = self.network.events = Diary()
        clients, peers = bind("127.0.0.1", 0), bind("127.0.0.1", 0)
        self.port = clients.getsockname()[1]
        self.peer_port = peers.getsockname()[1]
        loop.run_until_complete(self.network.listen(clients))
        loop.run_until_complete(self.network.listen_peers(peers))

    @property
    def peer_address(self) -> str:
        return f"127.0.0.1:{self.peer_port}"


class Country:
    """Two networks on one loop."""

    def __init__(self, config: NodeConfig) -> None:
        self.loop = uvloop.new_event_loop()
        self.errors: list[object] = []
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self.one = Place(self.loop, config)
        self.two = Place(self.loop, config)

    def run(self, coroutine: Coroutine[object, object, None]) -> None:
        self.loop.run_until_complete(asyncio.wait_for(coroutine, PATIENCE_SECONDS))

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0)  # a turn of the loop

    async def dial(self, ref: int = 7) -> tuple[int, int]:
        """One dials two; the link's number at one, and at two."""
        before = set(self.two.diary.opened)
        self.one.network.dial(ref, self.two.peer_address)
        assert (True, ref) not in self.one.diary.opened.values(), "never from inside the call"
        await self.until(lambda: (True, ref) in self.one.diary.opened.values() and set(self.two.diary.opened) != before)
        (at_two,) = set(self.two.diary.opened) - before
        return next(link for link, how in self.one.diary.opened.items() if how == (True, ref)), at_two

    def close(self) -> None:
        self.one.network.close_all()
        self.two.network.close_all()
        self.run(self.until(lambda: not self.one.network.link_count + self.two.network.link_count))
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
        assert self.errors == []


@pytest.fixture
def country() -> Iterator[Country]:
    made = Country(replace(NodeConfig(), links_max=1, send_buffer_bytes_max=2 * MIB))
    yield made
    made.close()


def test_dial_opens_an_inner_link_on_both_sides_and_bytes_go_both_ways(country: Country) -> None:
    async def play() -> None:
        here, there = await country.dial()
        assert country.two.diary.opened[there] == (True, 0)
        country.one.network.send(here, b"hello")
        country.two.network.send(there, b"well met")
        await country.until(lambda: country.two.diary.arrived[there] == b"hello")
        await country.until(lambda: country.one.diary.arrived[here] == b"well met")

    country.run(play())
    assert country.one.diary.failed == []
    assert (country.one.network.received_bytes, country.one.network.peer_received_bytes) == (0, 8)


def test_dial_that_reaches_nobody_is_reported_once_and_opens_nothing(country: Country) -> None:
    with bind("127.0.0.1", 0) as silent:
        nobody = f"127.0.0.1:{silent.getsockname()[1]}"

        async def play() -> None:
            for ref, address in enumerate((nobody, "no such place", "name.invalid:7001", "127.0.0.1:0"), start=1):
                country.one.network.dial(ref, address)
                assert country.one.diary.failed == list(range(1, ref))
                await country.until(lambda ref=ref: len(country.one.diary.failed) == ref)  # type: ignore[misc]

        country.run(play())
    assert country.one.diary.failed == [1, 2, 3, 4]
    assert country.one.diary.opened == {}


def test_dial_that_hangs_fails_within_its_bound(country: Country, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialer, "DIAL_SECONDS_MAX", 0.05)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as busy:
        address = f"127.0.0.1:{busy.getsockname()[1]}"
        waiting = []
        for _ in range(4):  # nobody accepts: beyond the backlog, a connection is neither made nor refused
            queued = socket.socket()
            queued.setblocking(False)
            queued.connect_ex(busy.getsockname())
            waiting.append(queued)

        async def play() -> None:
            country.one.network.dial(9, address)
            await country.until(lambda: bool(country.one.diary.failed))

        country.run(play())
        for queued in waiting:
            queued.close()
    assert country.one.diary.failed == [9]
    assert country.one.diary.opened == {}


def test_dials_that_are_given_up_report_nothing(country: Country) -> None:
    async def play() -> None:
        country.one.network.dial(1, country.two.peer_address)
        country.one.network.close_all()
        for _ in range(50):
            await asyncio.sleep(0)

    country.run(play())
    assert country.one.diary.failed == []
    assert country.one.diary.opened == {}


def test_peers_do_not_count_as_clients_and_clients_do_not_keep_peers_out(country: Country) -> None:
    async def play() -> None:
        await country.dial(1)
        _, client = await asyncio.open_connection("127.0.0.1", country.two.port)  # links_max is 1
        await country.until(lambda: (False, 0) in country.two.diary.opened.values())
        await country.dial(2)
        assert country.two.network.peer_count == 2
        assert country.two.network.refused == 0
        client.close()

    country.run(play())


def test_peer_links_that_come_in_are_bounded_and_dialled_ones_are_not(
    country: Country, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(real_network, "PEER_LINKS_MAX", 1)

    async def play() -> None:
        here, there = await country.dial(1)
        country.one.network.dial(2, country.two.peer_address)
        await country.until(lambda: country.two.network.refused == 1)
        await country.until(lambda: country.one.network.peer_count == 1)
        country.two.network.dial(3, country.one.peer_address)
        await country.until(lambda: (True, 3) in country.two.diary.opened.values())
        country.one.network.send(here, b"still here")
        await country.until(lambda: country.two.diary.arrived[there] == b"still here")

    country.run(play())


def test_peer_is_never_slowed_and_is_sent_more_than_a_client_may_leave_unread(country: Country) -> None:
    payload = bytes(range(256)) * (16 * MIB // 256)

    async def play() -> None:
        here, there = await country.dial()
        country.one.network.send(here, payload)
        country.two.network.send(there, payload)  # both at once, far above the clients' bound
        await country.until(lambda: len(country.two.diary.arrived[there]) == len(payload))
        await country.until(lambda: len(country.one.diary.arrived[here]) == len(payload))
        assert country.one.diary.arrived[here] == country.two.diary.arrived[there] == payload

    country.run(play())
    assert country.one.network.slowed + country.one.network.cut_off + country.one.network.peers_cut_off == 0
    assert country.one.network.peer_sent_bytes == len(payload)
    assert country.two.diary.largest <= real_network.PEER_RECEIVE_BYTES


def test_peer_that_takes_nothing_is_closed_at_its_own_bound(country: Country, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_network, "PEER_SEND_BYTES_MAX", 8 * MIB)

    async def play() -> None:
        with socket.create_connection(("127.0.0.1", country.one.peer_port)):
            await country.until(lambda: country.one.network.peer_count == 1)
            for _ in range(40):
                country.one.network.send(1, bytes(MIB))
            await country.until(lambda: country.one.diary.closed == [1])

    country.run(play())
    assert country.one.network.peers_cut_off == 1
    assert country.one.network.cut_off == 0


def test_end_of_a_peers_stream_is_the_end_of_the_link(country: Country) -> None:
    async def play() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", country.one.peer_port)
        await country.until(lambda: country.one.network.peer_count == 1)
        writer.write_eof()
        await country.until(lambda: country.one.diary.closed == [1])
        writer.close()

    country.run(play())
    assert country.one.diary.ended == []


def test_what_was_sent_before_a_close_arrives_at_the_peer(country: Country) -> None:
    async def play() -> None:
        here, there = await country.dial()
        country.two.network.send(there, b"you are of another cluster")
        country.two.network.close(there)
        await country.until(lambda: country.one.diary.closed == [here])
        assert country.one.diary.arrived[here] == b"you are of another cluster"
        await country.until(lambda: country.two.diary.closed == [there])

    country.run(play())


def test_peer_links_have_no_delay_and_notice_silence(country: Country) -> None:
    async def play() -> None:
        here, there = await country.dial()
        for place, link in ((country.one, here), (country.two, there)):
            transport = place.network._links[link].transport
            assert transport is not None
            sock = transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 5000

    country.run(play())


def test_no_client_comes_in_while_stopping_but_peers_do(country: Country) -> None:
    country.two.network.stop_listening()

    async def play() -> None:
        with pytest.raises(OSError, match="refused"):
            await asyncio.open_connection("127.0.0.1", country.two.port)
        await country.dial()

    country.run(play())
