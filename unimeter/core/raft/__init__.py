"""Raft, sans IO: one replica of one replicated log. Entries are opaque; begin reading at `raft.py`."""

from unimeter.core.raft.conf import Conf
from unimeter.core.raft.log import RaftLog
from unimeter.core.raft.membership import Refusal
from unimeter.core.raft.messages import Bytes, Entry, HardState, Kind, Message, Save
from unimeter.core.raft.raft import Raft
from unimeter.core.raft.state import Role, Settings
from unimeter.core.raft.status import FollowerStatus, Status

__all__ = [
    "Bytes", "Conf", "Entry", "FollowerStatus", "HardState", "Kind", "Message", "Raft", "RaftLog", "Refusal", "Role",
    "Save", "Settings", "Status",
]  # fmt: skip
