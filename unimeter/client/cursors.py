"""How far somebody has read the alerts: one number per group, because each group numbers its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from unimeter.client.results import Alert
from unimeter.errors import InvalidArgument

Since = int | Sequence[int] | Mapping[int, int]


def cursors(since: Since, groups: int) -> list[int]:
    """One number per group: the same for all, one each from a list, or those that a mapping names and 0."""
    if isinstance(since, int):
        found = [since] * groups
    elif isinstance(since, Mapping):
        if not all(group in range(groups) for group in since):
            raise InvalidArgument(f"since names a group that there is not: {since!r}; groups are 0..{groups - 1}")
        found = [since.get(group, 0) for group in range(groups)]
    else:
        found = list(since)
        if len(found) != groups:
            raise InvalidArgument(f"since has {len(found)} numbers; there are {groups} groups")
    if not all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in found):
        raise InvalidArgument(f"since is a number of an alert, or one for each group, not {since!r}")
    return found


def merge(lists: Iterable[Sequence[Alert]], limit: int | None) -> list[Alert]:
    """The alerts of several groups by their time. Of each group it is a beginning, also when `limit` cuts: so the
    last number of each is a cursor. (Within a group times grow with the numbers.)"""
    every = sorted(
        (alert for alerts in lists for alert in alerts),
        key=lambda alert: (alert.triggered_at, alert.group, alert.number),
    )
    return every if limit is None else every[:limit]
