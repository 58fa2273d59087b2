"""Who runs the cluster: adds machines, removes them, and hands leadership over, one thing at a time.

A machine is started when the cluster knows of it, and switched off when the cluster needs it no more: both are seen from the
answers alone, as an operator would.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgpack

from unimeter.sim import wire2
from unimeter.sim.behaviours import Base, Part
from unimeter.sim.cluster import Cluster
from unimeter.sim.host import Host
from unimeter.sim.line import AnyResponse
from unimeter.sim.places import Places
from unimeter.sim.requests import ACKED, Control, Request

REFUSALS_MAX: Final = 200  # of one removal, until it is said to be impossible


class Operator(Base):
    """Finished while it has nothing to do."""

    def __init__(
        self, part: Part, cluster: Cluster, places: Places, boot: Callable[[Host], None], stop: Callable[[Host], None]
    ) -> None:
        super().__init__(part)
        self.cluster = cluster
        self._places = places  # clients hear of nodes that come and go
        self.done: dict[str, int] = {}  # operation -> how often it was carried out
        self.wake: Callable[[], None] = lambda: None  # its client has something to send again
        self._boot = boot
        self._stop = stop
        self._wanted: dict[str, Any] | None = None
        self._host: Host | None = None
        self._leaving: Host | None = None  # removed, and not switched off yet
        self._asked = False

    @property
    def finished(self) -> bool:
        return self._wanted is None and self._leaving is None

    def hurry(self, budget: int) -> None:
        """What was begun is brought to its end."""

    # ---- what it is told to do ----

    def add(self, host: Host) -> bool:
        member = host.setup.config.members[-1]
        body = {"op": "add", "id": member.node_id, "address": member.client_address, "peer": member.peer_address}
        return self._begin(body, host)

    def remove(self, host: Host) -> bool:
        return self._begin({"op": "remove", "id": host.setup.config.node_id}, host)

    def drain(self, host: Host) -> bool:
        return self._begin({"op": "drain", "id": host.setup.config.node_id}, host)

    def transfer(self, group: int, host: Host) -> bool:
        return self._begin({"op": "transfer", "group": group, "to": host.setup.config.node_id}, host)

    def _begin(self, body: dict[str, Any], host: Host) -> bool:
        if not self.finished:
            return False
        self._wanted, self._host = body, host
        self.wake()
        return True

    # ---- what it asks ----

    def next(self, now_ns: int) -> Request | None:
        if self._asked:
            return None
        if self._wanted is not None:
            body = self._wanted
        elif self._leaving is not None:
            body = {"op": "status"}
        else:
            return None
        self._asked = True
        return Control(self.number(), self.name, 2, [], type=wire2.CLUSTER, body=body)

    def answered(self, request: Request, response: AnyResponse) -> str:
        assert isinstance(request, Control)
        self._asked = False
        if request.body["op"] == "status":
            self._look(msgpack.unpackb(response.payload))
            return ACKED
        op, host = request.body["op"], self._host
        assert host is not None
        self._wanted = None
        self.done[op] = self.done.get(op, 0) + 1
        if op == "add":
            if host in self.cluster.drained:
                self.cluster.drained.remove(host)  # it left, and comes anew
            self.cluster.members.append(host)
            self._places.addresses.append(host.setup.config.advertise)
            self._boot(host)
        elif op == "transfer":
            self.cluster.moved_by_hand = True
        elif op == "drain" and host not in self.cluster.drained:
            self.cluster.drained.append(host)
        elif op == "remove":
            self._leaving = host
            self._places.addresses.remove(host.setup.config.advertise)
        return ACKED

    def _look(self, status: dict[str, Any]) -> None:
        """Is the one that leaves out?"""
        host = self._leaving
        assert host is not None
        here = [node for node in status["nodes"] if node["id"] == host.setup.config.node_id]
        if not here or here[0]["state"] == "removed" or here[0]["holds"] == 0:
            self.cluster.members.remove(host)
            self._leaving = None
            self._stop(host)

    def lost(self, request: Request) -> None:
        """Refused: it is not possible now."""
        self._asked = False
        if isinstance(request, Control) and request.body["op"] != "status":
            self._wanted = None
