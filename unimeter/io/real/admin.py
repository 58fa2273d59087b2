"""The admin port: GET /health and GET /metrics, on threads of their own.

Nothing of the node is touched from these threads. A request asks the event loop for a snapshot and waits a
bounded time for it; so /health says more than "the process exists": it answers ok only if the loop that
decides is turning, and /metrics can report how long it took to come around.

Bounds: ADMIN_REQUESTS_MAX requests at a time, ADMIN_TIMEOUT_SECONDS for each wait; more are hung up on.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from unimeter.io.real.disk import WRITE_SECONDS_BUCKETS

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

    from prometheus_client.metrics_core import Metric

    from unimeter.io.real.disk import DiskFigures

ADMIN_TIMEOUT_SECONDS = 5.0
ADMIN_REQUESTS_MAX = 8
JSON = [("Content-Type", "application/json")]

# What Node.counters() reports, as (kind, metric name, help). Counters get the suffix _total.
NODE_FIGURES = {
    "frames": ("counter", "unimeter_frames", "Frames received."),
    "requests_refused": (
        "counter",
        "unimeter_requests_refused",
        "Requests refused because the node could not take them.",
    ),
    "links_opened": ("counter", "unimeter_links_opened", "Client connections opened."),
    "links": ("gauge", "unimeter_links", "Client connections open now."),
    "scans": ("counter", "unimeter_journal_scans", "Queries and listings that read the journal."),
    "events_stored": ("counter", "unimeter_events_stored", "Events stored and counted, over the life of the data."),
    "events_duplicate": (
        "counter",
        "unimeter_events_duplicate",
        "Events recognised as already stored; they added nothing.",
    ),
    "events_conflict": ("counter", "unimeter_events_conflict", "Events whose id was stored before with other content."),
    "events_refused": (
        "counter",
        "unimeter_events_refused",
        "Events refused: unknown metric, too many series, full tables.",
    ),
    "alerts_fired": ("counter", "unimeter_alerts_fired", "Threshold alerts fired."),
    "fingerprint_rotations": ("counter", "unimeter_fingerprint_rotations", "Times the v1 dedup horizon moved on."),
    "sessions_opened": ("counter", "unimeter_sessions_opened", "Client sessions opened."),
    "sessions_evicted": ("counter", "unimeter_sessions_evicted", "Idle client sessions evicted."),
    "series": ("gauge", "unimeter_series", "Combinations of account and metric held."),
    "state_bytes": ("gauge", "unimeter_state_bytes", "Memory in use by the aggregated state."),
    "applied_index": ("gauge", "unimeter_applied_index", "Log index up to which the state is current."),
    "journal_records": ("counter", "unimeter_journal_records", "Journal records written since the start."),
    "journal_bytes": ("counter", "unimeter_journal_written_bytes", "Bytes of journal records written since the start."),
    "journal_segment": ("gauge", "unimeter_journal_segment", "Number of the journal segment being written."),
    "checkpoints": ("counter", "unimeter_checkpoints", "Checkpoints completed since the start."),
    "disk_full": ("gauge", "unimeter_disk_full", "1 while the disk is full and events are refused."),
    "disk_full_events": ("counter", "unimeter_disk_full_events", "Times the disk was found full."),
    "requests_redirected": (
        "counter",
        "unimeter_requests_redirected",
        "Requests that were sent on to the node that leads their group.",
    ),
    "requests_refused_busy": ("counter", "unimeter_requests_refused_busy", "Requests refused: too much was waiting."),
    "bundles_forwarded": (
        "counter",
        "unimeter_bundles_forwarded",
        "Parts of requests that this node passed on to the leaders of their groups.",
    ),
    "log_fetches": ("counter", "unimeter_log_fetches", "Reads of the journal for followers that were far behind."),
    "groups_led": ("gauge", "unimeter_groups_led", "Groups that this node leads now."),
    "digests_compared": ("counter", "unimeter_digests_compared", "Comparisons of the state with other replicas."),
    "peers": ("gauge", "unimeter_peers", "Other nodes that this node is connected to now."),
}


@dataclass(frozen=True)
class Snapshot:
    """The node as the event loop saw it in one turn."""

    status: str  # ok, starting, stopping or halted
    progress: str  # how far recovery is
    counters: dict[str, int]
    disk: DiskFigures
    network: dict[str, int]  # what NETWORK_FIGURES names
    node_id: int
    groups: list[dict[str, Any]]  # one row per group: group, role, leader (a node's id), and what GROUP_FIGURES names


NETWORK_FIGURES = {
    "received_bytes": ("counter", "unimeter_network_received_bytes", "Bytes received from clients."),
    "sent_bytes": ("counter", "unimeter_network_sent_bytes", "Bytes sent to clients."),
    "writes": ("counter", "unimeter_network_writes", "Writes to sockets; each may carry many answers."),
    "refused": ("counter", "unimeter_links_refused", "Connections closed at once: links_max were open."),
    "cut_off": ("counter", "unimeter_links_cut_off", "Connections cut off: the client did not read its answers."),
    "slowed": ("counter", "unimeter_links_slowed", "Times a connection was not read from until its answers had left."),
    "peer_links": ("gauge", "unimeter_peer_links", "Connections between this node and others open now."),
    "peer_received_bytes": ("counter", "unimeter_peer_received_bytes", "Bytes received from other nodes."),
    "peer_sent_bytes": ("counter", "unimeter_peer_sent_bytes", "Bytes sent to other nodes."),
    "peers_cut_off": ("counter", "unimeter_peers_cut_off", "Connections to nodes closed: too much was unsent."),
}
# Of each group, labelled with its number; all zero where this node holds no replica of it.
GROUP_FIGURES = {
    "term": ("unimeter_group_term", "Term of the group: how often leadership was contested."),
    "commit": ("unimeter_group_commit_index", "Log index up to which a majority has the group's entries."),
    "applied": ("unimeter_group_applied_index", "Log index up to which the group's state is current here."),
    "last": ("unimeter_group_last_index", "Log index of the newest entry here."),
}
DISK_FIGURES = {
    "writes": ("counter", "unimeter_disk_writes", "Durable writes completed."),
    "write_bytes": ("counter", "unimeter_disk_written_bytes", "Bytes written durably."),
    "lone_writes": (
        "counter",
        "unimeter_disk_lone_writes",
        "Short journal writes done at once, without another thread.",
    ),
    "told_writes": (
        "counter",
        "unimeter_disk_told_writes",
        "Journal writes that no thread waited for.",
    ),
    "reads": ("counter", "unimeter_disk_reads", "Reads completed."),
    "read_bytes": ("counter", "unimeter_disk_read_bytes", "Bytes read."),
    "creates": ("counter", "unimeter_disk_files_created", "Files created."),
    "deletes": ("counter", "unimeter_disk_files_deleted", "Files deleted."),
    "no_space": ("counter", "unimeter_disk_no_space_errors", "Operations refused by a full disk."),
    "failed": ("counter", "unimeter_disk_failed_errors", "Operations that failed."),
    "direct": ("gauge", "unimeter_disk_direct_io", "1 when files are written with O_DIRECT."),
}


def _family(kind: str, name: str, text: str, value: float) -> Metric:
    return (CounterMetricFamily if kind == "counter" else GaugeMetricFamily)(name, text, value=value)


def _group_families(rows: list[dict[str, Any]], node_id: int) -> Iterator[Metric]:
    leads = GaugeMetricFamily("unimeter_group_leader", "1 if this node leads the group.", labels=["group"])
    known = GaugeMetricFamily("unimeter_group_leader_known", "1 if the group has a known leader.", labels=["group"])
    lag = GaugeMetricFamily(
        "unimeter_group_peer_lag_entries",
        "Entries that a follower of a group led here has not got yet.",
        labels=["group", "peer"],
    )
    figures = {key: GaugeMetricFamily(name, text, labels=["group"]) for key, (name, text) in GROUP_FIGURES.items()}
    for row in rows:
        label = [str(row["group"])]
        leads.add_metric(label, float(row.get("leader") == node_id))
        known.add_metric(label, float(bool(row.get("leader"))))
        for key, family in figures.items():
            if key in row:
                family.add_metric(label, float(row[key]))
        for peer, entries in (row.get("lag") or {}).items():
            lag.add_metric([*label, str(peer)], float(entries))
    yield from (leads, known, *figures.values(), lag)


class NodeCollector(Collector):
    """Prometheus families from one snapshot."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        asked = time.monotonic()
        try:
            seen = self._snapshot()
        except TimeoutError:
            yield GaugeMetricFamily("unimeter_up", "1 when the node serves.", value=0)
            return
        delay = time.monotonic() - asked
        yield GaugeMetricFamily("unimeter_up", "1 when the node serves.", value=float(seen.status == "ok"))
        yield GaugeMetricFamily(
            "unimeter_loop_delay_seconds", "How long this scrape waited for a turn of the event loop.", value=delay
        )
        for table, values in (
            (NODE_FIGURES, seen.counters),
            (NETWORK_FIGURES, seen.network),
            (DISK_FIGURES, asdict(seen.disk)),
        ):
            for key, (kind, name, text) in table.items():
                if key in values:
                    yield _family(kind, name, text, float(values[key]))
        yield from _group_families(seen.groups, seen.node_id)
        buckets: list[tuple[str, float]] = []
        total = 0
        bounds = [*(str(bound) for bound in WRITE_SECONDS_BUCKETS), "+Inf"]
        for bound, count in zip(bounds, seen.disk.journal_write_buckets, strict=True):
            total += count
            buckets.append((bound, total))
        yield HistogramMetricFamily(
            "unimeter_journal_write_seconds",
            "From handing a journal record to the disk until it was durable.",
            buckets=buckets,
            sum_value=seen.disk.journal_write_ns / 1e9,
        )


class _Handler(WSGIRequestHandler):
    timeout = ADMIN_TIMEOUT_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are not news."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._places = threading.BoundedSemaphore(ADMIN_REQUESTS_MAX)
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """As the base class, but without asking a name server who we are."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up or said nothing in time; there is nobody to tell."""


class Admin:
    """The admin server. The constructor binds (OSError when it cannot); `start` begins to answer."""

    def __init__(self, host: str, port: int, loop: asyncio.AbstractEventLoop, look: Callable[[], Snapshot]) -> None:
        """`look` is called on the loop's thread."""
        self._loop = loop
        self._look = look
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(NodeCollector(self._snapshot))
        self._metrics = make_wsgi_app(registry)
        self._server = _Server(host, port)
        self._server.set_app(self._app)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="um-admin", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _snapshot(self) -> Snapshot:
        answer: Future[Snapshot] = Future()

        def take() -> None:
            try:
                answer.set_result(self._look())
            except BaseException as error:
                answer.set_exception(error)

        try:
            self._loop.call_soon_threadsafe(take)
        except RuntimeError as error:  # the loop is closed
            raise TimeoutError from error
        return answer.result(ADMIN_TIMEOUT_SECONDS)

    def _app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path not in ("/health", "/metrics"):
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"not found: there is /health and /metrics\n"]
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            start_response("405 Method Not Allowed", [("Content-Type", "text/plain"), ("Allow", "GET, HEAD")])
            return [b"only GET\n"]
        if path == "/metrics":
            page: Iterable[bytes] = self._metrics(environ, start_response)
            return page
        try:
            seen = self._snapshot()
        except TimeoutError:
            start_response("503 Service Unavailable", JSON)
            return [json.dumps({"status": "stuck"}).encode() + b"\n"]
        start_response("200 OK" if seen.status == "ok" else "503 Service Unavailable", JSON)
        body = {
            "status": seen.status,
            "node": seen.node_id,
            "leads": sum(row.get("leader") == seen.node_id for row in seen.groups),
            "progress": seen.progress,
            "applied_index": seen.counters.get("applied_index", 0),
            "events": seen.counters.get("events_stored", 0),
            "disk_full": bool(seen.counters.get("disk_full", 0)),
        }
        return [json.dumps(body).encode() + b"\n"]
