"""Protocol v1, the control frames: fixed layouts in, fixed layouts out (docs/protocol.md).

v1 has no error codes of its own: a refusal is status 2 (or 3, 6) with a sentence as payload. Text fields are
NUL-padded; a field without a NUL is full. Ingest frames never come here: the intake kernel takes them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from unimeter.config import PARTITIONS
from unimeter.core.catalog import AGGREGATIONS, PERIODS, Definition, Metric, Threshold
from unimeter.core.refusal import Elsewhere, Refused
from unimeter.core.service import GroupAlert, Service, Usage
from unimeter.kernels import protocol as wire
from unimeter.kernels.api import Alert, Event, Row
from unimeter.kernels.frame import Frame

COUNT_UNIQUE: Final = AGGREGATIONS.index("count-unique")
U64: Final = 2**64 - 1
VALUES_PER_FILTER: Final = wire.V1_FILTER_VALUES_MAX
NAME_BYTES: Final = 32
ALERT_GROUP_BITS: Final = 8  # of an alert's offset, where there are several groups

Send = Callable[[bytes], None]


def encode(status: int, request_id: int, payload: bytes = b"") -> bytes:
    return wire.V1_RESPONSE_HEADER.pack(status, request_id, len(payload)) + payload


def address_field(address: str) -> bytes:
    return address.encode().ljust(wire.V1_ADDRESS_BYTES, b"\0")


def encode_error(request_id: int, refusal: Refused) -> bytes:
    if isinstance(refusal, Elsewhere):
        return encode(wire.V1_STATUS_REDIRECT, request_id, address_field(refusal.address))
    status = {
        "unknown_metric": wire.V1_STATUS_UNKNOWN_METRIC,
        "disk_full": wire.V1_STATUS_BACKPRESSURE,
        "overloaded": wire.V1_STATUS_BACKPRESSURE,
        "starting": wire.V1_STATUS_BACKPRESSURE,
        "no_leader": wire.V1_STATUS_NOT_LEADER,
        "leader_changed": wire.V1_STATUS_NOT_LEADER,
    }.get(refusal.code, wire.V1_STATUS_ERROR)
    return encode(status, request_id, str(refusal).encode())


class FrontV1:
    def __init__(self, service: Service) -> None:
        self._service = service
        self.on_map_asked: Callable[[], None] = lambda: None  # the link of the present request wants changes of the map

    def handle(self, frame: Frame, payload: bytes, send: Send, subscribe: Callable[[], None]) -> bool:
        """Serve one control frame; `send` may be called now or in a later step. False: the frame is malformed, and the
        link is to be closed after what was sent."""

        def done(answer: bytes | Refused) -> None:
            if isinstance(answer, Refused):
                send(encode_error(frame.request_id, answer))
            else:
                send(encode(wire.V1_STATUS_OK, frame.request_id, answer))

        try:
            self._dispatch(frame.type, payload, done, subscribe)
        except Refused as refusal:
            done(refusal)
        except (struct.error, _Malformed) as error:
            done(
                Refused(
                    "bad_request", f"malformed frame of type 0x{frame.type:02x} ({error})", "see the protocol's layouts"
                )
            )
            return False
        return True

    def _dispatch(
        self, type_: int, payload: bytes, done: Callable[[bytes | Refused], None], subscribe: Callable[[], None]
    ) -> None:
        service = self._service
        if type_ == wire.V1_TYPE_PARTITION_MAP:
            _exactly(payload, 0)
            self.on_map_asked()
            done(self.partition_map())
        elif type_ == wire.V1_TYPE_METRIC_PUT:
            service.put_metric(decode_put(payload), lambda made: done(made if isinstance(made, Refused) else b""))
        elif type_ == wire.V1_TYPE_METRIC_DELETE:
            _exactly(payload, 64)
            service.delete_metric(_text(payload), lambda gone: done(gone if isinstance(gone, Refused) else b""))
        elif type_ == wire.V1_TYPE_METRIC_LIST:
            _exactly(payload, 0)
            service.metrics(lambda found: done(_metrics(found)))
        elif type_ == wire.V1_TYPE_USAGE_QUERY:
            self._usage(payload, done)
        elif type_ == wire.V1_TYPE_USAGE_REALTIME:
            _exactly(payload, 72)
            account, code = wire.V1_USAGE_REALTIME.unpack(payload)
            service.usage(account, _text(code), None, {}, [], lambda found: done(_one_aggregate(found)))
        elif type_ == wire.V1_TYPE_EVENTS_LIST:
            _exactly(payload, 24)
            account, since, until = wire.V1_EVENTS_LIST.unpack(payload)
            limit = service.config.events_list_max
            service.events(account, since, until, None, 0, limit, lambda found: done(self._events(found)))
        elif type_ == wire.V1_TYPE_ALERTS_LIST:
            _exactly(payload, 16)
            account, since = wire.V1_ALERTS_LIST.unpack(payload)
            limit = service.config.alerts_list_max
            service.alerts(self._cursors(since), account or None, None, limit, lambda found: done(self._alerts(found)))
        elif type_ == wire.V1_TYPE_ALERT_ENABLE:
            _exactly(payload, 0)
            subscribe()
            done(b"")
        elif type_ == wire.V1_TYPE_USAGE_BREAKDOWN:
            self._breakdown(payload, done)
        elif type_ == wire.V1_TYPE_CLUSTER_STATUS:
            _exactly(payload, 0)
            done(self._status())
        else:
            raise Refused("unsupported", f"request type 0x{type_:02x} is unknown", "use the types of protocol v1")

    # ---- queries ----

    def _usage(self, payload: bytes, done: Callable[[bytes | Refused], None]) -> None:
        account, start, end, code, count = wire.V1_USAGE_QUERY.unpack_from(payload)
        _exactly(payload, wire.V1_USAGE_QUERY.size + count * wire.V1_FILTER.size)
        filters: dict[str, list[bytes]] = {}
        for key, values in _filters(payload[wire.V1_USAGE_QUERY.size :], count):
            if key in filters:
                raise Refused("bad_request", f"two filters for {key!r}", "give all values in one filter")
            filters[key] = values
        self._service.usage(account, _text(code), (start, end), filters, [], lambda found: done(_one_aggregate(found)))

    def _breakdown(self, payload: bytes, done: Callable[[bytes | Refused], None]) -> None:
        account, start, end, code, count = wire.V1_USAGE_QUERY.unpack_from(payload)
        _exactly(payload, wire.V1_USAGE_QUERY.size + count * NAME_BYTES)
        if not 1 <= count <= wire.V1_GROUP_BY_MAX:
            raise Refused("bad_request", f"group by {count} keys", "group by 1 to 4 dimensions")
        keys = [
            _text(payload[wire.V1_USAGE_QUERY.size + n * NAME_BYTES : wire.V1_USAGE_QUERY.size + (n + 1) * NAME_BYTES])
            for n in range(count)
        ]
        names = b"".join(_pad(key.encode(), NAME_BYTES) for key in keys)

        def finish(found: Usage | Refused) -> None:
            if isinstance(found, Refused):
                done(found)
                return
            unique = found.metric.definition.aggregation == COUNT_UNIQUE
            done(
                b"".join(
                    wire.V1_BREAKDOWN_ROW.pack(
                        count,
                        names,
                        b"".join(_pad(value, NAME_BYTES) for value in row.dimensions),
                        aggregate(row, unique),
                    )
                    for row in found.rows
                )
            )

        self._service.usage(account, _text(code), (start, end), {}, keys, finish)

    def _events(self, found: list[Event] | Refused) -> bytes | Refused:
        if isinstance(found, Refused):
            return found
        return wire.V1_LIST_HEAD.pack(len(found)) + b"".join(
            wire.V1_EVENT_RECORD.pack(
                event.seq, event.timestamp_ns, event.account, self._service.metric_of(event.metric).definition.code.encode(),
                event.value & U64, event.operation,
            )
            for event in found
        )  # fmt: skip

    def _alerts(self, found: list[GroupAlert] | Refused) -> bytes | Refused:
        if isinstance(found, Refused):
            return found
        listed = b"".join(self.alert(group, alert) for group, alert in found)
        return wire.V1_LIST_HEAD.pack(len(found)) + listed

    def _cursors(self, since: int) -> list[int]:
        """A v1 offset as a number for each group: alerts whose offset is greater have greater numbers."""
        groups = len(self._service.groups)
        if groups == 1:
            return [since]
        return [max(0, (since - group) >> ALERT_GROUP_BITS) for group in range(groups)]

    # ---- records ----

    def alert(self, group: int, alert: Alert) -> bytes:
        """An alert record; a text account, which v1 cannot name, is 0. Numbers are per group: where there are several,
        the offset holds the group, too."""
        offset = alert.number if len(self._service.groups) == 1 else alert.number << ALERT_GROUP_BITS | group
        metric = self._service.metric_of(alert.metric)
        account = alert.account if isinstance(alert.account, int) else 0
        return wire.V1_ALERT_RECORD.pack(
            offset, account, metric.definition.code.encode(), metric.threshold_name(alert.slot).encode(),
            alert.value & U64, alert.stamp_ns,
        )  # fmt: skip

    def alert_push(self, group: int, alert: Alert) -> bytes:
        record = self.alert(group, alert)
        return encode(wire.V1_TYPE_ALERT_PUSH, 0, wire.V1_ALERT_PUSH.pack(record, self._service.config.node_id))

    def partition_map(self) -> bytes:
        """Of each partition the leader's address and two replicas'. A group without a leader names who may become it."""
        service, topology = self._service, self._service.topology
        nodes = [record.client_address for record in topology.registry.nodes.values()] or [service.config.advertise]
        entries = []
        for group in range(len(service.groups)):
            leader = topology.leader_address(group) or nodes[group % len(nodes)]
            others = [address for address in nodes if address != leader]
            first = others[0] if others else leader
            second = others[1] if len(others) > 1 else ""
            entries.append(wire.V1_PARTITION_ENTRY.pack(leader.encode(), first.encode(), second.encode()))
        return b"".join(entries[partition % len(entries)] for partition in range(PARTITIONS))

    def partition_map_push(self) -> bytes:
        return encode(wire.V1_TYPE_PARTITION_MAP_PUSH, 0, self.partition_map())

    def _status(self) -> bytes:
        service = self._service
        status = service.status()
        nodes = max(1, len(service.topology.registry.nodes))
        head = wire.V1_STATUS_HEAD.pack(
            status.node_id, nodes, status.journal_bytes, status.segments, status.series, status.uptime_ns
        )
        parts = []
        for group in service.groups:
            leader = service.topology.leader(group.number)
            role = 0 if leader == service.config.node_id else 1
            term = min(group.raft.term, 2**32 - 1)
            parts.append(wire.V1_STATUS_PARTITION.pack(term, group.applied_index & 0xFFFF, role, leader))
        return head + b"".join(parts[partition % len(parts)] for partition in range(PARTITIONS))


class _Malformed(Exception):
    """The bytes do not have the layout of their type."""


def _exactly(payload: bytes, size: int) -> None:
    if len(payload) != size:
        raise _Malformed(f"{len(payload)} bytes where {size} belong")


def _text(raw: bytes) -> str:
    text = raw[: raw.find(b"\0")] if b"\0" in raw else raw
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise _Malformed("a text field is not UTF-8") from error


def _pad(value: bytes, size: int) -> bytes:
    """A NUL-padded field; a longer value is cut at a character, its last byte stays NUL."""
    if len(value) >= size:
        value = value[: size - 1].decode("utf-8", "ignore").encode()
    return value.ljust(size, b"\0")


def _filters(data: bytes, count: int) -> list[tuple[str, list[bytes]]]:
    found = []
    for number in range(count):
        key, values, raw = wire.V1_FILTER.unpack_from(data, number * wire.V1_FILTER.size)
        if values > VALUES_PER_FILTER:
            raise _Malformed(f"a filter with {values} values")
        fields = [raw[n * NAME_BYTES : (n + 1) * NAME_BYTES] for n in range(values)]
        found.append((_text(key), [field[: field.find(b"\0")] if b"\0" in field else field for field in fields]))
    return found


def decode_put(payload: bytes) -> Definition:
    """Metric put. Raises Refused for a rule, struct.error or _Malformed for bytes without that layout."""
    code, aggregation, recurring, filter_count, field = wire.V1_METRIC_HEAD.unpack_from(payload)
    at = wire.V1_METRIC_HEAD.size
    filters = _filters(payload[at:], filter_count)
    at += filter_count * wire.V1_FILTER.size
    thresholds: list[Threshold] = []
    period, billing_day = PERIODS.index("month"), 1
    if at < len(payload):
        (count,) = wire.V1_THRESHOLD_HEAD.unpack_from(payload, at)
        at += wire.V1_THRESHOLD_HEAD.size
        for _ in range(count):
            name, value, again = wire.V1_THRESHOLD.unpack_from(payload, at)
            thresholds.append(Threshold(_text(name), value, bool(again)))
            at += wire.V1_THRESHOLD.size
    if at < len(payload):
        period, billing_day = wire.V1_PERIOD.unpack_from(payload, at)
        at += wire.V1_PERIOD.size
    _exactly(payload, at)
    return Definition(
        code=_text(code),
        aggregation=aggregation,
        recurring=bool(recurring),
        dimensions=tuple(key for key, _ in filters),
        thresholds=tuple(thresholds),
        period=period,
        billing_day=billing_day or 1,
        field=_text(field),
        hints=tuple((key, tuple(value.decode("utf-8", "replace") for value in values)) for key, values in filters),
    )


def encode_put(metric: Metric) -> bytes:
    """A metric list entry: metric put with all sections present."""
    definition = metric.definition
    hints = dict(definition.hints)
    out = [
        wire.V1_METRIC_HEAD.pack(
            definition.code.encode(), definition.aggregation, definition.recurring, len(definition.dimensions),
            definition.field.encode(),
        )
    ]  # fmt: skip
    for key in definition.dimensions:
        values = hints.get(key, ())[:VALUES_PER_FILTER]
        out.append(
            wire.V1_FILTER.pack(
                key.encode(), len(values), b"".join(_pad(value.encode(), NAME_BYTES) for value in values)
            )
        )
    out.append(wire.V1_THRESHOLD_HEAD.pack(len(definition.thresholds)))
    out += [wire.V1_THRESHOLD.pack(t.name.encode(), t.value & U64, t.recurring) for t in definition.thresholds]
    out.append(wire.V1_PERIOD.pack(definition.period, definition.billing_day))
    return b"".join(out)


def aggregate(row: Row, unique: bool) -> bytes:
    """The aggregate's seven fields; what is undefined is 0."""
    low, high = row.sum & U64, row.sum >> 64 & U64
    if row.count == 0:
        return wire.V1_AGGREGATE.pack(low, high, row.unique if unique else 0, 0, 0, 0, row.fired)
    count = row.unique if unique else row.count
    return wire.V1_AGGREGATE.pack(low, high, count, row.max & U64, row.last_value & U64, row.last_ts, row.fired)


def _metrics(found: list[Metric] | Refused) -> bytes | Refused:
    if isinstance(found, Refused):
        return found
    return wire.V1_LIST_HEAD.pack(len(found)) + b"".join(encode_put(metric) for metric in found)


def _one_aggregate(found: Usage | Refused) -> bytes | Refused:
    if isinstance(found, Refused):
        return found
    return aggregate(found.rows[0], found.metric.definition.aggregation == COUNT_UNIQUE)
