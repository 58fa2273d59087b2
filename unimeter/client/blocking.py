"""A connection that a thread waits on by itself: no event loop, no other thread.

It knows one thing, to ask once. Whatever does not go as usual ends it, and is for the loop's way to sort out.

Every system call gives up the interpreter's lock, and with many threads it is then somebody else's for a while. So there are
two for a request, one that sends and one that receives: the machine's kernel watches the time (SO_RCVTIMEO,
SO_SNDTIMEO), where `settimeout` would call poll() before each.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import time

from unimeter.client.link import LinkLost, hello, parse_address
from unimeter.client.protocol import Protocol, Response, Status
from unimeter.errors import ConnectionFailed, ProtocolError
from unimeter.kernels.api import Kernels

RECEIVE_BYTES = 16_384
TIMEVAL = struct.Struct("@ll")  # seconds, microseconds


class BlockingLink:
    """It is `clean` while nothing is owed on it; after any exception it is not, and of no use any more."""

    def __init__(self, kernels: Kernels, address: str) -> None:
        self.address = address
        self.clean = False
        self._kernels = kernels
        self._protocol = Protocol(kernels)
        self._socket: socket.socket | None = None
        self._timeout: float | None = None

    def connect(self, request_id: int, seconds: float) -> None:
        """With its handshake. LinkLost: not in time, or refused."""
        try:
            self._socket = socket.create_connection(parse_address(self.address), timeout=seconds)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.settimeout(None)
        except OSError as error:
            raise LinkLost(self.address, error) from None
        if self.ask(request_id, hello(self._kernels, request_id), seconds).status != Status.OK:
            self.clean = False
            raise LinkLost(self.address, ConnectionFailed("the handshake was refused"))

    def ask(self, request_id: int, frame: bytes, seconds: float) -> Response:
        """One request and its answer. LinkLost: there was none in time, or the connection broke; `frame` may have
        arrived all the same."""
        self.send(frame, seconds)
        found: dict[int, Response] = {}
        self.receive({request_id}, found, seconds)
        return found[request_id]

    def send(self, frames: bytes, seconds: float) -> None:
        """One request or several. LinkLost: some of it may have arrived."""
        assert self._socket is not None
        self.clean = False
        try:
            self._wait_at_most(self._socket, seconds)
            self._socket.sendall(frames)
        except OSError as error:  # out of time: a TimeoutError or BlockingIOError
            raise LinkLost(self.address, error) from None

    def receive(self, request_ids: set[int], found: dict[int, Response], seconds: float) -> None:
        """Until all of these have their answers in `found`. LinkLost: some are missing."""
        assert self._socket is not None
        until = time.monotonic() + seconds
        try:
            self._wait_at_most(self._socket, seconds)
            while True:
                data = self._socket.recv(RECEIVE_BYTES)
                if not data:
                    raise LinkLost(self.address, None)
                for answer in self._protocol.receive(data):
                    found[answer.request_id] = answer
                if request_ids <= found.keys():
                    self.clean = True
                    return
                self._wait_at_most(self._socket, until - time.monotonic())
        except (OSError, ProtocolError) as error:
            raise LinkLost(self.address, error) from None

    def _wait_at_most(self, connection: socket.socket, seconds: float) -> None:
        """For each call that sends or receives; mostly it is what it was, and costs no system call."""
        if seconds == self._timeout:
            return
        if seconds <= 0:
            raise TimeoutError
        if sys.platform == "win32":
            connection.settimeout(seconds)
        else:
            limit = TIMEVAL.pack(*divmod(max(1, int(seconds * 1e6)), 1_000_000))  # 0 would be for ever
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._timeout = seconds

    def shut(self) -> None:
        """From another thread: whoever waits for an answer has lost the connection."""
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it is not connected any more
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
