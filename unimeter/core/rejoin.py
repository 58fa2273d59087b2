"""A node whose data must not be believed: how it becomes a sound replica again.

It has found a record that it cannot read though it had been durable, or was told that its state differs from everybody
else's. What it had promised may be in what it cannot read, so as that replica it never votes, leads or acknowledges
again. But it does not throw anything away as long as its fellows might need it:

    wait    until every group has had a leader for a while. A leader has a quorum behind it, and this node is not
            in that quorum: so everything that was acknowledged is with the others
    empty   delete everything, having written down first that this has begun
    begin   as a new replica of the same cluster, which the coordinator takes in

If some group finds no leader without this node, its data may be the only copy of something: then it waits, and says so,
for ever if must be. That is a matter for the operator and a backup.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from unimeter.config import NodeConfig
from unimeter.core import identity
from unimeter.core.flow import DeleteFile, Flow, WriteFile
from unimeter.core.flows import Flows
from unimeter.core.founding import Founding
from unimeter.core.peers import NEVER_NS, Peer
from unimeter.core.prng import Prng
from unimeter.core.recovery import Unusable
from unimeter.kernels.api import Kernels


class Rejoin:
    def __init__(
        self,
        kernels: Kernels,
        config: NodeConfig,
        found: Unusable,
        flows: Flows,
        prng: Prng,
        notice: Callable[[str], None],
        begin_anew: Callable[[Founding, int], None],
    ) -> None:
        self._kernels = kernels
        self._config = config
        self._found = found
        self._flows = flows
        self._prng = prng
        self._notice = notice
        self._begin_anew = begin_anew
        self._led: dict[int, tuple[int, int]] = {}  # group -> (term, when its leader was heard of last)
        self._led_since_ns: int | None = None
        self._now_ns = 0
        self._emptying = False
        notice(
            f"this node's data cannot be believed ({found.why}). It will not serve; it is kept until every group has a leader "
            "without this node, and then fetched anew from the others"
        )

    @property
    def progress(self) -> str:
        if self._emptying:
            return "deleting data that cannot be believed"
        missing = [str(g) for g in range(self._found.founding.group_count) if g not in self._led]
        if missing:
            return (
                f"its data cannot be believed; waiting for a leader of group {', '.join(missing)} among the other nodes"
            )
        return "its data cannot be believed; waiting to be sure that the others do without it"

    def gossiped(self, peer: Peer, body: dict[str, Any]) -> None:
        """What a peer says that it leads."""
        if peer.cluster_id == self._found.identity.cluster_id:
            for lead in body.get("leads", []):
                self._led[lead[0]] = (lead[1], self._now_ns)

    def turn(self, now_ns: int) -> int:
        """Returns when to come again."""
        self._now_ns = now_ns
        if self._emptying:
            return NEVER_NS
        patience_ns = self._config.election_max_ns
        recent = all(
            now_ns - self._led.get(group, (0, -(2**62)))[1] <= patience_ns
            for group in range(self._found.founding.group_count)
        )
        if not recent:
            self._led_since_ns = None
        elif self._led_since_ns is None:
            self._led_since_ns = now_ns
        if self._found.emptying or (recent and now_ns - (self._led_since_ns or now_ns) >= 2 * patience_ns):
            self._emptying = True
            self._notice("the other nodes do without this one: deleting its data, to come back as a new replica")
            self._flows.start(self._empty(), self._emptied, lambda: None)
            return NEVER_NS
        return now_ns + self._config.gossip_ns

    def _empty(self) -> Flow[None]:
        marked = replace(self._found.identity, state=identity.EMPTYING)
        yield WriteFile(identity.FILE, 0, marked.encode(self._kernels))
        for file in self._found.files:
            if file not in (identity.FILE, identity.FOUNDING_FILE):
                yield DeleteFile(file)

    def _emptied(self, _: None) -> None:
        self._begin_anew(self._found.founding, 1 + self._prng.below(2**63))
