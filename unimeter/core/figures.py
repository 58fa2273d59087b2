"""What operators are told in numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unimeter.core.raft import Role
from unimeter.kernels import layout

if TYPE_CHECKING:
    from unimeter.core.parts import Parts


def counters(node: Parts) -> dict[str, int]:
    """By name, the unit last; all are sums over the groups."""
    metas = [group.meta() for group in node.groups]
    return {
        "events_stored": sum(meta.stored for meta in metas),
        "events_duplicate": sum(meta.duplicates for meta in metas),
        "events_conflict": sum(meta.conflicts for meta in metas),
        "events_refused": sum(meta.refused for meta in metas),
        "alerts_fired": sum(meta.alert_next - 1 for meta in metas),
        "fingerprint_rotations": sum(meta.fps_rotations for meta in metas),
        "sessions_opened": sum(meta.sessions_opened for meta in metas),
        "sessions_evicted": sum(meta.sessions_evicted for meta in metas),
        "series": sum(group.state.region_counts()[layout.UM_R_SERIES] for group in node.groups),
        "state_bytes": sum(group.state.memory_bytes() for group in node.groups),
        "applied_index": sum(meta.applied_index for meta in metas),
        "journal_records": node.journal.records_written,
        "journal_bytes": node.journal.bytes_written,
        "journal_segment": node.journal.position.segment,
        "checkpoints": node.upkeep.checkpoints_written,
        "disk_full": int(node.upkeep.disk_full),
        "disk_full_events": node.upkeep.no_space_count,
        "scans": sum(reads.scans_started for reads in node.reads),
        "requests_redirected": node.door.redirected,
        "requests_refused_busy": node.door.refused,
        "bundles_forwarded": node.bundles.sent,
        "log_fetches": node.replication.fetches,
        "groups_led": sum(group.raft.role is Role.LEADER for group in node.groups),
        "digests_compared": node.divergence.compared,
    }
