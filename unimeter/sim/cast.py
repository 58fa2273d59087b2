"""Who takes part in a run: its clients, vandals and subscribers, made from the scenario's numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from unimeter.sim.admin import Admin
from unimeter.sim.behaviours import Base, Part, PlainWriter, Reader, SessionWriter, V1Writer
from unimeter.sim.client import Client, Manners
from unimeter.sim.host import Host
from unimeter.sim.operator import Operator
from unimeter.sim.peer_vandal import PeerVandal
from unimeter.sim.prng import Prng
from unimeter.sim.subscriber import Subscriber
from unimeter.sim.vandal import Vandal

if TYPE_CHECKING:
    from unimeter.sim.runner import Run

VANDAL_STRIKES: Final = 6
PEER_VANDALS: Final = 3  # in a cluster one vandal of so many comes to the port for other nodes


def make_client(run: Run, behaviour: Base, prng: Prng, manners: Manners) -> Client:
    return Client(behaviour.name, run.places, run.world, run.network, run.kernels, prng, behaviour, run.watch, manners)


class Cast:
    def __init__(self, run: Run, prng: Prng) -> None:
        self._run = run
        self._prng = prng
        self.operator: Operator | None = None
        self.behaviours = self._behaviours()
        self.clients: list[Client | Vandal] = []
        one_by_one = replace(run.scenario.manners, window=1, duplicate=0.0)  # of definitions, the last one wins
        for number, each in enumerate(self.behaviours):
            manners = one_by_one if isinstance(each, Admin | Operator) else run.scenario.manners
            client = make_client(run, each, prng.stream(f"net{number}"), manners)
            self.clients.append(client)
            if isinstance(each, Operator):
                each.wake = client.start
        self.vandals = [self._vandal(number) for number in range(run.scenario.clients.vandals)]
        self.clients += self.vandals
        self.subscribers = [self._subscriber(number) for number in range(run.scenario.clients.subscribers)]

    def _behaviours(self) -> list[Base]:
        run, counts = self._run, self._run.scenario.clients
        half = self._prng.below(len(run.metrics))
        most, unsure = counts.batch_events_max, counts.asynchronous
        budget = run.cluster.shape.budget(counts.requests)

        def part(name: str) -> Part:
            return Part(name, run.space, self._prng.stream(name), run.number, budget)

        def now() -> int:
            return run.world.now_ns

        operators = []
        if run.cluster.replicated:
            stage = run.faults.stage
            self.operator = Operator(
                part("operator"), cluster=run.cluster, places=run.places, boot=stage.restart_later, stop=Host.stop
            )
            operators = [self.operator]
        return [
            *operators,
            Admin(part("admin"), protocol=2, metrics=run.metrics[half:], changes=counts.changes, now=now),
            Admin(part("admin-v1"), protocol=1, metrics=run.metrics[:half], changes=0, now=now),
            *(SessionWriter(part(f"session{n}"), most, unsure) for n in range(counts.sessions)),
            *(PlainWriter(part(f"plain{n}"), most, unsure) for n in range(counts.plain)),
            *(V1Writer(part(f"v1-{n}"), most, unsure) for n in range(counts.v1)),
            *(Reader(part(f"reader{n}"), protocol=2) for n in range(counts.readers)),
            *(Reader(part(f"reader-v1-{n}"), protocol=1) for n in range(counts.readers_v1)),
        ]

    def _vandal(self, number: int) -> Vandal:
        run, name, protocol = self._run, f"vandal{number}", 1 + (number + self._run.seed) % 2
        prng, accepted = self._prng.stream(f"vandal{number}"), run.watch.accepted
        host = run.cluster.founders[number % len(run.cluster.founders)]
        address = host.setup.config.advertise
        at_peer_port = bool(host.peer_address) and (number + run.seed) % PEER_VANDALS == 0
        kind: type[Vandal] = PeerVandal if at_peer_port else Vandal

        def hung_up() -> None:
            if at_peer_port:
                run.mark("noise at a peer port: hung up")

        return kind(
            name, protocol, host.peer_address if at_peer_port else address, run.world, run.network, run.kernels, prng, run.space,
            VANDAL_STRIKES, accepted, hung_up,
        )  # fmt: skip

    def _subscriber(self, number: int) -> Subscriber:
        run, name = self._run, f"subscriber{number}"
        prng = self._prng.stream(name)
        subscriber = Subscriber(name, run.places, run.world, run.network, run.kernels, prng)
        run.ledger.pushed[name] = subscriber.told
        return subscriber
