"""Metrics are the same everywhere: whoever coordinates dies at whatever step, and whoever creates what at the same time."""

from __future__ import annotations

import pytest

from tests.cluster_bench import ClusterBench
from tests.harness import JAN_1, v1, v1_event, v1_ingest, v1_metric
from tests.test_core_cluster import Clients, answer_v1, ready
from unimeter.kernels import protocol as wire

GROUPS = 4


def catalogs(bench: ClusterBench) -> set[tuple[tuple[int, str, bool, tuple[str, ...]], ...]]:
    """What all groups of all nodes have; one, if they agree."""
    return {
        tuple((m.id, m.definition.code, m.alive, tuple(m.definition.dimensions)) for m in group.catalog.metrics)
        for node in bench.nodes()
        for group in node.groups
    }


def agree(bench: ClusterBench) -> list[str]:
    """Let it come to rest; the codes of the one catalog that all have."""
    bench.run(8000, lambda: bench.ready() and len(catalogs(bench)) == 1)
    bench.run(1500)
    (one,) = catalogs(bench)
    assert [number for number, *_ in one] == list(range(len(one))) or [n for n, *_ in one] == list(
        range(1, len(one) + 1)
    )
    return [code for _, code, *_ in one]


def usable(bench: ClusterBench, codes: list[str]) -> None:
    """Every metric counts, in every group, wherever it is asked."""
    clients = Clients(bench)
    for turn, code in enumerate(codes):
        for account in range(GROUPS):
            assert clients.anywhere(v1_ingest(v1_event(code, account, 1, JAN_1 + turn)), 1 + turn % 3)[0] == 0
            assert clients.count(account, code) == 1


@pytest.mark.parametrize("milliseconds", [0, 1, 5, 60])
def test_a_coordinator_that_dies_after_any_step_leaves_no_group_behind(milliseconds: int) -> None:
    bench = ready(3, GROUPS)
    clients = Clients(bench)
    assert clients.raw(1, v1_metric("before"), 2000)[0] == 0
    coordinator = bench.leader(0)
    asked = coordinator % 3 + 1
    link = bench.client(asked)
    bench._arrive(asked, link, v1_metric("calls", 1, ("region",)))
    if milliseconds:
        bench.run(milliseconds)
    answered = bench.machines[asked].answers.get(link, b"")
    bench.kill(coordinator)
    bench.run(4000, bench.ready)
    bench.start(coordinator)
    codes = agree(bench)
    assert "calls" in codes or not (answered and answer_v1(answered)[0] == 0), "it was acknowledged"
    answers = bench.machines[asked].answers.get(link, b"")
    assert answers, "whoever asked is told something"
    assert clients.anywhere(v1_metric("calls", 1, ("region",)))[0] == 0, "and may ask again"
    assert sorted(agree(bench)) == ["before", "calls"]
    usable(bench, ["before", "calls"])


def test_metrics_created_everywhere_at_once_have_the_same_ids_everywhere() -> None:
    bench = ready(3, GROUPS)
    links = []
    for n in range(12):
        number = 1 + n % 3
        link = bench.client(number)
        links.append((number, link))
        bench._arrive(number, link, v1_metric(f"m{n // 2}", 1))  # each by two nodes
    bench.run(3000, lambda: all(bench.machines[number].answers.get(link) for number, link in links))
    assert all(answer_v1(bench.machines[number].answers[link])[0] == 0 for number, link in links)
    codes = agree(bench)
    assert sorted(codes) == [f"m{n}" for n in range(6)]
    usable(bench, codes[:3])


def test_two_definitions_of_one_code_at_once_agree_on_one() -> None:
    bench = ready(3, GROUPS)
    links = [(number, bench.client(number)) for number in (1, 2, 3)]
    for number, link in links:
        bench._arrive(number, link, v1_metric("calls", number % 2))
    bench.run(3000, lambda: all(bench.machines[number].answers.get(link) for number, link in links))
    answers = [answer_v1(bench.machines[number].answers[link])[0] for number, link in links]
    assert answers.count(0) >= 1 and agree(bench) == ["calls"]
    aggregations = {g.catalog.metrics[-1].definition.aggregation for node in bench.nodes() for g in node.groups}
    assert len(aggregations) == 1


def test_changes_go_on_through_the_deaths_of_coordinators_and_leaders() -> None:
    bench = ready(3, GROUPS)
    clients = Clients(bench)
    for turn in range(8):
        assert clients.anywhere(v1_metric(f"m{turn}"), 1 + turn % 3)[0] == 0
        victim = bench.leader(turn % GROUPS) or 1
        bench.kill(victim)
        bench.start(victim)
        bench.run(300)
        if turn == 5:
            assert clients.anywhere(v1(wire.V1_TYPE_METRIC_DELETE, b"m0".ljust(64, b"\0")))[0] == 0
    codes = agree(bench)
    assert codes == [f"m{turn}" for turn in range(8)]
    usable(bench, ["m1", "m7"])


def test_a_group_without_a_leader_delays_the_answer_and_nothing_else() -> None:
    bench = ready(3, GROUPS)
    clients = Clients(bench)
    group = next(group for group in range(1, GROUPS) if bench.leader(group) != bench.leader(0))
    away = bench.leader(group)
    for other in bench.machines:
        if other != away:
            bench.cuts |= {(away, other), (other, away)}
    asked = next(number for number in bench.machines if number not in (away, bench.leader(0)))
    del clients.links[away]
    assert clients.anywhere(v1_metric("calls"), asked)[0] == 0  # perhaps only when it is asked again
    assert clients.anywhere(v1_ingest(v1_event("calls", group, 1, JAN_1)), asked)[0] == 0
    bench.cuts.clear()
    assert agree(bench) == ["calls"]
