"""Virtual time, chance, clocks and connections of the simulator."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from unimeter.sim.clock import ProcessClock, WallClock
from unimeter.sim.network import End, Network
from unimeter.sim.prng import Prng
from unimeter.sim.trace import Trace
from unimeter.sim.world import MS, SECOND, Livelock, World, cancel


def make_world() -> World:
    return World(Trace())


def test_streams_of_one_name_are_equal_whatever_was_drawn_before() -> None:
    first, second = Prng(7), Prng(7)
    for _ in range(100):
        second.u64()
    assert [first.stream("disk").u64() for _ in range(3)] == [second.stream("disk").u64() for _ in range(3)]
    assert Prng(7).stream("disk").u64() != Prng(7).stream("network").u64()
    assert Prng(7).u64() != Prng(8).u64()


def test_chance_is_the_same_on_every_machine() -> None:
    luck = Prng(1, "pinned")
    assert [luck.below(1000) for _ in range(5)] == [865, 431, 633, 847, 364]


@given(st.integers(0, 2**64), st.lists(st.integers(), max_size=30))
def test_shuffle_keeps_every_item(seed: int, items: list[int]) -> None:
    shuffled = list(items)
    Prng(seed).shuffle(shuffled)
    assert sorted(shuffled) == sorted(items)


@given(st.integers(0, 2**64), st.integers(-(10**6), 10**6), st.integers(0, 10**6))
def test_between_stays_within_its_bounds(seed: int, low: int, width: int) -> None:
    assert low <= Prng(seed).between(low, low + width) <= low + width


def test_events_of_one_instant_happen_in_the_order_in_which_they_were_scheduled() -> None:
    world, seen = make_world(), []
    for number in range(5):
        world.at(10, seen.append, number)
    world.at(5, seen.append, "before")
    world.run(100)
    assert seen == ["before", 0, 1, 2, 3, 4]
    assert world.now_ns == 100


def test_cancelled_timer_never_fires() -> None:
    world, seen = make_world(), []
    timer = world.at(10, seen.append, 1)
    cancel(timer)
    world.run(100)
    assert seen == []


def test_time_that_stands_still_is_a_livelock() -> None:
    world = make_world()

    def again() -> None:
        world.after(0, again)

    again()
    try:
        world.run(SECOND)
    except Livelock:
        return
    raise AssertionError("the world went on for ever at one instant")


@given(st.integers(0, 1000), st.lists(st.integers(1, 10**9), min_size=1, max_size=10))
@settings(max_examples=50)
def test_timers_are_never_early_and_a_later_one_replaces_the_earlier(seed: int, delays: list[int]) -> None:
    world = make_world()
    clock = ProcessClock(world, WallClock(world, SECOND), Prng(seed), lambda call, *args: call(*args))
    fired: list[tuple[int, int]] = []
    for delay in delays:
        due = clock.now().monotonic_ns + delay
        clock.call_at(due, lambda due=due: fired.append((due, clock.now().monotonic_ns)))  # type: ignore[misc]
    world.run(3 * SECOND)
    assert len(fired) == 1
    assert fired[0][1] >= fired[0][0]


def test_wall_clock_jumps_and_the_monotonic_one_does_not() -> None:
    world = make_world()
    wall = WallClock(world, 1000 * SECOND)
    clock = ProcessClock(world, wall, Prng(0), lambda call, *args: call(*args))
    before = clock.now()
    wall.jump(-500 * SECOND)
    after = clock.now()
    assert after.monotonic_ns == before.monotonic_ns
    assert after.wall_ns == before.wall_ns - 500 * SECOND
    assert wall.dates(0, 0) == [1000 * SECOND, 1000 * SECOND, 500 * SECOND, 500 * SECOND]


class Peer:
    """A listener that keeps what it gets."""

    name = "node1"

    def __init__(self) -> None:
        self.end: End | None = None
        self.got = bytearray()
        self.pieces = 0
        self.closed = False

    def accept(self, end: End, peer: str, inner: bool) -> bool:
        self.end = end
        end.on_bytes, end.on_close = self._bytes, self._closed
        return True

    def _bytes(self, end: End, data: bytes) -> None:
        self.got += data
        self.pieces += 1

    def _closed(self, end: End) -> None:
        self.closed = True


def connected(seed: int) -> tuple[World, Network, Peer, End]:
    world = make_world()
    network = Network(world, Prng(seed))
    peer, ends = Peer(), []
    network.listen("a", peer)
    network.connect("a", "me", ends.append, lambda: None)
    world.run(10 * MS)
    return world, network, peer, ends[0]


@given(st.integers(0, 1000), st.lists(st.binary(max_size=300), max_size=10), st.integers(1, 50))
@settings(max_examples=50)
def test_bytes_arrive_in_order_and_whole_however_they_are_cut(seed: int, sends: list[bytes], piece: int) -> None:
    world, network, peer, end = connected(seed)
    network.settings.fragment_chance = 1.0
    network.settings.fragment_bytes_max = piece
    for data in sends:
        network.send(end, data)
    network.close(end)
    world.run(SECOND)
    assert bytes(peer.got) == b"".join(sends)
    assert peer.closed, "and the close comes after them"


def test_cut_connection_loses_only_a_tail_and_both_ends_learn_of_it() -> None:
    lengths = set()
    for seed in range(50):
        world, network, peer, end = connected(seed)
        closed: list[End] = []
        end.on_close = closed.append
        network.settings.fragment_chance = 1.0
        data = bytes(range(200))
        network.settings.delay_max_ns = 4 * MS
        network.send(end, data)
        network.cut(end)
        world.run(world.now_ns + SECOND)
        assert data.startswith(bytes(peer.got))
        assert peer.closed
        assert closed == [end]
        lengths.add(len(peer.got))
    assert len(lengths) > 3


def test_half_open_connection_delivers_and_one_end_learns_late() -> None:
    world, network, peer, end = connected(3)
    closed: list[int] = []
    end.on_close = lambda _: closed.append(world.now_ns)
    network.send(end, b"on its way")
    network.half_open(end)
    world.run(world.now_ns + 50 * MS)
    assert closed
    assert bytes(peer.got) == b"on its way"
    assert not peer.closed
    world.run(world.now_ns + 4 * SECOND)
    assert peer.closed
