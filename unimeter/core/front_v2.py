"""Protocol v2, the control frames: msgpack maps in, msgpack maps out (docs/protocol.md).

Ingest frames never come here: the intake kernel takes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgpack

from unimeter.core.catalog import AGGREGATIONS, PERIODS, Definition, Metric, Threshold
from unimeter.core.refusal import Elsewhere, Refused
from unimeter.core.service import ACCOUNT_MAX, TIME_MAX, Account, GroupAlert, Service, Usage
from unimeter.kernels import layout
from unimeter.kernels import protocol as wire
from unimeter.kernels.api import Alert, Event, Kernels, Row
from unimeter.kernels.frame import Frame

SERVER_NAME: Final = "unimeter/0.2.0"
FEATURES: Final = ("sessions", "ids", "text-accounts", "verdicts", "breakdown", "events", "alerts")
CONTROL_BYTES_MAX: Final = 64 * 1024  # a control body larger than this is not a request of ours

# the same again, later, may be served
LATER: Final = ("disk_full", "overloaded", "starting", "no_leader", "leader_changed")

Send = Callable[[bytes], None]


def encode(kernels: Kernels, type_: int, status: int, request_id: int, body: Any) -> bytes:
    """One response (or push) frame."""
    payload: bytes = msgpack.packb(body, use_bin_type=True)
    return kernels.v2_head(type_, status, request_id, payload) + payload


def encode_error(kernels: Kernels, type_: int, request_id: int, refusal: Refused) -> bytes:
    if isinstance(refusal, Elsewhere):
        body: dict[str, Any] = {"address": refusal.address, "group": refusal.group}
        return encode(kernels, type_, wire.V2_STATUS_REDIRECT, request_id, body)
    status = wire.V2_STATUS_BACKPRESSURE if refusal.code in LATER else wire.V2_STATUS_ERROR
    body = {"code": refusal.code, "message": refusal.message, "fix": refusal.fix}
    return encode(kernels, type_, status, request_id, body)


class FrontV2:
    def __init__(self, service: Service, kernels: Kernels, cluster_id: int) -> None:
        self._service = service
        self._kernels = kernels
        self._cluster_id = cluster_id
        self.on_topology_asked: Callable[[], None] = lambda: None  # the link of the present request wants changes of it
        self.operate: Callable[[dict[str, Any], Callable[[Any], None]], None] = lambda _body, done: done(
            Refused("unsupported", "this node takes no orders", "ask a node of the cluster")
        )

    def handle(self, frame: Frame, payload: bytes, send: Send, subscribe: Callable[[dict[int, int]], None]) -> None:
        """Serve one control frame; `send` may be called now or in a later step. Never raises for what a client sent."""

        def done(answer: Any) -> None:
            if isinstance(answer, Refused):
                send(encode_error(self._kernels, frame.type, frame.request_id, answer))
            else:
                send(encode(self._kernels, frame.type, wire.V2_STATUS_OK, frame.request_id, answer))

        try:
            self._dispatch(frame.type, _body(payload), done, subscribe)
        except Refused as refusal:
            done(refusal)

    def _dispatch(
        self, type_: int, body: dict[str, Any], done: Callable[[Any], None], subscribe: Callable[[dict[int, int]], None]
    ) -> None:
        service = self._service
        if type_ == wire.V2_TYPE_HELLO:
            done(self._hello())
        elif type_ == wire.V2_TYPE_QUERY:
            self._query(body, done)
        elif type_ == wire.V2_TYPE_METRIC_CREATE:
            service.put_metric(
                definition_from_body(body),
                lambda made: done(made if isinstance(made, Refused) else {"id": made[0], "created": made[1]}),
            )
        elif type_ == wire.V2_TYPE_METRIC_DELETE:
            service.delete_metric(_text(body, "code"), lambda gone: done(gone if isinstance(gone, Refused) else {}))
        elif type_ == wire.V2_TYPE_METRIC_LIST:
            service.metrics(
                lambda found: done(
                    found if isinstance(found, Refused) else {"metrics": [metric_body(metric) for metric in found]}
                )
            )
        elif type_ == wire.V2_TYPE_EVENTS_LIST:
            self._events(body, done)
        elif type_ == wire.V2_TYPE_ALERTS_LIST:
            self._alerts(body, done)
        elif type_ == wire.V2_TYPE_ALERTS_SUBSCRIBE:
            wanted = self._groups(body)
            cursors = self._cursors(body)
            subscribe({group: cursors[group] for group in wanted})
            done({})
        elif type_ == wire.V2_TYPE_TOPOLOGY:
            if body.get("subscribe") is True:
                self.on_topology_asked()
            done(self.topology_body())
        elif type_ == wire.V2_TYPE_CLUSTER:
            self.operate(body, done)
        elif type_ == wire.V2_TYPE_STATUS:
            done(self._status())
        else:
            raise Refused(
                "unsupported",
                f"request type 0x{type_:02x} is unknown",
                "upgrade the server, or use protocol v2 as documented",
            )

    def _hello(self) -> dict[str, Any]:
        config = self._service.config
        return {
            "server": SERVER_NAME,
            "node_id": config.node_id,
            "cluster": f"{self._cluster_id:016x}",
            **self.topology_body(),
            "features": list(FEATURES),
            "batch_events_max": config.batch_events_max,
            "frame_bytes_max": config.frame_bytes_max,
            "session_window": layout.UM_SESSION_WINDOW,
        }

    def topology_body(self) -> dict[str, Any]:
        topology, groups = self._service.topology, len(self._service.groups)
        return {
            "epoch": topology.epoch,
            "groups": groups,
            "partitions": layout.UM_PARTITIONS,
            "leaders": [topology.leader_address(group) for group in range(groups)],
            "nodes": [{"id": n.node_id, "address": n.client_address} for n in topology.registry.nodes.values()],
        }

    def topology_push(self) -> bytes:
        return encode(
            self._kernels, wire.V2_TYPE_TOPOLOGY_PUSH, wire.V2_STATUS_OK, 0, self.topology_body()
        )  # fmt: skip

    def _groups(self, body: dict[str, Any]) -> list[int]:
        """Which groups a subscription is for: those named, or all."""
        count = len(self._service.groups)
        wanted = body.get("groups")
        if wanted is None:
            return list(range(count))
        if not isinstance(wanted, list) or not all(isinstance(g, int) and 0 <= g < count for g in wanted):
            raise _bad(f"'groups' must be a list of numbers below {count}", "ask hello for the number of groups")
        return list(dict.fromkeys(wanted))

    def _cursors(self, body: dict[str, Any]) -> list[int]:
        """A number for each group: `cursors`, or `since` for all."""
        count = len(self._service.groups)
        cursors = body.get("cursors")
        if cursors is None:
            return [_int(body, "since", 0)] * count
        if not isinstance(cursors, list) or len(cursors) != count or not all(isinstance(n, int) for n in cursors):
            raise _bad(f"'cursors' must be a list of {count} whole numbers", "give the last number of each group")
        return cursors

    def _alerts(self, body: dict[str, Any], done: Callable[[Any], None]) -> None:
        account = _account(body) if body.get("account") is not None else None
        group = None
        if account is None and body.get("group") is not None:
            group = _int(body, "group")
            if not 0 <= group < len(self._service.groups):
                raise _bad(f"there is no group {group}", f"groups are numbered 0 to {len(self._service.groups) - 1}")

        def finish(found: list[GroupAlert] | Refused) -> None:
            if isinstance(found, Refused):
                done(found)
            else:
                done({"alerts": [self.alert_body(number, alert) for number, alert in found]})

        self._service.alerts(self._cursors(body), account, group, _int(body, "limit", 1000), finish)

    def _status(self) -> dict[str, Any]:
        for group in self._service.groups:
            group.settle()  # a digest goes with the index up to which it is
        metas = [group.meta() for group in self._service.groups]
        return {
            "node_id": self._service.config.node_id,
            "applied_index": metas[0].applied_index,
            "applied": [meta.applied_index for meta in metas],
            "digests": [f"{meta.digest:016x}" for meta in metas],
            "events": sum(meta.stored for meta in metas),
            "duplicates": sum(meta.duplicates for meta in metas),
            "conflicts": sum(meta.conflicts for meta in metas),
            "refused": sum(meta.refused for meta in metas),
            "digest": f"{metas[0].digest:016x}",
        }

    def _query(self, body: dict[str, Any], done: Callable[[Any], None]) -> None:
        period = None
        if body.get("period") is None:
            period = (_int(body, "start"), _int(body, "end"))
        elif body["period"] != "current":
            raise _bad(f"period {body['period']!r} is unknown", 'use "current", or start and end')
        group_by = _texts(body, "group_by")
        if len(dict.fromkeys(group_by)) != len(group_by):
            raise _bad("a group_by key is given twice", "name each dimension once")

        def finish(answer: Usage | Refused) -> None:
            done(answer if isinstance(answer, Refused) else usage_body(answer, group_by))

        self._service.usage(_account(body), _text(body, "metric"), period, _filters(body), group_by, finish)

    def _events(self, body: dict[str, Any], done: Callable[[Any], None]) -> None:
        limit = _int(body, "limit", 1000)
        code = _text(body, "metric") if body.get("metric") is not None else None

        def finish(found: list[Event] | Refused) -> None:
            if isinstance(found, Refused):
                done(found)
                return
            more = len(found) >= min(limit, self._service.config.events_list_max)
            done(
                {
                    "events": [self._event_body(event) for event in found],
                    "next": found[-1].seq if more and found else None,
                }
            )

        self._service.events(
            _account(body),
            _int(body, "since", 0),
            _int(body, "until", TIME_MAX),
            code,
            _int(body, "after", 0),
            limit,
            finish,
        )

    def _event_body(self, event: Event) -> dict[str, Any]:
        return {
            "seq": event.seq,
            "timestamp": event.timestamp_ns,
            "account": _account_body(event.account),
            "metric": self._service.metric_of(event.metric).definition.code,
            "value": event.value,
            "operation": ("none", "add", "remove")[event.operation],
            "id": text_of(event.id) if event.id else None,
            "properties": {text_of(key): text_of(value) for key, value in event.properties},
        }

    def alert_body(self, group: int, alert: Alert) -> dict[str, Any]:
        metric = self._service.metric_of(alert.metric)
        return {
            "group": group,
            "number": alert.number,
            "account": _account_body(alert.account),
            "metric": metric.definition.code,
            "threshold": metric.threshold_name(alert.slot),
            "value": alert.value,
            "triggered_at": alert.stamp_ns,
            "period_start": alert.period_start,
        }


def usage_body(usage: Usage, group_by: list[str]) -> dict[str, Any]:
    unique = AGGREGATIONS[usage.metric.definition.aggregation] == "count-unique"
    return {
        "start": usage.start,
        "end": usage.end,
        "group": usage.group,
        "index": usage.index,
        "linearizable": True,
        "rows": [_row_body(usage.metric, row, group_by, unique) for row in usage.rows],
    }


def _row_body(metric: Metric, row: Row, group_by: list[str], unique: bool) -> dict[str, Any]:
    some = row.count > 0
    return {
        "dimensions": {key: text_of(value) for key, value in zip(group_by, row.dimensions, strict=True)},
        "count": row.count,
        "sum": row.sum if -(2**63) <= row.sum < 2**64 else str(row.sum),
        "min": row.min if some else None,
        "max": row.max if some else None,
        "last": row.last_value if some else None,
        "last_timestamp": row.last_ts if some else None,
        "unique": row.unique if unique else None,
        "alerts": [metric.threshold_name(slot) for slot in range(len(metric.slots)) if row.fired >> slot & 1],
    }


def metric_body(metric: Metric) -> dict[str, Any]:
    definition = metric.definition
    return {
        "id": metric.id,
        "code": definition.code,
        "aggregation": AGGREGATIONS[definition.aggregation],
        "recurring": definition.recurring,
        "dimensions": list(definition.dimensions),
        "thresholds": [{"name": t.name, "value": t.value, "recurring": t.recurring} for t in definition.thresholds],
        "period": PERIODS[definition.period],
        "billing_day": definition.billing_day,
    }


def definition_from_body(body: dict[str, Any]) -> Definition:
    """A metric definition from the body of METRIC_CREATE. Raises Refused."""
    thresholds = body.get("thresholds") or []
    if not isinstance(thresholds, list) or not all(isinstance(t, dict) for t in thresholds):
        raise _bad("thresholds must be a list of maps", 'write {"name": ..., "value": ...}')
    return Definition(
        code=_text(body, "code"),
        aggregation=_choice(body, "aggregation", AGGREGATIONS, None),
        recurring=bool(body.get("recurring", False)),
        dimensions=tuple(_texts(body, "dimensions")),
        thresholds=tuple(
            Threshold(_text(t, "name"), _int(t, "value"), bool(t.get("recurring", False))) for t in thresholds
        ),
        period=_choice(body, "period", PERIODS, "month"),
        billing_day=_int(body, "billing_day", 1) or 1,
    )


def text_of(value: bytes) -> str:
    """Bytes as stored (v1 clients may store any) as text."""
    return value.decode("utf-8", "replace")


def _account_body(account: Account) -> int | str:
    return account if isinstance(account, int) else text_of(account)


def _bad(message: str, fix: str) -> Refused:
    return Refused("bad_request", message, fix)


def _body(payload: bytes) -> dict[str, Any]:
    if not payload:
        return {}
    if len(payload) > CONTROL_BYTES_MAX:
        raise Refused(
            "too_large", f"a control request of {len(payload)} bytes", f"send at most {CONTROL_BYTES_MAX} bytes"
        )
    try:
        body = msgpack.unpackb(payload, raw=False, strict_map_key=True)
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise _bad(
            f"the body is not msgpack ({error or type(error).__name__})", "send one msgpack map with text keys"
        ) from error
    if not isinstance(body, dict):
        raise _bad("the body is not a map", "send one msgpack map with text keys")
    return body


def _text(body: dict[str, Any], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str) or not value:
        raise _bad(f"{key!r} must be a non-empty text", f"add it: {{{key!r}: ...}}")
    return value


def _texts(body: dict[str, Any], key: str) -> list[str]:
    value = body.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _bad(f"{key!r} must be a list of texts", f"write {{{key!r}: [...]}}")
    return value


def _int(body: dict[str, Any], key: str, default: int | None = None) -> int:
    value = body.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _bad(f"{key!r} must be a whole number", f"add it: {{{key!r}: ...}}")
    return value


def _choice(body: dict[str, Any], key: str, names: tuple[str, ...], default: str | None) -> int:
    value = body.get(key) or default
    if value not in names:
        raise _bad(f"{key} {value!r} is unknown", "use one of " + ", ".join(names))
    return names.index(value)


def _account(body: dict[str, Any]) -> Account:
    value = body.get("account")
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= ACCOUNT_MAX:
        return value
    if isinstance(value, str) and 1 <= len(value.encode("utf-8", "surrogatepass")) <= layout.UM_ACCOUNT_BYTES_MAX:
        return value.encode("utf-8", "surrogatepass")
    raise _bad("'account' must be a number below 2^64 or a text of 1 to 128 bytes", "name the account")


def _filters(body: dict[str, Any]) -> dict[str, list[bytes]]:
    filters = body.get("filters") or {}
    if not isinstance(filters, dict):
        raise _bad("'filters' must be a map of key to values", 'write {"filters": {"region": ["eu"]}}')
    result: dict[str, list[bytes]] = {}
    for key, values in filters.items():
        listed = [values] if isinstance(values, str) else values
        if not isinstance(listed, list) or not listed or not all(isinstance(value, str) for value in listed):
            raise _bad(f"filter {key!r} must have at least one text value", 'write {"region": ["eu", "us"]}')
        if (
            any(len(value.encode("utf-8", "surrogatepass")) > layout.UM_VALUE_BYTES_MAX for value in listed)
            or len(listed) > 255
        ):
            raise Refused("too_large", f"filter {key!r} is too large", "use at most 255 values of at most 255 bytes")
        result[key] = [value.encode("utf-8", "surrogatepass") for value in listed]
    return result
