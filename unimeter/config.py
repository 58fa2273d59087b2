"""Every limit in the system, with its unit, checked against each other once.

`NodeConfig()` is production; the simulator shrinks the numbers so that every limit is met in a short run.
`state_limits(memory_max_bytes)` turns a memory budget into the replicated table limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from unimeter.kernels.api import Limits

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
SECOND_NS: Final = 1_000_000_000
DAY_NS: Final = 86_400 * SECOND_NS
MS_NS: Final = 1_000_000

BLOCK_BYTES: Final = 4096  # unit of every disk offset and length (O_DIRECT)
PARTITIONS: Final = 256
GROUPS_MAX: Final = 64
ADDRESS_BYTES_MAX: Final = 23  # of an ip:port, as the v1 partition map carries it
GROUPS_DEFAULT: Final = 6  # of a new cluster with several nodes (two to lead for each of three); a cluster of one has 1
FOUNDERS: Final = (1, 3, 5)  # how many nodes a cluster can start with; more can be added later
MEMORY_BYTES_MIN: Final = 64 * MIB
MEMORY_BYTES_DEFAULT: Final = 4 * GIB
DEFAULT_PORT: Final = 7001
DEFAULT_ADMIN_PORT: Final = 9090


@dataclass(frozen=True)
class Member:
    """A node as the command line names it: ID=CLIENT_ADDRESS,PEER_ADDRESS."""

    node_id: int
    client_address: str  # host:port, at most 23 bytes (v1 partition map)
    peer_address: str


@dataclass(frozen=True)
class NodeConfig:
    node_id: int = 1
    advertise: str = "127.0.0.1:7001"  # the address clients are told, at most 23 bytes (v1 partition map)
    members: tuple[Member, ...] = ()  # the nodes to start with, this one included; empty: a cluster of one
    group_count: int = 1  # of a new cluster; an existing one keeps its own
    replicas: int = 0  # of each group in a new cluster; 0: as many as there are members
    memory_max_bytes: int = MEMORY_BYTES_DEFAULT

    # replication; times are monotonic
    election_min_ns: int = 500 * MS_NS  # a leader that says nothing for so long is missed ...
    election_max_ns: int = 1000 * MS_NS  # ... at the latest after so long
    heartbeat_ns: int = 100 * MS_NS
    dial_again_ns: int = 200 * MS_NS  # between two tries to reach a peer
    gossip_ns: int = 200 * MS_NS  # how often a node tells its peers what it leads
    append_bytes_max: int = 1 * MIB  # entries in one message to a follower; one entry at least
    inflight_bytes_max: int = 16 * MIB  # entries on their way to one follower
    inflight_messages_max: int = 256
    catchup_bytes_per_second: int = 3 * MIB  # by which a follower that is far behind gains on a leader under load
    log_mark_bytes: int = 4 * MIB  # granularity of the index by which a follower's missing entries are found
    log_cache_bytes: int = 4 * MIB  # of each group's newest entries, for followers that are a little behind
    peer_frame_bytes_max: int = 24 * MIB
    bundles_waiting_max: int = 64  # forwarded parts without an answer, per group

    frame_bytes_max: int = 8 * MIB  # one request's payload
    batch_events_max: int = 65_536  # events in one ingest request
    entry_bytes_max: int = 16 * MIB  # one group's open entry; at least one frame fits
    entries_waiting_max: int = 16  # sealed entries that wait for the journal
    apply_aside_rows: int = 768  # so many committed rows at once are applied in another thread ...
    apply_busy_rows: int = 256  # ... and so many while the next are being written already ...
    apply_replicated_rows: int = 4096  # ... and so many where other nodes have the entries, too ...
    apply_aside_rows_max: int = 16_384  # ... and no more in one go, unless one entry has more
    apply_behind_rows_max: int = 16_384  # committed beyond that: taking in waits for applying
    ordered_rows_asked_max: int = 1024  # while somebody reads: async requests wait for their place behind so many rows
    lone_arrivals: int = 8  # requests that come so often in a row by one connection are all that is waited for
    lockstep_bytes_min: int = 48 * KIB  # less is written about as fast as half of it
    lockstep_hold_ns: int = 1 * MS_NS  # so long a record waits for more at most
    links_max: int = 10_000
    receive_pending_bytes_max: int = 512 * MIB  # incomplete frames of all links together
    send_buffer_bytes_max: int = 64 * MIB  # a client that does not read its answers is cut off here
    send_buffers_bytes_max: int = 512 * MIB  # ... or here, when all that do not read hold this much together

    segment_bytes: int = 64 * MIB  # one journal file
    stripe_bytes: int = 256 * KIB  # granularity of the journal's sparse index
    checkpoint_after_bytes: int = 128 * MIB  # of journal written since the last checkpoint, at least ...
    checkpoint_after_state_percent: int = (
        100  # ... and so much of the last checkpoint's size: writing it costs no more than the journal
    )
    checkpoint_chunk_bytes: int = 1 * MIB
    recovery_read_bytes: int = 4 * MIB
    scan_read_bytes: int = 1 * MIB

    queries_waiting_max: int = 4096
    query_groups_max: int = 100_000
    query_scans_max: int = 4  # queries that read the journal at the same time
    events_list_max: int = 50_000  # records in one answer
    alerts_list_max: int = 10_000
    no_space_retry_ns: int = SECOND_NS // 2

    @property
    def _own(self) -> Member | None:
        return next((member for member in self.members if member.node_id == self.node_id), None)

    @property
    def client_address(self) -> str:
        """Where clients are told to find this node."""
        return self._own.client_address if self._own else self.advertise

    @property
    def peer_address(self) -> str:
        """Where other nodes are told to find it; "": nowhere."""
        return self._own.peer_address if self._own else ""

    def __post_init__(self) -> None:
        if self.entry_bytes_max < self.frame_bytes_max + 4 * KIB:
            raise ValueError(
                "entry_bytes_max must exceed frame_bytes_max by 4 KiB, or one request could never be taken"
            )
        if self.segment_bytes < 2 * self.entry_bytes_max:
            raise ValueError(
                "segment_bytes must be at least twice entry_bytes_max, or a record could not fit a segment"
            )
        for name in (
            "segment_bytes",
            "stripe_bytes",
            "checkpoint_chunk_bytes",
            "recovery_read_bytes",
            "scan_read_bytes",
        ):
            if getattr(self, name) % BLOCK_BYTES:
                raise ValueError(f"{name} must be a multiple of {BLOCK_BYTES} bytes")
        rows = (
            1, self.apply_busy_rows, self.apply_aside_rows, self.apply_replicated_rows, self.apply_aside_rows_max,
            self.apply_behind_rows_max,
        )  # fmt: skip
        if list(rows) != sorted(rows):
            raise ValueError(
                "apply_busy_rows, apply_aside_rows, apply_replicated_rows, apply_aside_rows_max, apply_behind_rows_max:"
                " at least 1, none above the next"
            )
        if self.ordered_rows_asked_max < 1:
            raise ValueError("ordered_rows_asked_max must be at least 1")
        if not 1 <= self.group_count <= GROUPS_MAX:
            raise ValueError(f"group_count must lie between 1 and {GROUPS_MAX}")
        ids = [member.node_id for member in self.members]
        if len(dict.fromkeys(ids)) != len(ids) or not all(1 <= number <= 255 for number in ids):
            raise ValueError("every member has a number of its own, between 1 and 255")
        for member in self.members:
            if len(member.client_address.encode()) > ADDRESS_BYTES_MAX:
                raise ValueError(
                    f"{member.client_address}: at most 23 bytes: an ip:port as the v1 partition map carries it"
                )
        if not 0 < self.heartbeat_ns * 2 < self.election_min_ns < self.election_max_ns:
            raise ValueError(
                "heartbeat_ns must be less than half of election_min_ns, and that less than election_max_ns"
            )
        if self.peer_frame_bytes_max < self.entry_bytes_max + self.append_bytes_max + 64 * KIB:
            raise ValueError("peer_frame_bytes_max must exceed entry_bytes_max and append_bytes_max together by 64 KiB")
        if len(self.advertise.encode()) > ADDRESS_BYTES_MAX:
            raise ValueError("advertise must be at most 23 bytes: an ip:port as the v1 partition map carries it")
        if self.memory_max_bytes < MEMORY_BYTES_MIN:
            raise ValueError(f"memory_max_bytes must be at least {MEMORY_BYTES_MIN} (64 MiB)")


def state_limits(memory_max_bytes: int) -> Limits:
    """Split a memory budget over the tables of a group's state (indexes included)."""
    unit = memory_max_bytes // 100  # one percent of the budget, in bytes
    records = (
        1,  # META
        min(4 * unit, 2**32 - 8),  # HEAP, bytes
        unit * 1 // 56,  # VALUES: 24 B + 32 B index
        unit * 4 // 56,  # ACCOUNTS
        unit * 9 // 64,  # SERIES: 32 B + 32 B index
        unit * 9 // 64,  # CELLS
        unit * 2 // 4,  # DIMS, u32 words
        unit * 20 // 128,  # BUCKETS: 96 B + 32 B index
        unit * 9 // 72,  # MEMBERS
        unit * 11 // 36,  # FPS0: 16 B + 19 B index at most
        unit * 11 // 36,  # FPS1
        unit * 18 // 64,  # IDS
        max(64, unit // 5400),  # SESSIONS
        unit // 240,  # PERIODS
        unit // 144,  # PMEMBERS
        unit // 144,  # ALERTS
        unit // 32,  # SKIPS
    )
    return Limits(
        records_max=records,
        fingerprints_per_generation=records[9],
        cells_per_series_max=16_384,
        session_idle_ns=7 * DAY_NS,
    )
