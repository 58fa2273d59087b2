"""A network of Raft replicas that does only what it is told: every delivery, loss, save and crash is a call.

    Replica    a Raft and its fake disk. One save is on its way at a time; `persist` completes it; a crash loses it.
    Cluster    replicas, and the messages that are in flight between them, in order of sending.

The cluster watches while it works: one leader in a term, committed entries that never change and are in every later
leader's log, reads that see what was committed before they were asked. What it finds wrong is an AssertionError.
`events` tells what happened, in words; the plays are made of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

from unimeter.core.raft import Conf, Entry, HardState, Kind, Message, Raft, RaftLog, Role, Save, Settings
from unimeter.sim.prng import Prng

MS = 1_000_000
SETTINGS = Settings(
    election_min_ns=100 * MS, election_max_ns=200 * MS, heartbeat_ns=20 * MS, append_bytes_max=64,
    inflight_bytes_max=256, inflight_messages_max=4,
)  # fmt: skip
EVERYTHING = 1 << 40
NOOP = b"-"


def log_of(terms: Sequence[int], index: int = 1) -> list[Entry]:
    """Entries of those terms. Entries of equal index and term are equal, as they must be."""
    return [Entry(index + at, term, f"{index + at}.{term}".encode()) for at, term in enumerate(terms)]


def epochs_of(entries: Iterable[Entry]) -> list[tuple[int, int]]:
    epochs: list[tuple[int, int]] = []
    for entry in entries:
        if not epochs or epochs[-1][1] != entry.term:
            epochs.append((entry.index, entry.term))
    return epochs


def make_raft(
    replica: int = 1,
    conf: Conf | None = None,
    entries: Sequence[Entry] = (),
    hard: HardState | None = None,
    settings: Settings = SETTINGS,
    prng: Prng | None = None,
    now_ns: int = 0,
    cached_bytes_max: int = EVERYTHING,
) -> Raft:
    """A replica as after a restart with these entries on its disk. Of three voters unless told otherwise."""
    confs = [(0, Conf((1, 2, 3)) if conf is None else conf)]
    if not confs[0][1].voters:
        confs = []
    confs += [(entry.index, entry.conf) for entry in entries if entry.conf is not None]
    hard = hard or HardState(entries[-1].term if entries else 0, 0, 0)
    log = RaftLog(epochs_of(entries), len(entries), entries)
    log.trim(len(entries), cached_bytes_max)
    return Raft(replica, settings, prng or Prng(replica), log, hard, confs, now_ns)


def save_all(raft: Raft, now_ns: int = 0) -> None:
    """For tests of one replica alone: its disk is instant."""
    while (save := raft.take_save()) is not None:
        raft.persisted(now_ns, save.token)


class Replica:
    def __init__(self, raft: Raft, founding: Conf, entries: Sequence[Entry]) -> None:
        self.raft = raft
        self.founding = founding
        self.entries = list(entries)  # on disk
        self.hard = raft.stable.hard
        self.flying: Save | None = None
        self.alive = True
        self.led = False
        self.told = (Role.FOLLOWER, raft.term, 0, raft.commit)  # what the events say of it

    def persist(self) -> int:
        """The save that is on its way is on disk now. Returns its token."""
        save, self.flying = self.flying, None
        assert save is not None
        if save.entries:
            first = save.entries[0].index
            assert first <= len(self.entries) + 1, "a hole in the log"
            self.entries[first - 1 :] = save.entries
        self.hard = save.hard or self.hard
        return save.token

    def entry(self, index: int) -> Entry | None:
        """As the replica has it now."""
        if index > self.raft.log.last_index:
            return None
        return self.raft.log.entry(index) or self.entries[index - 1]


class Cluster:
    def __init__(self, seed: int = 0, settings: Settings = SETTINGS, cached_bytes_max: int = EVERYTHING) -> None:
        self.prng = Prng(seed)
        self.settings = settings
        self.cached_bytes_max = cached_bytes_max
        self.save_bytes_max = EVERYTHING
        self.now_ns = 0
        self.replicas: dict[int, Replica] = {}
        self.flight: list[Message] = []
        self.cuts: set[tuple[int, int]] = set()  # (from, to): nothing gets through
        self.slow: set[int] = set()  # their disks finish only when `persist` says so
        self.events: list[str] = []
        self.leaders: dict[int, int] = {}  # term -> replica
        self.committed: list[Entry] = []
        self.committed_in: list[int] = []  # the term of the leader that committed each; never falls
        self.read_floors: dict[int, int] = {}  # token -> what it must see
        self.reads_done: dict[int, int] = {}
        self.reads_failed: list[int] = []

    # ---- making ----

    def add(
        self, replica: int, conf: Conf, entries: Sequence[Entry] = (), hard: HardState | None = None, now: bool = True
    ) -> Replica:
        raft = make_raft(
            replica, conf, entries, hard, self.settings, self.prng.stream(str(replica)), self.now_ns,
            self.cached_bytes_max,
        )  # fmt: skip
        self.replicas[replica] = Replica(raft, conf, entries)
        if now:
            self.turn(replica)
        return self.replicas[replica]

    def found(self, voters: Sequence[int], learners: Sequence[int] = ()) -> Cluster:
        conf = Conf(tuple(voters), tuple(learners))
        for replica in conf.members():
            self.add(replica, conf)
        return self

    def raft(self, replica: int) -> Raft:
        return self.replicas[replica].raft

    def leader(self) -> Raft | None:
        """The living leader of the highest term."""
        led = [one.raft for one in self.replicas.values() if one.alive and one.raft.role is Role.LEADER]
        return max(led, key=lambda raft: raft.term, default=None)

    # ---- what can happen ----

    def act(self, replica: int, action: Callable[[Raft], object]) -> object:
        """Do something to a replica, and then all that it wants done at once."""
        result = action(self.raft(replica))
        self.turn(replica)
        return result

    def propose(self, replica: int, *data: str) -> None:
        raft = self.raft(replica)
        first = raft.log.last_index + 1
        self.append(replica, [Entry(first + at, raft.term, one.encode()) for at, one in enumerate(data)])

    def propose_conf(self, replica: int, conf: Conf) -> str | None:
        raft = self.raft(replica)
        refusal = raft.propose_conf(conf)
        if refusal is None:
            self.append(replica, [Entry(raft.log.last_index + 1, raft.term, b"conf", conf)])
        return refusal

    def append(self, replica: int, entries: list[Entry]) -> None:
        for entry in entries:
            self.events.append(f"{replica} appends {show_entry(entry)}")
        self.act(replica, lambda raft: raft.append(self.now_ns, entries))

    def read(self, replica: int, token: int) -> None:
        self.read_floors[token] = len(self.committed)
        self.act(replica, lambda raft: raft.read(self.now_ns, token))

    def deliver(self, message: Message) -> None:
        """One message arrives, unless the link is cut or nobody is there."""
        lost = (message.sender, message.to) in self.cuts or not self.replicas[message.to].alive
        self.events.append(show_message(message) + (" (lost)" if lost else ""))
        if not lost:
            self.act(message.to, lambda raft: raft.receive(self.now_ns, message))

    def persist(self, replica: int) -> bool:
        one = self.replicas[replica]
        if one.flying is None:
            return False
        token = one.persist()
        self.act(replica, lambda raft: raft.persisted(self.now_ns, token))
        return True

    def tick(self, replica: int) -> None:
        """Time goes on to what this replica waits for; the others do not notice it yet."""
        self.now_ns = max(self.now_ns, self.raft(replica).deadline_ns)
        self.act(replica, lambda raft: raft.tick(self.now_ns))

    def crash(self, replica: int) -> None:
        one = self.replicas[replica]
        one.alive, one.flying = False, None

    def restart(self, replica: int) -> None:
        """From what is on its disk."""
        one = self.replicas[replica]
        self.add(replica, one.founding, one.entries, one.hard)

    # ---- many at once ----

    def settle(self, steps_max: int = 10_000) -> None:
        """Deliver everything, and all that comes of it, without letting time pass."""
        for _ in range(steps_max):
            if not self.flight:
                return
            self.deliver(self.flight.pop(0))
        raise AssertionError("they never stop talking")

    def run(self, duration_ns: int) -> None:
        """Let time pass on a network and disks without delay."""
        end_ns = self.now_ns + duration_ns
        self.settle()
        while True:
            due = [(one.raft.deadline_ns, name) for name, one in sorted(self.replicas.items()) if one.alive]
            deadline_ns, name = min(due, default=(end_ns + 1, 0))
            if deadline_ns > end_ns:
                self.now_ns = end_ns
                return
            self.tick(name)
            self.settle()

    def elect(self, replica: int) -> Raft:
        """Make it leader, with all that costs."""
        for one in self.replicas.values():
            one.raft.heard_ns = -EVERYTHING
        self.act(replica, lambda raft: raft.campaign(self.now_ns))
        self.settle()
        assert self.raft(replica).role is Role.LEADER
        return self.raft(replica)

    # ---- what a caller of Raft does after each input ----

    def turn(self, replica: int) -> None:
        one = self.replicas[replica]
        raft = one.raft
        while True:
            self._collect(replica, one)
            if one.flying is not None and replica not in self.slow:
                raft.persisted(self.now_ns, one.persist())
            elif raft.needs_noop and raft.accepting:
                self._tell(replica, one)
                entry = Entry(raft.log.last_index + 1, raft.term, NOOP)
                self.events.append(f"{replica} appends {show_entry(entry)}")
                raft.append(self.now_ns, [entry])
            elif (conf := raft.next_conf()) is not None:
                self._tell(replica, one)
                entry = Entry(raft.log.last_index + 1, raft.term, b"conf", conf)
                self.events.append(f"{replica} appends {show_entry(entry)}")
                raft.append(self.now_ns, [entry])
            elif not self._serve(one):
                break
        self._tell(replica, one)
        self._watch(replica, one)
        raft.log.trim(min(raft.commit, raft.stable_index), self.cached_bytes_max)

    def _collect(self, replica: int, one: Replica) -> None:
        raft = one.raft
        self.flight += raft.take_messages()
        done, failed = raft.take_reads()
        for token, index in done:
            assert index >= self.read_floors[token], "a read missed what was committed before it was asked"
            self.reads_done[token] = index
            self.events.append(f"{replica} may serve read {token} at {index}")
        for token in failed:
            self.reads_failed.append(token)
            self.events.append(f"{replica} fails read {token}")
        if one.flying is None:
            one.flying = raft.take_save(self.save_bytes_max)

    def _serve(self, one: Replica) -> bool:
        fetches = one.raft.take_fetches()
        for peer, first, bytes_max in fetches:
            found: list[Entry] = []
            for entry in one.entries[first - 1 :]:
                if found and sum(len(other.data) for other in found) + len(entry.data) > bytes_max:
                    break
                found.append(entry)
            one.raft.supply(self.now_ns, peer, found)
        return bool(fetches)

    def _tell(self, replica: int, one: Replica) -> None:
        raft = one.raft
        now = (raft.role, raft.term, raft.leader, raft.commit)
        if now[:3] != one.told[:3]:
            of = f" of {raft.leader}" if raft.leader and raft.role is Role.FOLLOWER else ""
            self.events.append(f"{replica} is {raft.role.name.lower()}{of} in term {raft.term}")
        if now[3] != one.told[3]:
            self.events.append(f"{replica} commits {raft.commit}")
        one.told = now

    # ---- what must always be true ----

    def _watch(self, replica: int, one: Replica) -> None:
        raft = one.raft
        if raft.role is Role.LEADER:
            assert self.leaders.setdefault(raft.term, replica) == replica, f"two leaders in term {raft.term}"
            if raft.needs_noop or raft.log.last_term == raft.term:
                count = bisect_left(self.committed_in, raft.term)  # those that leaders of earlier terms committed
                assert raft.log.last_index >= count, "a leader misses a committed entry"
                if count:
                    same = raft.log.term(count) == self.committed[count - 1].term
                    assert same, "a leader has another entry in its place"
        led, one.led = one.led, raft.role is Role.LEADER  # one that led itself out of the group commits as it leaves
        while len(self.committed) < raft.commit and (led or one.led):
            entry = one.entry(len(self.committed) + 1)
            assert entry is not None
            holders = [other for other in self.replicas if self._holds_durably(other, entry)]
            assert self._was_quorum(raft, entry.index, holders), f"entry {entry.index} is committed without a quorum"
            self.committed.append(entry)
            self.committed_in.append(raft.term)
        assert raft.commit <= len(self.committed), "a follower knows of a commit before its leader"
        if raft.commit:
            mine = one.entry(raft.commit)
            assert mine == self.committed[raft.commit - 1], f"{replica} has another entry at {raft.commit}"

    def _holds_durably(self, replica: int, entry: Entry) -> bool:
        entries = self.replicas[replica].entries
        return len(entries) >= entry.index and entries[entry.index - 1] == entry

    def _was_quorum(self, raft: Raft, index: int, holders: list[int]) -> bool:
        confs = [conf for _, conf in raft.confs]
        return any(conf.quorum(lambda replica: replica in holders) for conf in confs) and index > 0

    def check_logs(self) -> None:
        """Log matching, and every committed entry on a quorum's disks."""
        ones = list(self.replicas.values())
        for at, one in enumerate(ones):
            for other in ones[at + 1 :]:
                last = min(one.raft.log.last_index, other.raft.log.last_index)
                same = False
                for index in range(last, 0, -1):
                    mine, theirs = one.entry(index), other.entry(index)
                    assert mine is not None and theirs is not None
                    same = same or mine.term == theirs.term
                    assert not same or mine == theirs, f"logs agree later, and differ at {index}"


# ---- in words ----


def show_entry(entry: Entry) -> str:
    return f"{entry.index}/{entry.term} " + (show_conf(entry.conf) if entry.conf else bytes(entry.data).decode())


def show_conf(conf: Conf) -> str:
    parts = ["voters " + ",".join(map(str, conf.voters))]
    if conf.outgoing:
        parts.append("outgoing " + ",".join(map(str, conf.outgoing)))
    if conf.learners:
        parts.append("learners " + ",".join(map(str, conf.learners)))
    return "(" + " ".join(parts) + ")"


def show_message(message: Message) -> str:
    kind, said = message.kind, ""
    if kind in (Kind.PREVOTE, Kind.VOTE):
        said = f" last {message.index}/{message.log_term}" + (" by transfer" if message.context else "")
    elif kind is Kind.APPEND:
        entries = ", ".join(show_entry(entry) for entry in message.entries)
        said = f" after {message.index}/{message.log_term} [{entries}] commit {message.commit}"
    elif kind is Kind.APPEND_REPLY and message.reject:
        said = f" not after {message.index}, try {message.hint}/{message.hint_term}"
    elif kind is Kind.APPEND_REPLY:
        said = f" has {message.index}"
    elif kind is Kind.HEARTBEAT:
        said = f" commit {message.commit}" + (f" round {message.context}" if message.context else "")
    elif kind is Kind.HEARTBEAT_REPLY:
        said = f" round {message.context}" if message.context else ""
    elif kind is not Kind.TIMEOUT_NOW:
        said = " no" if message.reject else " yes"
    return f"{message.sender}->{message.to} {kind.name} t{message.term}{said}"
