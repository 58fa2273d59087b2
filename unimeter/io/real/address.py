"""Addresses as people write them, and sockets bound to them.

A port is bound long before anybody is listened to: that it is taken is found out before a recovery that may
take long. What a connection inherits from the socket that accepts it (no delay, keep-alive) is set here once.
"""

from __future__ import annotations

import socket
from typing import NamedTuple

KEEPALIVE_SECONDS = (60, 15, 4)  # clients: idle before the first probe, between probes, probes unanswered
PEER_KEEPALIVE_SECONDS = (2, 1, 3)
PEER_UNANSWERED_MS_MAX = 5_000  # bytes to a peer that nobody acknowledges for so long end the link


class Address(NamedTuple):
    """Where to listen or connect; printed as host:port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """host:port, [v6 address]:port or :port (this machine only). ValueError says what is wrong."""
        host, colon, port = text.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"{text!r}: write HOST:PORT, for example 127.0.0.1:7001")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"{text!r}: put an IPv6 address in brackets, for example [::1]:7001")
        return cls(host or "127.0.0.1", int(port))

    def resolved(self) -> Address:
        """With a numeric host. OSError when the name means nothing."""
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        found.sort(key=lambda entry: entry[0] != socket.AF_INET)
        return Address(str(found[0][4][0]), self.port)

    def reachable(self) -> Address:
        """What to tell others: an address that means "every interface" is replaced by this machine's own."""
        if self.host not in ("0.0.0.0", "::"):
            return self
        try:
            own = socket.gethostbyname(socket.gethostname())
        except OSError:
            own = "127.0.0.1"
        return Address(own, self.port)


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet. OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_alive(bound, KEEPALIVE_SECONDS)
        bound.bind((host, port))
        bound.setblocking(False)
    except BaseException:
        bound.close()
        raise
    return bound


def keep_alive(sock: socket.socket, seconds: tuple[int, int, int]) -> None:
    """Notice a silent end of the other side on an idle connection."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in zip(("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"), seconds, strict=True):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def as_peer(sock: socket.socket) -> None:
    """Options of a connection between nodes: no delay, and a peer that vanished is noticed within seconds."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    keep_alive(sock, PEER_KEEPALIVE_SECONDS)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, PEER_UNANSWERED_MS_MAX)
