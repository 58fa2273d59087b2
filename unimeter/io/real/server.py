"""A node as a process: disk, network, clock, admin port and signals, put together around the driver.

A life, in order:

    lock the directory  >  bind the ports  >  boot: recover  >  listen  >  "ready" on stdout  >  serve
    SIGTERM or SIGINT   >  stop listening, drain, last checkpoint  >  close links  >  exit 0

What is likely to be wrong (directory in use, port taken) is found before a recovery that may take long; no client
can connect before the node can answer. Peers can, from the boot on: a new cluster is founded, and a replica that
is behind catches up, before there is anything to serve. The line beginning `ready` is the only thing on stdout.

Exit codes: 0 stopped as asked; 1 halted, or could not start; 2 wrong usage; 3 the directory is another process's.

A halt ends the process at once, after its reason is on stderr: what was acknowledged is on disk, and what was
not may be retried. The same happens when the node's own code raises: a state that a bug has been at is not
served from. Stopping has DRAIN_SECONDS_MAX; a second signal does not wait.

Memory: on the hot path nothing is cyclic, so reference counts free it. After the start everything that exists
is moved out of the cyclic collector's sight (`gc.freeze`) and collections become rare: measured, a full one took
30 ms before that, and as long again with 8,000 connections open. Rare, not never: what little is cyclic
(errors with their tracebacks) must not pile up over months.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn

import uvloop

from unimeter import kernels
from unimeter.config import MIB
from unimeter.core.effects import Apply, Touch
from unimeter.core.node import Node
from unimeter.io.driver import Driver
from unimeter.io.real._sysio import lib
from unimeter.io.real.address import Address, bind
from unimeter.io.real.admin import Admin, Snapshot
from unimeter.io.real.clock import RealClock
from unimeter.io.real.disk import DataDirectoryError, DataDirectoryLocked, RealDisk
from unimeter.io.real.network import LINGER_SECONDS, PEER_LINKS_MAX, RealNetwork
from unimeter.io.real.options import EXIT_FAILED, EXIT_LOCKED, ServerOptions, StartError

DRAIN_SECONDS_MAX = 60.0
PROGRESS_SECONDS = 1.0  # how often a start says how far it is ...
PROGRESS_SAME_SECONDS = 10.0  # ... and when it says the same as before
READY_POLL_SECONDS = 0.005
NOTICES_POLL_SECONDS = 0.2
COMPLAINT_SECONDS = 1.0
FILES_RESERVED = 64  # descriptors that are not connections
# requests, records and messages are blocks of some 10 KB to some MB; zeroing their pages again and again was a quarter of
# the work of three nodes
HEAP_BLOCK_BYTES = 32 * MIB  # the most that glibc takes
HEAP_SPARE_BYTES = 64 * MIB
GC_THRESHOLDS = (50_000, 20, 100)


def say(line: str) -> None:
    """A line for people. Whoever reads stderr may be gone."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def die(message: str, exit_code: int = EXIT_FAILED) -> NoReturn:
    say(message)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(exit_code)


class Server:
    """One node process. `run` blocks until it stops; `interface.Process` for the driver."""

    def __init__(self, options: ServerOptions, on_ready: Callable[[], None] = lambda: None) -> None:
        """Takes the directory and the ports; StartError when it cannot."""
        self._started = time.monotonic()
        self._on_ready = on_ready
        lib.um_sys_keep_memory(HEAP_BLOCK_BYTES, HEAP_SPARE_BYTES)
        self._options = options
        self._loop = uvloop.new_event_loop()
        self._exit_code = 0
        self._stopping = False
        self._halted = False
        self._complained = 0.0
        self._wanted_indexes: dict[int, int] = {}  # by group
        self._disk = self._open_disk(options.data_dir)
        try:
            self._assemble(options)
        except BaseException:
            self._disk.close()
            raise

    def _assemble(self, options: ServerOptions) -> None:
        self._bound = self._bind(options.listen, "--listen")
        self._peers_bound = None if options.peer_listen is None else self._bind(options.peer_listen, "--peer-listen")
        self.address = Address(options.listen.host, self._bound.getsockname()[1])
        config = options.node_config(self.address)
        if not options.members and options.advertise is None and config.advertise != str(self.address):
            say(f"telling clients to connect to {config.advertise}; say --advertise HOST:PORT if that is wrong")
        self._network = RealNetwork(self._loop, config, self._links_max(config.links_max, bool(config.members)))
        self._clock = RealClock(self._loop, self._network.together)
        self._disk.beside(self._network)
        implementation = kernels.load()
        seed = int.from_bytes(os.urandom(8), "little")
        self._node = Node(config, implementation, None, seed)
        self._driver = Driver(self._node, self._clock, self._disk, self._network, self, implementation, config)
        self._network.events = self._driver
        self._admin = self._open_admin(options.admin)

    def _open_disk(self, directory: Path) -> RealDisk:
        try:
            return RealDisk(directory, self._loop)
        except DataDirectoryLocked as error:
            raise StartError(str(error), EXIT_LOCKED) from error
        except DataDirectoryError as error:
            raise StartError(str(error)) from error

    def _bind(self, address: Address, option: str) -> Any:
        try:
            return bind(address.host, address.port)
        except OSError as error:
            raise StartError(
                f"cannot listen on {address}: {error.strerror}; "
                f"stop what uses it, or choose another with {option} HOST:PORT"
            ) from error

    def _open_admin(self, address: Address | None) -> Admin | None:
        if address is None:
            return None
        try:
            return Admin(address.host, address.port, self._loop, self._snapshot)
        except OSError as error:
            raise StartError(
                f"cannot listen on {address}: {error.strerror}; "
                "choose another admin port with --admin HOST:PORT, or none with --admin off"
            ) from error

    @staticmethod
    def _links_max(wanted: int, peers: bool) -> int:
        """Raise this process's limit of open files, and stay below it."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        reserved = FILES_RESERVED + (PEER_LINKS_MAX if peers else 0)
        need = wanted + reserved
        if soft != resource.RLIM_INFINITY and soft < need:
            soft = need if hard == resource.RLIM_INFINITY else min(need, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        possible = wanted if soft == resource.RLIM_INFINITY else max(1, soft - reserved)
        if possible < wanted:
            say(f"at most {possible} connections: this process may open {soft} files (ulimit -n)")
        return min(wanted, possible)

    # ---- life ----

    def run(self) -> int:
        """Serve until stopped; the exit code."""
        loop = self._loop
        loop.set_exception_handler(self._uncaught)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        if self._admin is not None:
            self._admin.start()
        loop.call_soon(self._boot)
        try:
            loop.run_forever()
        finally:
            if self._admin is not None:
                self._admin.stop()
            self._disk.close()
            loop.close()
        return self._exit_code

    def _boot(self) -> None:
        try:
            self._driver.boot()
        except DataDirectoryError as error:
            die(f"error: {error}")
        if self._peers_bound is not None:
            self._watched(self._network.listen_peers(self._peers_bound))
        self._report_notices()
        self._await_ready(time.monotonic(), self._started + PROGRESS_SECONDS)

    def _await_ready(self, began: float, next_line: float, said: str = "", said_at: float = 0.0) -> None:
        now = time.monotonic()
        if self._stopping or self._halted:
            return
        if self._node.ready and self._caught_up():
            self._watched(self._serve(now - began))
            return
        if now >= next_line:
            next_line = now + PROGRESS_SECONDS
            line = f"{'starting' if self._options.members else 'recovering'}: {self._progress()}"
            if line != said or now - said_at >= PROGRESS_SAME_SECONDS:
                say(line)
                said, said_at = line, now
        self._loop.call_later(READY_POLL_SECONDS, self._await_ready, began, next_line, said, said_at)

    def _caught_up(self) -> bool:
        """Is everything applied that the groups led here had when the node became ready? A new leader knows what is
        committed only after its first entry is."""
        rows = self._node.group_figures()
        if not self._wanted_indexes:
            self._wanted_indexes = {row["group"]: row["last"] for row in rows}
        led = (row for row in rows if row["role"] == "leader")
        return all(row["applied"] >= self._wanted_indexes[row["group"]] for row in led)

    def _progress(self) -> str:
        return "applying what was recovered" if self._node.ready else self._node.progress

    def _report_notices(self) -> None:
        """Say what the node has to tell its operator, now and from time to time."""
        self._say_notices()
        if not self._halted:
            self._loop.call_later(NOTICES_POLL_SECONDS, self._report_notices)

    def _say_notices(self) -> None:
        for notice in self._node.take_notices():
            say(notice)

    async def _serve(self, took_seconds: float) -> None:
        try:
            await self._network.listen(self._bound)
        except OSError as error:
            die(f"error: cannot listen on {self.address}: {error.strerror}; choose another with --listen HOST:PORT")
        if self._stopping:
            self._network.stop_listening()
            return
        self._on_ready()
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        admin = "off"
        if self._admin is not None and self._options.admin is not None:
            admin = str(Address(self._options.admin.host, self._admin.port))
        events = self._node.counters()["events_stored"]
        with contextlib.suppress(OSError, ValueError):
            print(
                f"ready: serving {self.address} (admin {admin}), {events} events recovered in {took_seconds:.1f} s",
                flush=True,
            )

    def _watched(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it; what it raises ends the process."""

        def done(task: asyncio.Task[None]) -> None:
            error = None if task.cancelled() else task.exception()
            if error is not None:
                self._crash(error)

        self._loop.create_task(work).add_done_callback(done)

    # ---- stopping ----

    def _signalled(self) -> None:
        if self._stopping:
            die("stopped without waiting; nothing that was acknowledged is lost")
        self._stopping = True
        if not self._node.ready:
            self.halt(None)  # recovering: there is nothing to drain
            return
        self._network.stop_listening()
        self._loop.call_later(DRAIN_SECONDS_MAX, self._drained_too_long)
        self._driver.stop()

    def _drained_too_long(self) -> None:
        die(
            f"stopping took longer than {DRAIN_SECONDS_MAX:.0f} s: stopped anyway; nothing that was acknowledged is lost"
        )

    def work(self, effect: Apply) -> None:
        """interface.Process."""
        self._disk.work(effect)

    def touch(self, effect: Touch) -> None:
        """interface.Process."""
        self._disk.touch(effect)

    def halt(self, reason: str | None) -> None:
        """interface.Process."""
        self._say_notices()
        if reason is not None:
            detail = f" (last disk error: {self._disk.last_error})" if self._disk.last_error else ""
            die(f"halted: {reason}{detail}")
        if not self._halted:
            self._halted = True
            self._network.close_all()
            self._await_closed(time.monotonic() + 2 * LINGER_SECONDS)

    def _await_closed(self, until: float) -> None:
        if self._network.link_count and time.monotonic() < until:
            self._loop.call_later(READY_POLL_SECONDS, self._await_closed, until)
        else:
            self._loop.stop()

    # ---- what goes wrong ----

    def _uncaught(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and not isinstance(error, OSError):
            self._crash(error)
        if time.monotonic() - self._complained >= COMPLAINT_SECONDS:  # a storm of them must not fill a log
            self._complained = time.monotonic()
            say(f"network: {context.get('message', '')} {error or ''}".rstrip())

    def _crash(self, error: BaseException) -> NoReturn:
        with contextlib.suppress(OSError, ValueError):
            traceback.print_exception(error, file=sys.stderr)
        die(f"halted: a bug in the node: {type(error).__name__}: {error}")

    # ---- for the admin port ----

    def _snapshot(self) -> Snapshot:
        node = self._node
        if self._halted or node.halted:
            status = "halted"
        elif self._stopping:
            status = "stopping"
        else:
            status = "ok" if node.ready else "starting"
        network = self._network
        figures = {
            "received_bytes": network.received_bytes,
            "sent_bytes": network.sent_bytes,
            "writes": network.writes,
            "refused": network.refused,
            "cut_off": network.cut_off,
            "slowed": network.slowed,
            "peer_links": network.peer_count,
            "peer_received_bytes": network.peer_received_bytes,
            "peer_sent_bytes": network.peer_sent_bytes,
            "peers_cut_off": network.peers_cut_off,
        }
        return Snapshot(
            status,
            node.progress,
            node.counters(),
            self._disk.figures,
            figures,
            self._options.node_id,
            node.group_figures(),
        )
