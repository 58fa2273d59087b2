"""One connection of a client to one node: which requests went over it, and which were answered.

A client of a cluster has a line to every node that it talks to. Ids are a line's own, and so is the memory of what was
sent on it: a second answer to an id, or an answer to none, is a fault of the node.
"""

from __future__ import annotations

from typing import Protocol

from unimeter.kernels.api import Kernels
from unimeter.sim import codec, wire1, wire2
from unimeter.sim.network import End, Network
from unimeter.sim.requests import Request

AnyResponse = wire1.Response | wire2.Response


class Owner(Protocol):
    """The client at the near end."""

    name: str

    def line_opened(self, line: Line) -> None: ...
    def line_refused(self, line: Line) -> None: ...
    def line_lost(self, line: Line) -> None: ...
    def line_garbled(self, line: Line, why: str) -> None: ...
    def line_answered(self, line: Line, response: AnyResponse, request: Request | None) -> None:
        """`request` is None when no request of this line waits for the answer."""


class Line:
    def __init__(self, owner: Owner, address: str, protocol: int, network: Network, kernels: Kernels) -> None:
        self.address = address
        self.up = False
        self._owner = owner
        self._protocol = protocol
        self._network = network
        self._kernels = kernels
        self._end: End | None = None
        self.connecting = False
        self._buffer = bytearray()
        self._next_id = 1
        self._corked: bytearray | None = None  # what is sent is gathered here, until it is let go
        self._by_id: dict[int, Request] = {}  # not answered yet

    @property
    def link(self) -> int:
        return 0 if self._end is None else self._end.link

    def waiting(self) -> bool:
        return bool(self._by_id)

    def open(self) -> None:
        if not self.connecting and not self.up:
            self.connecting = True
            self._network.connect(self.address, self._owner.name, self._opened, self._refused)

    def send(self, request: Request) -> None:
        assert self._end is not None
        request_id, self._next_id = self._next_id, self._next_id + 1
        self._by_id[request_id] = request
        data = codec.encode(self._kernels, request, request_id)
        if self._corked is None:
            self._network.send(self._end, data)
        else:
            self._corked += data

    def cork(self) -> None:
        """What is sent from now on leaves as one piece."""
        self._corked = bytearray()

    def uncork(self) -> None:
        data, self._corked = self._corked, None
        if data and self._end is not None:
            self._network.send(self._end, data)

    def leave(self, half_open: bool) -> None:
        """Give the connection up: break it, or forget it while what was sent may still arrive."""
        end, self._end, self.up = self._end, None, False
        self._by_id.clear()
        if end is not None:
            if half_open:
                self._network.half_open(end)
            else:
                self._network.cut(end)

    def close(self) -> None:
        if self._end is not None:
            self._network.close(self._end)
            self._end, self.up = None, False
            self._by_id.clear()

    # ---- what the network says ----

    def _opened(self, end: End) -> None:
        self.connecting = False
        self._end, self.up = end, True
        end.on_bytes = self._on_bytes
        end.on_close = self._on_close
        self._buffer.clear()
        self._by_id.clear()
        self._owner.line_opened(self)

    def _refused(self) -> None:
        self.connecting = False
        self._owner.line_refused(self)

    def _on_close(self, end: End) -> None:
        if end is self._end:
            self._end, self.up = None, False
            self._by_id.clear()
            self._owner.line_lost(self)

    def _is_current(self, end: End) -> bool:
        """Asked anew each time: whoever is told of an answer may close the connection."""
        return end is self._end

    def _on_bytes(self, end: End, data: bytes) -> None:
        if not self._is_current(end):
            return
        self._buffer += data
        try:
            if self._protocol == 2:
                for response in wire2.responses(self._kernels, self._buffer):
                    if not self._is_current(end):
                        return  # closed by what came before
                    self._owner.line_answered(self, response, self._by_id.pop(response.request_id, None))
            else:
                for answer in wire1.responses(self._buffer):
                    if not self._is_current(end):
                        return
                    self._owner.line_answered(self, answer, self._by_id.pop(answer.request_id, None))
        except ValueError as error:
            self._owner.line_garbled(self, str(error))
