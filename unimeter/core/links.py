"""The links of clients: who is connected, who is on the way out, who wants alerts or news of the topology.

A link that broke the protocol, or whose peer has ended its side of the stream, is not closed at once: nothing more is
taken from it, but what it had asked properly before is still answered, and only then it is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from unimeter.core.outbox import Outbox
from unimeter.core.subscriptions import Subscriptions
from unimeter.kernels.api import Bytes, GroupState
from unimeter.kernels.frame import Reply


class Mark(NamedTuple):
    """How far everything must be for all that was asked before to be answered."""

    indexes: tuple[int, ...]  # applied, of each group
    bundle: int  # forwarded bundles up to this token have their answers


class Links:
    """Open links by number. Sending to a link that is gone is fine: the bytes are lost, as on a wire."""

    def __init__(self, out: Outbox, alerts_per_turn_max: int) -> None:
        self._out = out
        self._open: set[int] = set()
        self._leaving: dict[int, Mark] = {}  # link -> what it still waits for
        self._asked: dict[int, int] = {}  # link -> control requests (reads, too) that have no answer yet
        self._watchers: dict[int, int] = {}  # link -> protocol in which it is told when leaders change
        self.subscriptions = Subscriptions(alerts_per_turn_max)

    def __len__(self) -> int:
        return len(self._open)

    @property
    def leaving(self) -> bool:
        """Does anybody wait for its last answers?"""
        return bool(self._leaving)

    def opened(self, link: int) -> None:
        self._open.add(link)

    def dropped(self, link: int) -> None:
        self._open.discard(link)
        self._leaving.pop(link, None)
        self._asked.pop(link, None)
        self._watchers.pop(link, None)
        self.subscriptions.remove(link)

    def listening(self, link: int) -> bool:
        """Is anything that comes from this link to be looked at?"""
        return link in self._open and link not in self._leaving

    def send(self, link: int, data: Bytes) -> None:
        if link in self._open:
            self._out.send(link, data)

    def asked(self, link: int) -> None:
        """A control request arrived; `answer_asked` will be called once for it."""
        self._asked[link] = self._asked.get(link, 0) + 1

    def answer_asked(self, link: int, data: Bytes) -> None:
        if link in self._asked:
            self._asked[link] -= 1
        self.send(link, data)

    def answer(self, replies: list[Reply]) -> None:
        for reply in replies:
            self.send(reply.link, reply.data)

    def hang_up(self, link: int, mark: Mark) -> None:
        """Take no more from the link; close it once everything is past the mark and no answer is missing."""
        self._leaving[link] = mark

    def close_leaving(self, past: Callable[[Mark], bool]) -> None:
        if not self._leaving:
            return
        for link in [link for link, mark in self._leaving.items() if past(mark)]:
            if not self._asked.get(link):
                self._out.close(link)
                self.dropped(link)

    def close_all(self) -> None:
        """Hang up on everybody at once: who asked something will ask elsewhere."""
        for link in sorted(self._open):
            self._out.close(link)
            self.dropped(link)

    def watch(self, link: int, protocol: int) -> None:
        """Tell this link, in its protocol, when leaders change."""
        self._watchers[link] = protocol

    def tell_watchers(self, pushes: Callable[[int], bytes]) -> None:
        """`pushes(protocol)`: the frame that says so."""
        frames: dict[int, bytes] = {}
        for link, protocol in self._watchers.items():
            if protocol not in frames:
                frames[protocol] = pushes(protocol)
            self.send(link, frames[protocol])

    def push_alerts(self, group: int, state: GroupState, alert_next: int) -> bool:
        """Send new alerts to their subscribers. True: there are more than one turn may send."""
        if not self.subscriptions:
            return False
        for link, data in self.subscriptions.due(group, state, alert_next):
            self.send(link, data)
        return self.subscriptions.behind(group, alert_next)
