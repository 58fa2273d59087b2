"""Who wants to be told of alerts: links with a cursor. At-least-once: a subscriber that reconnects with the last
number it saw misses nothing, since alerts are part of the replicated state and are numbered per group."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from unimeter.kernels.api import Alert, GroupState


class Subscriptions:
    def __init__(self, alerts_per_turn_max: int) -> None:
        self._bound = alerts_per_turn_max
        self._cursors: dict[int, tuple[int, Callable[[Alert], bytes]]] = {}  # link -> (last number pushed, encoder)

    def add(self, link: int, since: int, encode: Callable[[Alert], bytes]) -> None:
        """Push alerts numbered above `since` to the link from now on."""
        self._cursors[link] = (since, encode)

    def remove(self, link: int) -> None:
        self._cursors.pop(link, None)

    def due(self, state: GroupState, alert_next: int) -> Iterator[tuple[int, bytes]]:
        """(link, frames) to send now, a bounded number of alerts per link."""
        for link, (cursor, encode) in list(self._cursors.items()):
            if cursor + 1 >= alert_next:
                continue
            alerts = state.alerts(cursor, None, self._bound)
            if alerts:
                self._cursors[link] = (alerts[-1].number, encode)
                yield link, b"".join(encode(alert) for alert in alerts)

    def __len__(self) -> int:
        return len(self._cursors)

    def behind(self, alert_next: int) -> bool:
        return any(cursor + 1 < alert_next for cursor, _ in self._cursors.values())
