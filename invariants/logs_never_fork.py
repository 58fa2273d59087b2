"""Log matching (the Raft paper, figure 3): an index and a term name one entry, byte for byte, in all logs of a group and
over all restarts; and the entry before it is the same in all of them, too."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

from unimeter.core.raft.messages import Entry
from unimeter.core.raft.raft import Raft
from unimeter.sim.host import Host
from unimeter.sim.invariant import Invariant

if TYPE_CHECKING:
    from unimeter.sim.runner import Run


class Check(Invariant):
    sentence = "For all logs of a group, equal index and term always mean equal bytes, and equal entries before them."
    canary = "alters_an_entry_on_its_way"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._entries: dict[tuple[int, int, int], tuple[int, int]] = {}  # (group, index, term) -> crc, term before
        self._seen: dict[tuple[str, int], dict[int, int]] = {}  # (host, group) -> index -> term, as last looked at

    def moved(self, host: Host, group: int, raft: Raft, fresh: bool) -> None:
        log, key = raft.log, (host.name, group)
        if fresh:
            self._seen[key] = {}
        seen, index = self._seen[key], log.last_index
        while index > 0:
            entry = log.entry(index)
            if entry is None or seen.get(index) == entry.term:
                return  # from here on it is known: this log has been looked at
            seen[index] = entry.term
            self._look(host, group, entry, log.term(index - 1))
            index -= 1

    def _look(self, host: Host, group: int, entry: Entry, before: int) -> None:
        found = (crc32(entry.data), before)
        known = self._entries.setdefault((group, entry.index, entry.term), found)
        if not self.holds(known == found):
            self.fail(
                f"group {group}, index {entry.index}, term {entry.term}: {host.name} has an entry with checksum {found[0]:08x} "
                f"after term {found[1]}, elsewhere it has {known[0]:08x} after {known[1]}"
            )
