"""Whatever arrives on the peer port, the node does not fall over: it hangs up on who sent it, and serves all others."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest

from tests.cluster_bench import ClusterBench
from tests.harness import JAN_1, v1_event, v1_ingest, v1_metric
from tests.test_core_cluster import Clients, ready
from unimeter.core import peer_wire
from unimeter.core.peer_wire import frame, pack_map
from unimeter.core.raft.messages import Kind

ROUNDS = 40
STRANGER = 200  # its node id
REPLICA = 0xBAD
TYPES = {name: value for name, value in vars(peer_wire).items() if isinstance(value, int) and 0x60 <= value <= 0x7F}


class Stranger:
    """A peer link to the node that leads group 0, opened again whenever it was closed."""

    def __init__(self, bench: ClusterBench) -> None:
        self.bench = bench
        self.link = 0
        self.node = bench.leader(0)

    @property
    def open(self) -> bool:
        return self.link in self.bench.machines[self.node].framers

    def say(self, data: bytes, hello: bool = True) -> None:
        """Send; the turn is ended, too. Raises what the node raises."""
        if not self.open:
            self.link = self.bench._open(self.node, "stranger", True)
            self.bench.settle()
            if hello:
                self.say(pack_map(self.bench.kernels, peer_wire.HELLO, self.greeting()))
                assert self.open
        self.bench._arrive(self.node, self.link, data)
        self.bench.settle()

    def greeting(self, **changed: object) -> dict[str, Any]:
        node = self.bench.machines[self.node].node
        assert node is not None
        return {**node._hello(), "node": STRANGER, "replica": REPLICA, **changed}

    def leave(self) -> None:
        if self.open:
            self.bench._hang_up(self.node, self.link)
            self.bench.settle()


@pytest.fixture(scope="module")
def shared() -> ClusterBench:
    bench = ready(3, 2)
    assert Clients(bench).raw(1, v1_metric("calls"), 2000)[0] == 0
    return bench


@pytest.fixture
def stranger(shared: ClusterBench) -> Iterator[Stranger]:
    made = Stranger(shared)
    clients = Clients(shared)
    before = [clients.count(account) for account in range(4)]
    yield made
    made.leave()
    assert all(machine.halted is None for machine in shared.machines.values())
    shared.run(600)
    assert len(shared.nodes()) == 3 and shared.ready()
    for account in range(4):
        assert clients.anywhere(v1_ingest(v1_event("calls", account, 1, JAN_1 + shared.now_ns)))[0] == 0
    assert [clients.count(account) for account in range(4)] == [count + 1 for count in before]


def value(chance: random.Random, depth: int = 2) -> Any:
    """Anything that msgpack can carry."""
    small = [
        None,
        True,
        False,
        0,
        1,
        2,
        -1,
        255,
        2**63,
        2**64 - 1,
        -(2**63),
        0.5,
        float("inf"),
        "",
        "x",
        b"",
        b"\xff" * 9,
    ]
    kind = chance.randrange(8)
    if depth and kind == 0:
        return [value(chance, depth - 1) for _ in range(chance.randrange(12))]
    if depth and kind == 1:
        return {chance.choice(["call", "body", "v", "node", 1, ""]): value(chance, depth - 1) for _ in range(3)}
    return chance.choice(small)


def maps(*keys: str) -> Callable[[random.Random], bytes]:
    """Maps with those keys and anything as their values."""

    def make(chance: random.Random) -> bytes:
        body = {key: value(chance) for key in keys if chance.randrange(8)}
        return bytes(msgpack.packb(body))

    return make


def lists_of(key: str, *fields: Any, **others: Any) -> Callable[[random.Random], bytes]:
    """{key: [[fields ...]]}, of which some are something else."""

    def make(chance: random.Random) -> bytes:
        one = [value(chance) if chance.randrange(4) == 0 else field for field in fields]
        rest = {name: value(chance) if chance.randrange(3) == 0 else given for name, given in others.items()}
        return bytes(msgpack.packb({key: [one], **rest}))

    return make


def raft(chance: random.Random) -> bytes:
    """Messages of the stranger's replica, with any numbers; sometimes with bytes in the place of entries."""
    size = chance.choice([0, 0, 8, 64, 100])
    numbers = [chance.choice([0, 1, 2, 5, 100, 2**63, 2**64 - 1]) for _ in range(7)]
    kind = chance.choice([*Kind, 0, 10, 255])
    to = chance.choice([REPLICA, 1, 2**64 - 1])
    group = chance.choice([0, 1, 2, 999])
    return peer_wire.MESSAGE.pack(kind, chance.randrange(2), group, size, to, REPLICA, *numbers) + bytes(
        chance.randrange(256) for _ in range(size)
    )


def head_of_bundle(chance: random.Random) -> bytes:
    body = bytes(chance.randrange(256) for _ in range(chance.choice([0, 48, 96, 300])))
    return peer_wire.BUNDLE_HEAD.pack(7, chance.randrange(3), 0, chance.randrange(4), chance.randrange(9)) + body


def done_head(chance: random.Random) -> bytes:
    return peer_wire.DONE_HEAD.pack(1, 0, chance.randrange(2), 1, chance.randrange(3), 5) + bytes(chance.randrange(64))


def call(what: str, **given: Any) -> Callable[[random.Random], bytes]:
    """A call with bodies that are not what they should be."""

    def make(chance: random.Random) -> bytes:
        wrong = chance.choice(list(given)) if given else ""
        body = {key: value(chance) if key == wrong else right for key, right in given.items()}
        return bytes(msgpack.packb({"call": 1, "group": chance.choice([0, 1]), "what": what, "body": body}))

    return make


PLAUSIBLE: dict[str, tuple[int, Callable[[random.Random], bytes]]] = {
    "hello": (peer_wire.HELLO, maps("v", "node", "replica", "cluster", "founding", "damaged")),
    "raft": (peer_wire.RAFT, raft),
    "gossip": (peer_wire.GOSSIP, maps("catalog", "leads", "unfit", "registry")),
    "leads": (
        peer_wire.GOSSIP,
        lists_of("leads", 1, 0, [1, 2, 3], [], [], True, 1, 1, 1, {}, 1, catalog=1, unfit=False),
    ),
    "bundle": (peer_wire.BUNDLE, head_of_bundle),
    "bundle_done": (peer_wire.BUNDLE_DONE, done_head),
    "call": (peer_wire.CALL, maps("call", "group", "what", "body")),
    "call_catalog": (peer_wire.CALL, call("catalog", body=b"\x80")),
    "call_follow": (peer_wire.CALL, call("follow", body=b"\x80")),
    "call_alerts": (peer_wire.CALL, call("alerts", since=0, limit=10)),
    "call_cluster": (peer_wire.CALL, call("cluster", op="transfer", group=0, to=250)),
    "call_move": (peer_wire.CALL, call("move", remove=0, add=0)),
    "call_transfer": (peer_wire.CALL, call("transfer", to=0)),
    "return": (peer_wire.RETURN, maps("call", "answer", "refused")),
    "digests": (peer_wire.DIGESTS, lists_of("at", 0, 1)),
    "digests_said": (peer_wire.DIGESTS_SAID, lists_of("said", 0, 1, 2)),
    "diverged": (peer_wire.DIVERGED, maps("group", "index", "mine")),
}


@pytest.mark.parametrize("name", sorted(TYPES))
def test_random_bodies_of_any_type_hurt_nobody(stranger: Stranger, name: str) -> None:
    chance = random.Random(name)
    for _ in range(ROUNDS):
        body = bytes(chance.randrange(256) for _ in range(chance.choice([0, 1, 7, 24, 80, 200])))
        stranger.say(frame(stranger.bench.kernels, TYPES[name], body))


@pytest.mark.parametrize("name", sorted(PLAUSIBLE))
def test_plausible_bodies_of_any_type_hurt_nobody(stranger: Stranger, name: str) -> None:
    chance = random.Random(name)
    type_, make = PLAUSIBLE[name]
    for _ in range(ROUNDS):
        stranger.say(frame(stranger.bench.kernels, type_, make(chance)))


def test_who_has_not_said_hello_is_not_listened_to(stranger: Stranger) -> None:
    chance = random.Random(1)
    for type_, make in PLAUSIBLE.values():
        if type_ != peer_wire.HELLO:
            stranger.say(frame(stranger.bench.kernels, type_, make(chance)), hello=False)
            assert not stranger.open, "its hello may have been lost: it will say it on a new link"


def test_bytes_that_are_no_frames_are_hung_up_on(stranger: Stranger) -> None:
    for data in (b"GET / HTTP/1.1\r\n\r\n" + bytes(64), bytes(64), b"\xff" * 64):
        stranger.say(data)
        assert not stranger.open


def test_a_frame_of_an_unknown_type_is_passed_over(stranger: Stranger) -> None:
    stranger.say(frame(stranger.bench.kernels, 0x7F, b"from a later version"))
    assert stranger.open


@pytest.mark.parametrize("changed", [{"v": 2}, {"node": "2"}, {"replica": None}])
def test_a_hello_of_somebody_who_cannot_be_a_peer_is_hung_up_on(stranger: Stranger, changed: dict[str, Any]) -> None:
    stranger.say(pack_map(stranger.bench.kernels, peer_wire.HELLO, stranger.greeting(**changed)), hello=False)
    assert not stranger.open
