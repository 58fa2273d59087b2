"""Scenarios: one TOML file per situation, in `scenarios/`. The file name is the situation, `description` says it.

description = "Power fails while a checkpoint is being written."
weight = 2                      # how often a fleet picks it, relative to the others

[cluster]  nodes, groups, replicas, spares   # each a number, or a list from which the seed chooses
[run]      chaos_ms, calm_ms    # virtual time of the chaos; bound for becoming calm after it
[node]     NodeConfig fields that differ from the simulator's small defaults
[limits]   table sizes by name (sessions = 8, ...), and fingerprints, cells_per_series, session_idle_ms
[clients]  sessions, plain, v1, readers, readers_v1, vandals, subscribers, requests, changes, batch_events_max, asynchronous
[manners]  window, think_us, timeout_ms, duplicate, impatience
[space]    SpaceSettings fields
[faults.NAME]  in_run, every_ms, on, chance, most     # NAME: a kind, or kind_leader, kind_follower
[expect]   fired = ["power_cut"]: a fleet in which this never fired has not tested the scenario
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib import resources
from typing import Any, Final

from unimeter.config import KIB, NodeConfig
from unimeter.kernels.api import Limits
from unimeter.sim.client import Manners
from unimeter.sim.cluster import Shape
from unimeter.sim.faults import FaultSpec
from unimeter.sim.prng import Prng
from unimeter.sim.space import SpaceSettings
from unimeter.sim.world import MS, US

REGIONS: Final = (
    "meta", "heap", "values", "accounts", "series", "cells", "dims", "buckets", "members", "fps0", "fps1", "ids",
    "sessions", "periods", "pmembers", "alerts", "skips",
)  # fmt: skip
SMALL_NODE: Final = NodeConfig(
    advertise="10.0.0.1:7001",
    frame_bytes_max=12 * KIB,
    batch_events_max=64,
    entry_bytes_max=16 * KIB,
    segment_bytes=32 * KIB,
    apply_busy_rows=2,
    apply_aside_rows=4,
    apply_replicated_rows=5,
    apply_aside_rows_max=8,
    apply_behind_rows_max=16,
    ordered_rows_asked_max=4,
    lockstep_bytes_min=200,
    lone_arrivals=0,
    stripe_bytes=8 * KIB,
    checkpoint_after_bytes=16 * KIB,
    checkpoint_after_state_percent=0,
    checkpoint_chunk_bytes=16 * KIB,
    recovery_read_bytes=16 * KIB,
    scan_read_bytes=16 * KIB,
    queries_waiting_max=64,
    query_groups_max=64,
    events_list_max=300,
    alerts_list_max=100,
    no_space_retry_ns=50 * MS,
    election_min_ns=80 * MS,
    election_max_ns=160 * MS,
    heartbeat_ns=39 * MS,
    dial_again_ns=20 * MS,
    gossip_ns=100 * MS,
    append_bytes_max=8 * KIB,
    inflight_bytes_max=32 * KIB,
    inflight_messages_max=8,
    log_cache_bytes=24 * KIB,
    peer_frame_bytes_max=128 * KIB,
    bundles_waiting_max=8,
)
SMALL_LIMITS: Final = {
    "meta": 1, "heap": 128 * KIB, "values": 512, "accounts": 64, "series": 512, "cells": 4096, "dims": 16384, "buckets": 8192,
    "members": 8192, "fps0": 8192, "fps1": 8192, "ids": 8192, "sessions": 64, "periods": 2048, "pmembers": 8192,
    "alerts": 4096, "skips": 8192,
}  # fmt: skip
ROOMY_LIMITS: Final = Limits(tuple(SMALL_LIMITS.values()), 8192, 64, 3_600_000 * MS)


class BadScenario(ValueError):
    """A scenario file that cannot be used; says which rule it breaks."""


@dataclass(frozen=True)
class ClientCounts:
    sessions: int = 2
    plain: int = 1
    v1: int = 1
    readers: int = 1
    readers_v1: int = 1
    vandals: int = 1
    subscribers: int = 1
    requests: int = 6  # of each client
    changes: int = 3  # of metric definitions
    batch_events_max: int = 14
    asynchronous: float = 0.2


@dataclass(frozen=True)
class Scenario:
    name: str
    description: str
    weight: int = 1
    chaos_ms: int = 190
    calm_ms: int = 20_000
    cluster: tuple[tuple[str, tuple[int, ...]], ...] = ()
    node: NodeConfig = SMALL_NODE
    limits: Limits = ROOMY_LIMITS
    clients: ClientCounts = ClientCounts()
    manners: Manners = field(default_factory=Manners)
    space: SpaceSettings = field(default_factory=SpaceSettings)
    faults: tuple[FaultSpec, ...] = ()
    expect_fired: tuple[str, ...] = field(default=())

    def shape(self, prng: Prng) -> Shape:
        """How large the cluster of a run is."""
        return Shape(**{name: prng.stream(name).choice(choices) for name, choices in self.cluster})

    @property
    def roomy(self) -> bool:
        """Are the tables so large that no ordinary run fills them?"""
        return self.limits == ROOMY_LIMITS


def parse(name: str, text: str) -> Scenario:
    """Raises BadScenario."""
    try:
        table = tomllib.loads(text)
        return _build(name, table)
    except (tomllib.TOMLDecodeError, TypeError, KeyError, ValueError) as error:
        raise BadScenario(f"scenario {name}: {error}") from error


def _build(name: str, table: dict[str, Any]) -> Scenario:
    known = {
        "description",
        "weight",
        "cluster",
        "run",
        "node",
        "limits",
        "clients",
        "manners",
        "space",
        "faults",
        "expect",
    }
    if unknown := sorted(set(table) - known):
        raise ValueError(f"unknown keys {unknown}")
    if not str(table["description"]).endswith("."):
        raise ValueError("the description is a sentence: end it with a full stop")
    faults = [FaultSpec(kind, **settings) for kind, settings in table.get("faults", {}).items()]
    return Scenario(
        name=name,
        description=table["description"],
        weight=table.get("weight", 1),
        cluster=_cluster(table.get("cluster", {})),
        node=replace(SMALL_NODE, **table.get("node", {})),
        limits=_limits(table.get("limits", {})),
        clients=ClientCounts(**table.get("clients", {})),
        manners=_manners(table.get("manners", {})),
        space=SpaceSettings(**table.get("space", {})),
        faults=tuple(faults),
        expect_fired=tuple(table.get("expect", {}).get("fired", [])),
        **table.get("run", {}),
    )


def _cluster(table: dict[str, Any]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    if unknown := sorted(set(table) - {item.name for item in fields(Shape)}):
        raise ValueError(f"unknown settings of the cluster {unknown}")
    return tuple(
        (name, tuple(choices) if isinstance(choices, list) else (choices,)) for name, choices in sorted(table.items())
    )


def _limits(table: dict[str, Any]) -> Limits:
    rest = dict(table)
    fingerprints = rest.pop("fingerprints", 8192)
    cells = rest.pop("cells_per_series", 64)
    idle_ns = rest.pop("session_idle_ms", 3_600_000) * MS
    if unknown := sorted(set(rest) - set(REGIONS)):
        raise ValueError(f"unknown limits {unknown}")
    return Limits(tuple((SMALL_LIMITS | rest)[region] for region in REGIONS), fingerprints, cells, idle_ns)


def _manners(table: dict[str, Any]) -> Manners:
    units = {"think_us": ("think_ns", US), "timeout_ms": ("timeout_ns", MS), "backoff_ms": ("backoff_ns", MS)}
    settings: dict[str, Any] = {}
    for key, value in table.items():
        name, unit = units.get(key, (key, 0))
        settings[name] = value * unit if unit else value
    if unknown := sorted(set(settings) - {item.name for item in fields(Manners)}):
        raise ValueError(f"unknown manners {unknown}")
    return Manners(**settings)


@cache
def load_all() -> dict[str, Scenario]:
    """Every scenario of the package, by name, sorted."""
    found = {}
    for file in sorted(resources.files("unimeter.scenarios").iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".toml"):
            name = file.name.removesuffix(".toml")
            found[name] = parse(name, file.read_text())
    return found


def pick(names: list[str], scenarios: dict[str, Scenario], seed: int) -> str:
    """The scenario that a fleet runs under a seed: every name by its weight, in turn."""
    wheel = [name for name in names for _ in range(scenarios[name].weight)]
    return wheel[seed % len(wheel)]
