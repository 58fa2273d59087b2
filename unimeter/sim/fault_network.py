"""Connections that break, grow slow or come in splinters; places that do not hear each other."""

from __future__ import annotations

from itertools import permutations

from unimeter.sim.fault_base import FaultKinds
from unimeter.sim.host import Host
from unimeter.sim.network import End, NetworkSettings
from unimeter.sim.prng import Prng
from unimeter.sim.route import CLIENTS, Route
from unimeter.sim.world import MS

PARTED_MIN_NS, PARTED_MAX_NS = 20 * MS, 700 * MS


class NetworkFaults(FaultKinds):
    kinds = (
        "cut", "half_open", "slow_network", "fragment", "peer_cut", "peer_half_open", "partition", "one_way", "isolate",
        "isolate_from_clients", "clog", "loss", "repeat", "reorder",
    )  # fmt: skip

    def heal(self) -> None:
        self.network.heal()

    # ---- connections ----

    def cut(self, host: Host, luck: Prng) -> bool:
        return self._cut(self.network.ends, luck)

    def half_open(self, host: Host, luck: Prng) -> bool:
        return self._half_open(self.network.ends, luck)

    def peer_cut(self, host: Host, luck: Prng) -> bool:
        return self._cut(self.network.inner, luck)

    def peer_half_open(self, host: Host, luck: Prng) -> bool:
        return self._half_open(self.network.inner, luck)

    def _cut(self, ends: dict[int, End], luck: Prng) -> bool:
        if not ends:
            return False
        self.network.cut(ends[luck.choice(sorted(ends))])
        return True

    def _half_open(self, ends: dict[int, End], luck: Prng) -> bool:
        if not ends:
            return False
        end = ends[luck.choice(sorted(ends))]
        self.network.half_open(end if luck.chance(0.5) else end.peer)
        return True

    def slow_network(self, host: Host, luck: Prng) -> bool:
        self.network.settings.delay_max_ns = luck.between(2 * MS, 60 * MS)
        self.world.after(luck.between(50 * MS, 400 * MS), self._fast)
        return True

    def _fast(self) -> None:
        self.network.settings.delay_max_ns = NetworkSettings().delay_max_ns

    def fragment(self, host: Host, luck: Prng) -> bool:
        settings = self.network.settings
        settings.fragment_chance = luck.choice([0.05, 0.3, 1.0])
        settings.fragment_bytes_max = luck.choice([7, 64, 1024])
        return True

    # ---- routes ----

    def partition(self, host: Host, luck: Prng) -> bool:
        """Two sides that do not hear each other."""
        hosts = list(self.cluster.members)
        if len(hosts) < 2:
            return False
        luck.shuffle(hosts)
        side = luck.between(1, len(hosts) - 1)
        self._part([self._route(a, b) for a in hosts[:side] for b in hosts[side:]], luck)
        self._part([self._route(b, a) for a in hosts[:side] for b in hosts[side:]], luck)
        return True

    def one_way(self, host: Host, luck: Prng) -> bool:
        """One does not hear some others, who hear it."""
        others = [other for other in self.cluster.members if other is not host and luck.chance(0.7)]
        if not others:
            return False
        self._part([self._route(other, host) for other in others], luck)
        return True

    def isolate(self, host: Host, luck: Prng) -> bool:
        """From all other nodes; clients still reach it."""
        others = [other for other in self.cluster.members if other is not host]
        if not others:
            return False
        self._part(
            [self._route(other, host) for other in others] + [self._route(host, other) for other in others], luck
        )
        return True

    def isolate_from_clients(self, host: Host, luck: Prng) -> bool:
        """Nodes still reach it. What clients sent and were sent waits."""
        routes = [self.network.route(CLIENTS, host.name), self.network.route(host.name, CLIENTS)]
        self._part(routes, luck, vanish=False)
        return True

    def _part(self, routes: list[Route], luck: Prng, vanish: bool | None = None) -> None:
        """Until it is healed by itself, or by the end of the chaos. In TCP nothing vanishes; a node must stand it."""
        lost = luck.chance(0.3) if vanish is None else vanish
        for route in routes:
            route.block(lost)
        self.world.after(luck.between(PARTED_MIN_NS, PARTED_MAX_NS), self._join, routes)

    def _join(self, routes: list[Route]) -> None:
        for route in routes:
            route.open()

    def _route(self, source: Host, target: Host) -> Route:
        return self.network.route(source.name, target.name)

    def clog(self, host: Host, luck: Prng) -> bool:
        """Everything between two nodes takes long."""
        route = self._some_route(luck)
        if route is None:
            return False
        route.slow_min_ns, route.slow_max_ns = MS, luck.choice([20 * MS, 60 * MS, 150 * MS])
        self._mend(route, luck)
        return True

    def loss(self, host: Host, luck: Prng) -> bool:
        return self._spoil("drop", luck)

    def repeat(self, host: Host, luck: Prng) -> bool:
        return self._spoil("repeat", luck)

    def reorder(self, host: Host, luck: Prng) -> bool:
        return self._spoil("reorder", luck)

    def _spoil(self, what: str, luck: Prng) -> bool:
        route = self._some_route(luck)
        if route is None:
            return False
        setattr(route, what, luck.choice([0.05, 0.2, 0.5]))
        self._mend(route, luck)
        return True

    def _some_route(self, luck: Prng) -> Route | None:
        pairs = list(permutations(self.cluster.members, 2))
        if not pairs:
            return None
        source, target = luck.choice(pairs)
        return self._route(source, target)

    def _mend(self, route: Route, luck: Prng) -> None:
        route.settle()
        self.world.after(luck.between(50 * MS, 500 * MS), route.reset)
