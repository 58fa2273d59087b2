"""Asking another node: a request for a group that it leads, and its answer.

Clients' control requests that concern all groups (metrics, alerts of everybody) and the coordinator's orders travel
like this. A call is answered once: by the other node, or by Refused when the link breaks, when nobody leads, or when
CALL_NS have passed. Everything that is called may be called again: it changes nothing the second time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from unimeter.config import SECOND_NS
from unimeter.core import peer_wire
from unimeter.core.once import Once
from unimeter.core.peers import NEVER_NS, Peer, Peers
from unimeter.core.refusal import Refused, no_leader
from unimeter.core.topology import Topology

CALL_NS: Final = 10 * SECOND_NS
CALLS_MAX: Final = 4096  # without an answer

Answer = dict[str, Any]
Done = Callable[[Answer | Refused], None]
Serve = Callable[[str, int, dict[str, Any], Done], None]  # (what, group, body, done); may raise Refused


@dataclass
class Call:
    link: int
    until_ns: int
    done: Done


class Calls:
    def __init__(self, peers: Peers, topology: Topology, serve: Serve) -> None:
        self._peers = peers
        self._topology = topology
        self._serve = serve
        self._calls: dict[int, Call] = {}
        self._next = 1
        self._once = Once()

    def ask(self, now_ns: int, group: int, what: str, body: dict[str, Any], done: Done) -> None:
        """Have the group's leader, this node or another, do something."""
        leader = self._topology.leader(group)
        if leader == self._topology.node_id:
            self._serve_own(what, group, body, done)
            return
        peer = self._peers.of_node(leader) if leader else None
        if peer is None:
            done(no_leader(group))
        elif len(self._calls) >= CALLS_MAX:
            done(Refused("overloaded", "too many requests wait for other nodes", "try again shortly"))
        else:
            number, self._next = self._next, self._next + 1
            self._calls[number] = Call(peer.link, now_ns + CALL_NS, done)
            self._peers.send_map(
                peer, peer_wire.CALL, {"call": number, "group": group, "what": what, "body": body}
            )  # fmt: skip

    def _serve_own(self, what: str, group: int, body: dict[str, Any], done: Done) -> None:
        try:
            self._serve(what, group, body, done)
        except Refused as refusal:
            done(refusal.with_traceback(None))

    def called(self, peer: Peer, body: dict[str, Any]) -> None:
        """A CALL frame."""
        number, group, what = body["call"], body["group"], body["what"]
        if not self._once.is_new(peer.link, number):
            return

        def done(answer: Answer | Refused) -> None:
            if isinstance(answer, Refused):
                told = {"call": number, "refused": [answer.code, answer.message, answer.fix]}
            else:
                told = {"call": number, "answer": answer}
            if self._peers.holds(peer.link):
                self._peers.send_map(peer, peer_wire.RETURN, told)

        self._serve_own(what, group, body["body"], done)

    def returned(self, body: dict[str, Any]) -> None:
        """A RETURN frame; one that comes after its time is of no interest."""
        call = self._calls.pop(body["call"], None)
        if call is not None:
            refused = body.get("refused")
            call.done(body["answer"] if refused is None else Refused(*refused))

    def link_lost(self, link: int) -> None:
        self._once.forget(link)
        self._end([n for n, call in self._calls.items() if call.link == link], "the node that was asked is gone")

    def turn(self, now_ns: int) -> int:
        """Returns when to come again."""
        self._end(
            [n for n, call in self._calls.items() if call.until_ns <= now_ns], "the node that was asked is silent"
        )
        return min((call.until_ns for call in self._calls.values()), default=NEVER_NS)

    def _end(self, numbers: list[int], why: str) -> None:
        for number in numbers:
            self._calls.pop(number).done(Refused("leader_changed", why, "send the same again"))
