"""Who wants to be told of alerts: links with a cursor for each group. At-least-once: a subscriber that reconnects with
the last numbers it saw misses nothing, since alerts are part of the replicated state and are numbered per group.

A node pushes the alerts of every group that it holds a replica of, whether it leads it or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from unimeter.kernels.api import Alert, GroupState

Encode = Callable[[int, Alert], bytes]  # (group, alert) as a frame


class Subscriptions:
    def __init__(self, alerts_per_turn_max: int) -> None:
        self._bound = alerts_per_turn_max
        self._subscribers: dict[
            int, tuple[dict[int, int], Encode]
        ] = {}  # link -> (group -> last number pushed, encoder)

    def add(self, link: int, since: Mapping[int, int], encode: Encode) -> None:
        """Push alerts of these groups, numbered above what each is given with, to the link from now on."""
        self._subscribers[link] = (dict(since), encode)

    def remove(self, link: int) -> None:
        self._subscribers.pop(link, None)

    def due(self, group: int, state: GroupState, alert_next: int) -> Iterator[tuple[int, bytes]]:
        """(link, frames) to send now, a bounded number of alerts per link."""
        for link, (cursors, encode) in self._subscribers.items():
            if cursors.get(group, alert_next) + 1 >= alert_next:
                continue
            alerts = state.alerts(cursors[group], None, self._bound)
            if alerts:
                cursors[group] = alerts[-1].number
                yield link, b"".join(encode(group, alert) for alert in alerts)

    def __len__(self) -> int:
        return len(self._subscribers)

    def behind(self, group: int, alert_next: int) -> bool:
        return any(cursors.get(group, alert_next) + 1 < alert_next for cursors, _ in self._subscribers.values())
