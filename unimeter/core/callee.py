"""What a group's leader does when it is called (calls.py): by another node, for a client of that one or as the coordinator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unimeter.core.calls import Done
from unimeter.core.catalog_sync import CatalogSync
from unimeter.core.coordinator import Coordinator
from unimeter.core.group import Group
from unimeter.core.moves import Moves
from unimeter.core.refusal import Refused
from unimeter.core.sealed import LEADER_CHANGED
from unimeter.core.service import GroupAlert, Service


class Callee:
    def __init__(
        self,
        groups: list[Group],
        service: Service,
        catalogs: CatalogSync,
        moves: Moves,
        coordinator: Coordinator,
        now_ns: Callable[[], int],
    ) -> None:
        self._groups = groups
        self._now_ns = now_ns
        self._service = service
        self._moves = moves
        self._what: dict[str, Callable[[Group, dict[str, Any], Done], None]] = {
            "catalog": lambda _, body, done: catalogs.change(body["body"], done),
            "follow": lambda group, body, done: catalogs.follow(group.number, body["body"], done),
            "metrics": lambda _group, _body, done: service.own_metrics(done),
            "alerts": self._alerts,
            "cluster": lambda _, body, done: coordinator.operate(now_ns(), body, done),
            "move": lambda group, body, done: moves.order(group, body["remove"], body["add"], done),
            "transfer": lambda group, body, done: moves.transfer(now_ns(), group, body["to"], done),
        }

    def serve(self, what: str, number: int, body: dict[str, Any], done: Done) -> None:
        """Do it, for a group that this node leads. Raises Refused."""
        if not 0 <= number < len(self._groups):
            raise Refused("bad_request", f"there is no group {number}", "ask hello for the number of groups")
        if not self._groups[number].leading:
            raise LEADER_CHANGED.with_traceback(None)  # it is shared: it must not hold on to who raised it before
        handler = self._what.get(what)
        if handler is None:
            raise Refused("unsupported", f"this node does not know {what!r}", "upgrade it")
        handler(self._groups[number], body, done)

    def _alerts(self, group: Group, body: dict[str, Any], done: Done) -> None:
        def finish(found: list[GroupAlert] | Refused) -> None:
            done(found if isinstance(found, Refused) else {"alerts": [list(alert) for _, alert in found]})

        self._service.own_alerts(group.number, body["since"], None, body["limit"], finish)
