"""What followers get while their leader's journal is busy: the leader's disk is the slow one here, and says so when the test does."""

from __future__ import annotations

import pytest

from tests.cluster_bench import CLUSTER, ClusterBench, Machine
from tests.harness import JAN_1, v1_event, v1_ingest, v1_metric, v1_usage
from unimeter.core.effects import Effect, Send, Write
from unimeter.core.group import Group
from unimeter.core.inputs import Input, Now
from unimeter.kernels import protocol as wire

HOUR = 3_600_000_000_000
ALL = (1, 2, 3)


class SlowLeader(ClusterBench):
    """Three nodes, one group. Journal writes of the leader wait in `held`."""

    def __init__(self) -> None:
        super().__init__(nodes=3, groups=1)
        self.slow = 0
        self.held: list[Input] = []
        self.start()
        self.run(10_000, self.ready)
        self.lead = self.leader(0)
        self.link = self.client(self.lead)
        self.ask(self.lead, self.link, v1_metric("calls"), 100)
        self.others = [number for number in ALL if number != self.lead]
        self.slow = self.lead
        self.sent = 0
        self.answers = b""

    def _take(self, machine: Machine, effect: Effect) -> None:
        if machine.node_id == self.slow and isinstance(effect, Write) and not effect.bulk:
            self.held.append(self._disk(machine, effect))
        else:
            super()._take(machine, effect)

    def group(self, number: int) -> Group:
        node = self.machines[number].node
        assert node is not None
        group: Group = node.groups[0]
        return group

    def last(self, number: int) -> int:
        return self.group(number).raft.log.last_index

    def ingest(self) -> None:
        """One sync event."""
        self.sent += 1
        self.answers += self.ask(self.lead, self.link, v1_ingest(v1_event("calls", 1, 1, JAN_1 + self.sent)))

    def release(self) -> None:
        """The disk is done with all that it has."""
        while self.held:
            self._queue.append((self.lead, self.held.pop(0)))
            self.settle()
        self.answers += self.machines[self.lead].answers.pop(self.link, b"")

    def answered(self) -> int:
        """Requests with a good answer so far."""
        count, rest = 0, self.answers
        while rest:
            status, _, length = wire.V1_RESPONSE_HEADER.unpack_from(rest)
            assert status == wire.V1_STATUS_OK
            count, rest = count + 1, rest[wire.V1_RESPONSE_HEADER.size + length :]
        return count

    def total(self) -> int:
        answer = self.ask(self.lead, self.link, v1_usage(1, "calls", JAN_1, JAN_1 + HOUR), 200)
        status, _, length = wire.V1_RESPONSE_HEADER.unpack_from(answer)
        assert (status, length) == (wire.V1_STATUS_OK, wire.V1_AGGREGATE.size)
        return int(wire.V1_AGGREGATE.unpack_from(answer, wire.V1_RESPONSE_HEADER.size)[2])


@pytest.fixture
def bench() -> SlowLeader:
    return SlowLeader()


def test_a_request_goes_to_the_followers_though_the_leader_s_journal_is_busy_with_another(bench: SlowLeader) -> None:
    before = bench.last(bench.lead)
    bench.ingest()
    assert len(bench.held) == 1
    assert [bench.last(number) for number in ALL] == [before + 1] * 3
    bench.ingest()
    assert len(bench.held) == 1, "one record at a time"
    assert [bench.last(number) for number in ALL] == [before + 2] * 3, "the followers have the second, too"
    assert bench.group(bench.lead).raft.commit == before + 2, "and it is committed: they are a majority"
    assert bench.answered() == 0, "what the leader does not have on its own disk it neither applies nor answers"
    bench.release()
    assert bench.answered() == 2
    assert bench.total() == 2


def test_what_comes_while_the_followers_have_something_to_do_shares_the_next_entry(bench: SlowLeader) -> None:
    before = bench.last(bench.lead)
    bench.ingest()
    bench.cuts = {(other, bench.lead) for other in bench.others}  # they do not answer
    bench.ingest()
    assert [bench.last(number) for number in ALL] == [before + 2] * 3
    for _ in range(5):
        bench.ingest()
    assert bench.last(bench.lead) == before + 2, "nobody acknowledged the second yet"
    bench.cuts = set()
    bench.release()
    bench.run(300)
    bench.release()
    assert [bench.last(number) for number in ALL] == [before + 3] * 3, "five requests, one entry"
    assert bench.answered() == 7
    assert bench.total() == 7


def test_what_the_next_record_seals_leaves_in_the_step_that_begins_to_write_it(bench: SlowLeader) -> None:
    """Not at the end of the turn: by then the event loop's thread may wait for the disk."""
    for _ in range(CLUSTER.lone_arrivals):  # then it may, as nobody else is there
        bench.ingest()
        bench.release()
    bench.cuts = {(other, bench.lead) for other in bench.others}
    bench.ingest()
    bench.ingest()  # stays open: nobody acknowledged the first
    node = bench.machines[bench.lead].node
    assert node is not None
    effects = node.step(Now(bench.now_ns, JAN_1 + bench.now_ns), bench.held.pop(0))
    assert [effect.lone for effect in effects if isinstance(effect, Write)] == [True]
    to_peers = {effect.link for effect in effects if isinstance(effect, Send)} - {bench.link}
    assert len(to_peers) == len(bench.others)
