"""Whole runs: reproducible to the last byte, true to their scenarios, and not blind."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest

from unimeter import kernels
from unimeter.invariants import ALL
from unimeter.sim.canary_registry import CANARIES
from unimeter.sim.runner import Run, run_seed
from unimeter.sim.scenario import BadScenario, load_all, parse
from unimeter.sim.shrink import shrink

SCENARIOS = load_all()
CAUGHT_WITHIN_SEEDS = 60
FULL_DISK_SEED = 3336  # of swarm: a change of a metric is refused because the disk is full
CANARY_SCENARIOS = {  # where there is most of what the canary spoils
    "takes_rot_for_a_torn_tail": "rot_in_the_middle",
    "believes_anything": "vandals_at_the_door",
    "forgets_sessions": "retries_across_restart",
    "keeps_every_checkpoint": "crash_during_checkpoint",
    "leads_without_votes": "cluster_swarm",
    "alters_an_entry_on_its_way": "quiet_cluster",
    "commits_alone": "old_leader_returns_with_entries_that_nobody_has",
    "promises_before_it_is_durable": "quiet_cluster",
    "loses_the_newest_record": "power_fails_everywhere",
    "one_node_computes_otherwise": "quiet_cluster",
    "is_blind_to_divergence": "bit_flips_in_memory",
    "changes_voters_at_once": "replica_is_wiped",
    "pushes_get_lost": "quiet_day",
    "reads_without_asking": "leadership_moves_over_slow_links",
    "believes_what_it_can_read": "rot_that_a_start_meets",
}
DIGEST = """
import sys
from unimeter import kernels
from unimeter.sim.runner import run_seed
from unimeter.sim.scenario import load_all
for name in ("swarm", "torn_tail_after_power_cut", "cluster_swarm"):
    print(run_seed(load_all()[name], 11, kernels.load()).digest)
"""


def digests(hash_seed: str, kernels_name: str, interpreted: str = "") -> str:
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "UNIMETER_KERNELS": kernels_name}
    if interpreted:
        environment["UNIMETER_INTERPRETED"] = interpreted
    done = subprocess.run(
        [sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, timeout=240, check=True
    )
    return done.stdout


def test_trace_digest_is_the_same_under_two_hash_seeds_and_with_both_kernels() -> None:
    first = digests("1", "native")
    assert len(first.split()) == 3
    assert digests("2", "native") == first
    assert digests("3", "reference") == first


def test_trace_digest_is_the_same_compiled_and_interpreted() -> None:
    """A compiler has bugs, too: mypyc once called a function twice that stood in a slice, and no checkpoint could be read."""
    assert digests("1", "native", interpreted="1") == digests("1", "native")


def test_runs_that_are_over_do_not_pile_up() -> None:
    """Something that holds on to every world makes a fleet slower with each run: shared exceptions did, raised as they were."""
    for _ in range(4):
        run_seed(SCENARIOS["swarm"], FULL_DISK_SEED, kernels.load())
    gc.collect()
    assert sum(isinstance(each, Run) for each in gc.get_objects()) <= 1, (
        "the latest may hang on the exception that it raised"
    )


def test_a_difference_that_comes_last_is_noticed() -> None:
    """The bit flipped long before, in a bucket that the last request touched: the run was over before anybody compared."""
    assert run_seed(SCENARIOS["bit_flips_in_memory"], 1_001_527, kernels.load()).failure is None


def test_an_order_that_comes_late_leaves_no_ghost_behind() -> None:
    """A new coordinator, two disks wiped, and an order that followed from a report of before: it added a voter where the
    ghost that it was to remove had gone already, and another ghost stayed for ever."""
    scenario = SCENARIOS["network_splits_in_the_middle_of_a_membership_change"]
    assert run_seed(scenario, 2_003_124, kernels.load()).failure is None


def test_other_seeds_give_other_runs() -> None:
    scenario = SCENARIOS["quiet_day"]
    assert run_seed(scenario, 1, kernels.load()).digest != run_seed(scenario, 2, kernels.load()).digest


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_scenario_passes(name: str) -> None:
    result = run_seed(SCENARIOS[name], 1, kernels.load())
    assert result.failure is None, result.failure
    assert result.events_stored > 20, "a run in which little happens proves little"


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_scenario_fires_the_faults_that_it_is_about(name: str) -> None:
    wanted = set(SCENARIOS[name].expect_fired)
    fired: set[str] = set()
    for seed in range(2, 22):
        if wanted <= fired:
            break
        fired |= set(run_seed(SCENARIOS[name], seed, kernels.load()).fired)
    assert wanted <= fired


@pytest.mark.parametrize("check", ALL, ids=lambda check: check.name())
def test_invariant_catches_its_canary(check: type) -> None:
    scenario = SCENARIOS[CANARY_SCENARIOS.get(check.canary, "swarm")]
    for seed in range(CAUGHT_WITHIN_SEEDS):
        failure = run_seed(scenario, seed, kernels.load(), check.canary).failure
        if failure is not None and check.name() in (failure.invariant, *failure.also):
            return
    raise AssertionError(f"{check.canary} was not caught by {check.name()}")


def test_every_invariant_has_a_sentence_and_a_canary_of_its_own() -> None:
    assert all(check.sentence.startswith("For all ") and "always" in check.sentence for check in ALL)
    assert sorted(check.canary for check in ALL) == sorted(CANARIES)


def test_shrinking_keeps_the_failure_and_makes_the_run_smaller() -> None:
    scenario = SCENARIOS["quiet_day"]
    whole = run_seed(scenario, 3, kernels.load(), "drops_a_threshold")
    assert whole.failure is not None
    reduction, smaller = shrink(scenario, 3, kernels.load(), "drops_a_threshold", lambda line: None, runs_max=25)
    assert smaller.failure is not None
    assert smaller.failure.invariant == whole.failure.invariant
    assert smaller.steps < whole.steps
    again = run_seed(reduction.apply(scenario), 3, kernels.load(), "drops_a_threshold")
    assert again.digest == smaller.digest, "the options that are printed name the very run"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("weight = 1", "description"),
        ('description = "No stop"', "full stop"),
        ('description = "A."\n[faults.gremlins]', "unknown fault"),
        ('description = "A."\n[limits]\ntoys = 3', "unknown limits"),
        ('description = "A."\n[faults.kill]\noften = 3', "often"),
        ('description = "A."\nnonsense = 3', "unknown keys"),
        ("description = ", "Invalid value"),
    ],
)
def test_bad_scenario_is_refused_with_the_rule_it_breaks(text: str, complaint: str) -> None:
    with pytest.raises(BadScenario, match=complaint):
        parse("bad", text)
