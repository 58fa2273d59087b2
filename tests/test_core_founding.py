"""How clusters begin: in whatever order nodes meet, die and lose their disks, never two clusters that both can decide."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest

from tests.harness import LIMITS, SMALL
from unimeter.config import Member, NodeConfig
from unimeter.core import founding
from unimeter.core.founding import Founding, Newcomer, alone

MEMBERS = tuple(Member(n, f"c{n}", f"p{n}") for n in (1, 2, 3, 4, 5))


def config(node_id: int, count: int = 3, replicas: int = 0, groups: int = 4) -> NodeConfig:
    return replace(SMALL, node_id=node_id, members=MEMBERS[:count], replicas=replicas, group_count=groups)


class Place(NamedTuple):
    """A node: how often its disk was wiped, and the cluster that its disk says it belongs to. A cluster is the replica ids
    of its founders."""

    life: int
    cluster: tuple[tuple[int, int], ...] | None
    heard: tuple[tuple[int, int], ...]  # fresh fellows as it has heard of them: (node, life); lost with the process


class Hello(NamedTuple):
    """On its way over a connection, which may be dead already: what was sent may still arrive."""

    sender: int
    life: int
    cluster: tuple[tuple[int, int], ...] | None
    to: int
    to_life: int


World = tuple[tuple[Place, ...], tuple[Hello, ...], int]  # nodes, messages on their way, wipes left


def hear(place: Place, number: int, hello: Hello) -> Place:
    """What the real Newcomer makes of it."""
    if place.cluster is not None:
        return place
    newcomer = Newcomer(config(number), LIMITS, 1, replica(number, place.life))
    for fellow, life in place.heard:
        assert newcomer.heard(fellow, replica(fellow, life), None) is None
    told = None if hello.cluster is None else _founding(hello.cluster)
    found = newcomer.heard(hello.sender, replica(hello.sender, hello.life), told)
    if found is not None:
        cluster = tuple(divmod(node.replica, 100) for node in found.nodes)
        return place._replace(cluster=cluster, heard=())
    heard = dict(place.heard)
    heard[hello.sender] = hello.life
    return place._replace(heard=tuple(sorted(heard.items())))


def replica(number: int, life: int) -> int:
    return 100 * number + life


def _founding(cluster: tuple[tuple[int, int], ...]) -> Founding:
    made = alone(config(1), LIMITS, 1, 1)
    node = made.nodes[0]
    return replace(made, nodes=tuple(replace(node, node_id=n, replica=replica(n, life)) for n, life in cluster))


def moves(world: World) -> list[World]:
    places, sent, wipes = world
    found: list[World] = []
    for one in dict.fromkeys(sent):  # any that is on its way arrives, or never does
        rest = list(sent)
        rest.remove(one)
        place = places[one.to - 1]
        if place.life == one.to_life:
            after = hear(place, one.to, one)
            changed = [*places]
            changed[one.to - 1] = after
            news = tuple(Hello(one.to, after.life, after.cluster, other, places[other - 1].life) for other in (1, 2, 3)
                         if other != one.to) if after.cluster != place.cluster else ()  # fmt: skip
            found.append((tuple(changed), tuple(sorted((*rest, *news), key=repr)), wipes))
    for a in (1, 2, 3):  # two nodes connect: both say hello
        for b in range(a + 1, 4):
            pa, pb = places[a - 1], places[b - 1]
            both = (Hello(a, pa.life, pa.cluster, b, pb.life), Hello(b, pb.life, pb.cluster, a, pa.life))
            if not any(one in sent for one in both):
                found.append((places, tuple(sorted((*sent, *both), key=repr)), wipes))
    if wipes:
        for number in (1, 2, 3):
            changed = [*places]
            changed[number - 1] = Place(places[number - 1].life + 1, None, ())
            # its fellows see the link break; what it had sent may still arrive at them
            for other in range(3):
                if other != number - 1:
                    heard = tuple(pair for pair in changed[other].heard if pair[0] != number)
                    changed[other] = changed[other]._replace(heard=heard)
            found.append((tuple(changed), sent, wipes - 1))
    return found


def quorums(places: tuple[Place, ...]) -> int:
    """Clusters of which a majority of the founders' replicas is there and knows it."""
    living = {(number, place.life): place.cluster for number, place in enumerate(places, 1)}
    clusters = dict.fromkeys(place.cluster for place in places if place.cluster is not None)
    return sum(2 * sum(living.get(one) == cluster for one in cluster) > len(cluster) for cluster in clusters)


@pytest.mark.parametrize(("wipes", "depth"), [(0, 14), (1, 10), (2, 7)])
def test_no_order_of_meetings_wipes_and_deaths_makes_two_clusters_that_can_decide(wipes: int, depth: int) -> None:
    first: World = (tuple(Place(0, None, ()) for _ in range(3)), (), wipes)
    seen = {first}
    edge = [first]
    founded = 0
    for _ in range(depth):
        following = []
        for world in edge:
            for after in moves(world):
                if len(after[1]) <= 4 and after not in seen:
                    seen.add(after)
                    following.append(after)
                    count = quorums(after[0])
                    assert count <= 1, after
                    founded += count
        edge = following[:6000]
    assert founded > 30


def test_nobody_founds_before_it_has_heard_from_all() -> None:
    newcomer = Newcomer(config(1), LIMITS, 77, 100)
    assert newcomer.heard(2, 200, None) is None and newcomer.missing() == [3]
    found = newcomer.heard(3, 300, None)
    assert found is not None and [node.replica for node in found.nodes] == [100, 200, 300] and found.cluster_id == 77


def test_only_the_lowest_number_founds() -> None:
    newcomer = Newcomer(config(2), LIMITS, 77, 200)
    assert newcomer.heard(1, 100, None) is None and newcomer.heard(3, 300, None) is None


def test_whoever_left_has_to_be_heard_again() -> None:
    newcomer = Newcomer(config(1), LIMITS, 77, 100)
    newcomer.heard(2, 200, None)
    newcomer.gone(2)
    assert newcomer.heard(3, 300, None) is None and newcomer.missing() == [2]
    found = newcomer.heard(2, 201, None)
    assert found is not None and found.nodes[1].replica == 201


def test_a_cluster_that_is_there_is_joined_whoever_is_missing() -> None:
    other = alone(config(3), LIMITS, 99, 300)
    assert Newcomer(config(1), LIMITS, 77, 100).heard(2, 200, other) is other


def test_four_members_found_nothing() -> None:
    newcomer = Newcomer(config(1, 4), LIMITS, 77, 100)
    assert [newcomer.heard(n, 100 * n, None) for n in (2, 3, 4)] == [None] * 3


@pytest.mark.parametrize(("count", "replicas", "expected"), [(3, 0, 3), (5, 0, 5), (5, 3, 3), (3, 5, 3), (1, 0, 1)])
def test_every_group_begins_with_its_replicas_spread_evenly(count: int, replicas: int, expected: int) -> None:
    newcomer = Newcomer(config(1, count, replicas, groups=10), LIMITS, 77, 100)
    found = None
    for n in range(2, count + 1):
        found = newcomer.heard(n, 100 * n, None)
    if found is None:
        found = alone(config(1, 1), LIMITS, 77, 100)
    confs = [found.conf(group) for group in range(10)]
    assert {len(conf.voters) for conf in confs} == {expected}
    held = [sum(100 * n in conf.voters for conf in confs) for n in range(1, count + 1)]
    assert max(held) - min(held) <= 1 or count == 1


def test_a_founding_comes_back_as_it_was_written() -> None:
    newcomer = Newcomer(config(1), LIMITS, 2**64 - 1, 2**63)
    newcomer.heard(2, 200, None)
    found = newcomer.heard(3, 300, None)
    assert found is not None and founding.from_body(found.body()) == found
    assert found.names(1, 2**63) and not found.names(1, 200)


def test_a_cluster_of_one_consists_of_this_node() -> None:
    assert [node.node_id for node in alone(config(2), LIMITS, 1, 5).nodes] == [2]
