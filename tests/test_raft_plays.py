"""Golden plays: what happens between replicas, line by line, as files that read like drama (tests/plays/*.txt).

    # a remark                         kept as it is
    campaign 1                         a stage direction
        1 is pre_candidate in term 0   what happens then: indented, compared with what really happens

After a change that is meant: UNIMETER_REWRITE_PLAYS=1 pytest tests/test_raft_plays.py, and read the difference.

    found 1,2,3 [learners 4]   a group of these voters          log 1 1,1,4 [term 5]     a replica with that on its disk
    join 4                     a replica that belongs nowhere   campaign|tick|persist|crash|restart|mute 1
    propose 1 x y              slow 1                           its disk waits for `persist`
    conf 1 voters 1,2 [outgoing 1,2,3] [learners 3]             transfer 1 2     read 1 7     lost 1 2     back 1 2
    deliver [1->2]             all that is in flight now        settle           until nobody says anything more
    drop 1->2                  what is in flight is lost        cut 1->2 2->1, isolate 3, heal
    pass 50ms                  time passes for all (heartbeats are not shown)
    lead 1                     it gets elected, quickly         status, logs
    small                      one entry in a message; goes first
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.raft_harness import MS, Cluster, log_of, show_conf, show_message
from unimeter.core.raft import Conf, HardState, Role

PLAYS = sorted((Path(__file__).parent / "plays").glob("*.txt"))
INDENT = "    "


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def named(words: list[str]) -> dict[str, tuple[int, ...]]:
    return {key: numbers(value) for key, value in zip(words[::2], words[1::2], strict=True)}


def link(text: str) -> tuple[int, int]:
    sender, receiver = text.split("->")
    return int(sender), int(receiver)


class Stage:
    def __init__(self) -> None:
        self.cluster = Cluster()

    def do(self, line: str) -> list[str]:
        """Follow one stage direction; what happened."""
        name, *words = line.split()
        self.cluster.events.clear()
        said = getattr(self, f"do_{name}")(*words)
        return self.cluster.events + (said or [])

    # ---- the cast ----

    def do_small(self) -> None:
        self.cluster.settings = replace(self.cluster.settings, append_bytes_max=1)

    def do_found(self, voters: str, *rest: str) -> None:
        self.cluster.found(numbers(voters), named(list(rest)).get("learners", ()))

    def do_log(self, replica: str, terms: str, *rest: str) -> None:
        entries = log_of(numbers(terms)) if terms != "empty" else []
        options = named(list(rest))
        term = options.get("term", (entries[-1].term if entries else 0,))[0]
        conf = Conf(options.get("of", (1, 2, 3)))
        self.cluster.add(int(replica), conf, entries, HardState(term, 0, 0))
        self.cluster.committed = []

    def do_join(self, replica: str) -> None:
        self.cluster.add(int(replica), Conf(()))

    def do_slow(self, replica: str) -> None:
        self.cluster.slow.add(int(replica))

    def do_mute(self, replica: str) -> None:
        self.cluster.raft(int(replica)).mute = True

    # ---- what replicas are told ----

    def do_lead(self, replica: str) -> list[str]:
        leader = self.cluster.elect(int(replica))
        self.cluster.tick(int(replica))
        self.cluster.settle()  # everybody knows
        self.cluster.events.clear()
        return [f"{replica} leads term {leader.term}"]

    def do_campaign(self, replica: str) -> None:
        self.cluster.act(int(replica), lambda raft: raft.campaign(self.cluster.now_ns))

    def do_propose(self, replica: str, *data: str) -> list[str] | None:
        if not self.cluster.raft(int(replica)).accepting:
            return [f"{replica} accepts nothing"]
        self.cluster.propose(int(replica), *data)
        return None

    def do_conf(self, replica: str, *words: str) -> list[str] | None:
        wanted = named(list(words))
        conf = Conf(wanted["voters"], wanted.get("learners", ()), wanted.get("outgoing", ()))
        refusal = self.cluster.propose_conf(int(replica), conf)
        return [f"{replica} refuses: {refusal}"] if refusal else None

    def do_transfer(self, replica: str, heir: str) -> list[str] | None:
        begun = self.cluster.act(int(replica), lambda raft: raft.transfer(self.cluster.now_ns, int(heir)))
        return None if begun else [f"{replica} cannot"]

    def do_read(self, replica: str, token: str) -> None:
        self.cluster.read(int(replica), int(token))

    def do_tick(self, replica: str) -> None:
        self.cluster.tick(int(replica))

    def do_pass(self, duration: str) -> None:
        self.cluster.run(int(duration.removesuffix("ms")) * MS)
        self.cluster.events = [line for line in self.cluster.events if "HEARTBEAT" not in line]

    # ---- disks ----

    def do_persist(self, replica: str) -> list[str] | None:
        return None if self.cluster.persist(int(replica)) else [f"{replica} has nothing to save"]

    def do_crash(self, replica: str) -> None:
        self.cluster.crash(int(replica))

    def do_restart(self, replica: str) -> None:
        self.cluster.restart(int(replica))

    # ---- the network ----

    def do_deliver(self, only: str = "") -> None:
        flight, self.cluster.flight = self.cluster.flight, []
        for message in flight:
            if only and (message.sender, message.to) != link(only):
                self.cluster.flight.append(message)
            else:
                self.cluster.deliver(message)

    def do_drop(self, only: str) -> list[str]:
        gone = [message for message in self.cluster.flight if (message.sender, message.to) == link(only)]
        self.cluster.flight = [message for message in self.cluster.flight if message not in gone]
        return [show_message(message) + " (dropped)" for message in gone]

    def do_settle(self) -> None:
        self.cluster.settle()

    def do_cut(self, *links: str) -> None:
        self.cluster.cuts |= {link(one) for one in links}

    def do_isolate(self, replica: str) -> None:
        for other in self.cluster.replicas:
            self.cluster.cuts |= {(int(replica), other), (other, int(replica))}

    def do_heal(self) -> None:
        self.cluster.cuts.clear()

    def do_lost(self, replica: str, peer: str) -> None:
        self.cluster.act(int(replica), lambda raft: raft.peer_lost(self.cluster.now_ns, int(peer)))

    def do_back(self, replica: str, peer: str) -> None:
        self.cluster.act(int(replica), lambda raft: raft.peer_back(self.cluster.now_ns, int(peer)))

    # ---- looking ----

    def do_status(self) -> list[str]:
        said = []
        for name, one in sorted(self.cluster.replicas.items()):
            status = one.raft.status(self.cluster.now_ns)
            line = (
                f"{name} {status.role.name.lower()} term {status.term} leader {status.leader} log {status.last_index}"
                f" durable {status.stable_index} commit {status.commit} {show_conf(status.conf)}"
            )
            said.append(line if one.alive else f"{name} is down")
            if one.alive and status.role is Role.LEADER:
                said += [
                    f"  {peer.replica} {peer.pace.name.lower()} match {peer.match} next {peer.next}"
                    for peer in status.followers
                ]
        return said

    def do_logs(self) -> list[str]:
        said = []
        for name, one in sorted(self.cluster.replicas.items()):
            terms = [one.raft.log.term(index) for index in range(1, one.raft.log.last_index + 1)]
            said.append(f"{name}: " + " ".join(map(str, terms)))
        return said


def performed(text: str) -> str:
    """The play as it really happens."""
    stage = Stage()
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith(INDENT):
            continue  # what was said last time
        lines.append(line)
        if line and not line.startswith("#"):
            lines += [INDENT + said for said in stage.do(line)]
    stage.cluster.check_logs()
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", PLAYS, ids=lambda path: path.stem)
def test_play(path: Path) -> None:
    text = path.read_text()
    real = performed(text)
    if os.environ.get("UNIMETER_REWRITE_PLAYS"):
        path.write_text(real)
    else:
        assert real == text


def test_there_are_plays() -> None:
    assert len(PLAYS) >= 12
