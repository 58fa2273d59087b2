"""Random schedules for Raft: loss, duplication, reordering, delay, slow disks, crashes that lose what is not saved,
broken links, transfers, changes of membership; then peace, in which everything has to come right.

A schedule is its seed. `Cluster` checks safety at every step; `calm` demands liveness at the end.
"""

from __future__ import annotations

from tests.raft_harness import EVERYTHING, MS, SETTINGS, Cluster
from unimeter.core.raft import Conf, Entry, Role
from unimeter.sim.prng import Prng

REPLICAS = (1, 2, 3, 4, 5)
CALM_NS = 3_000 * MS


class Chaos:
    def __init__(self, seed: int) -> None:
        self.dice = Prng(seed, "chaos")
        cached = EVERYTHING if self.dice.chance(0.5) else self.dice.below(80)
        self.cluster = Cluster(seed, SETTINGS, cached)
        self.cluster.save_bytes_max = self.dice.choice((1, 5, EVERYTHING))
        voters = tuple(range(1, self.dice.choice((1, 2, 3, 3, 3, 4, 5)) + 1))
        for replica in REPLICAS:
            self.cluster.add(replica, Conf(voters) if replica in voters else Conf(()))
        # two coins for each kind of trouble: is it in this run at all; does it happen now
        self.odds = [
            (action, weight) for action, weight, always in self._actions() if always or self.dice.chance(0.5)
        ]  # fmt: skip
        self.slow_disks = self.dice.chance(0.7)
        if self.slow_disks:
            self.cluster.slow = set(REPLICAS)
        self.next = 1

    def _actions(self) -> list[tuple[str, int, bool]]:
        return [
            ("deliver", 60, True), ("persist", 20, True), ("pass_time", 12, True), ("propose", 10, True),
            ("read", 4, True), ("reorder", 20, False), ("drop", 5, False), ("duplicate", 5, False),
            ("crash", 1, False), ("restart", 3, True), ("cut", 1, False), ("heal", 1, True), ("transfer", 1, False),
            ("change", 3, False), ("campaign", 1, False), ("lose_link", 1, False), ("isolate", 1, False),
            ("usurp", 2, False),
        ]  # fmt: skip

    def run(self, steps: int) -> None:
        for _ in range(steps):
            getattr(self, f"_{self.dice.weighted(self.odds)}")()
        self.cluster.check_logs()

    def _any(self) -> int:
        return self.dice.choice(REPLICAS)

    def _living(self) -> int | None:
        living = [name for name, one in self.cluster.replicas.items() if one.alive]
        return self.dice.choice(living) if living else None

    def _leading(self) -> int | None:
        """Anybody who thinks that it leads."""
        leading = [
            name for name, one in self.cluster.replicas.items() if one.alive and one.raft.role is Role.LEADER
        ]  # fmt: skip
        return self.dice.choice(leading) if leading else None

    def _deliver(self) -> None:
        if self.cluster.flight:
            self.cluster.deliver(self.cluster.flight.pop(0))

    def _reorder(self) -> None:
        flight = self.cluster.flight
        if flight:
            self.cluster.deliver(flight.pop(self.dice.below(len(flight))))

    def _drop(self) -> None:
        flight = self.cluster.flight
        if flight:
            flight.pop(self.dice.below(len(flight)))

    def _duplicate(self) -> None:
        flight = self.cluster.flight
        if flight:
            flight.append(self.dice.choice(flight))

    def _persist(self) -> None:
        living = self._living()
        if living is not None:
            self.cluster.persist(living)

    def _pass_time(self) -> None:
        cluster = self.cluster
        cluster.now_ns += self.dice.below(40 * MS)
        for name, one in cluster.replicas.items():
            if one.alive and one.raft.deadline_ns <= cluster.now_ns and self.dice.chance(0.8):
                cluster.act(name, lambda raft: raft.tick(cluster.now_ns))

    def _propose(self) -> None:
        leading = self._leading()
        if leading is not None and self.cluster.raft(leading).accepting:
            words = [f"{self.next + at}" for at in range(self.dice.below(3) + 1)]
            self.next += len(words)
            self.cluster.propose(leading, *words)

    def _read(self) -> None:
        living = self._leading() or self._living()
        if living is not None:
            self.cluster.read(living, len(self.cluster.read_floors) + 1)

    def _crash(self) -> None:
        living = self._living()
        if living is not None:
            self.cluster.crash(living)

    def _restart(self) -> None:
        replica = self._any()
        if not self.cluster.replicas[replica].alive:
            self.cluster.restart(replica)

    def _cut(self) -> None:
        self.cluster.cuts.add((self._any(), self._any()))

    def _isolate(self) -> None:
        lonely = self._any()
        self.cluster.cuts |= {(lonely, other) for other in REPLICAS} | {(other, lonely) for other in REPLICAS}

    def _usurp(self) -> None:
        """A leader is cut off, and before it notices, the others elect another."""
        cluster, old = self.cluster, self._leading()
        rivals = [name for name, one in cluster.replicas.items() if one.alive and name != old]
        if old is None or not rivals:
            return
        cluster.cuts = {(old, other) for other in REPLICAS} | {(other, old) for other in REPLICAS}
        for name in rivals:
            cluster.act(name, lambda raft: raft.peer_lost(cluster.now_ns, old))
        rival = self.dice.choice(rivals)
        cluster.act(rival, lambda raft: raft.campaign(cluster.now_ns))

    def _heal(self) -> None:
        self.cluster.cuts.clear()

    def _campaign(self) -> None:
        living = self._living()
        if living is not None:
            self.cluster.act(living, lambda raft: raft.campaign(self.cluster.now_ns))

    def _transfer(self) -> None:
        leading, heir = self._leading(), self._any()
        if leading is not None:
            self.cluster.act(leading, lambda raft: raft.transfer(self.cluster.now_ns, heir))

    def _change(self) -> None:
        leading = self._leading()
        if leading is None:
            return
        conf = self.cluster.raft(leading).conf
        if conf.joint:
            return
        chosen = [replica for replica in REPLICAS if self.dice.chance(0.6)] or [leading]
        learners = tuple(replica for replica in REPLICAS if replica not in chosen and self.dice.chance(0.5))
        if self.dice.chance(0.5):
            wanted = conf.joining(tuple(chosen), learners)
        else:
            wanted = Conf(conf.voters, tuple(one for one in learners if one not in conf.voters))
        self.cluster.propose_conf(leading, wanted)

    def _lose_link(self) -> None:
        one, other = self._any(), self._any()
        cluster = self.cluster
        if one == other:
            return
        cluster.flight = [message for message in cluster.flight if {message.to, message.sender} != {one, other}]
        for name, peer in ((one, other), (other, one)):
            if cluster.replicas[name].alive:
                cluster.act(name, lambda raft, peer=peer: raft.peer_lost(cluster.now_ns, peer))
        for name, peer in ((one, other), (other, one)):
            if cluster.replicas[name].alive:
                cluster.act(name, lambda raft, peer=peer: raft.peer_back(cluster.now_ns, peer))

    def calm(self) -> None:
        """No more trouble: a leader, and everything it commits is with everybody who should have it."""
        cluster = self.cluster
        cluster.cuts.clear()
        cluster.slow.clear()
        for name, one in cluster.replicas.items():
            if not one.alive:
                cluster.restart(name)
            cluster.persist(name)
        cluster.run(CALM_NS)
        leader = cluster.leader()
        assert leader is not None and leader.accepting, "nobody leads"
        index = leader.log.last_index + 1
        cluster.append(leader.replica, [Entry(index, leader.term, b"last")])
        cluster.read(leader.replica, 1_000_000)
        cluster.run(300 * MS)
        assert cluster.leader() is leader, "leadership is not stable in calm weather"
        assert not leader.conf.joint, "the change of membership does not end"
        assert 1_000_000 in cluster.reads_done, "a read is never served"
        for member in leader.conf.members():
            raft = cluster.raft(member)
            assert raft.commit == raft.stable_index == index, f"{member} has {raft.stable_index} of {index}"
        cluster.check_logs()


def play(seed: int, steps: int) -> Cluster:
    chaos = Chaos(seed)
    chaos.run(steps)
    chaos.calm()
    return chaos.cluster
