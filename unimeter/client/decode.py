"""Answers of the control plane, from maps to the types of `results.py`. Raises ProtocolError for what does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from unimeter.client.protocol import Fields
from unimeter.client.results import Alert, Metric, ServerInfo, StoredEvent, Usage, UsageRow, Value
from unimeter.client.topology import NodeAddress, Topology
from unimeter.client.values import OPERATION_NAMES, Account, AggType, MetricSchema, PeriodType, Threshold
from unimeter.errors import ProtocolError
from unimeter.kernels import protocol as wire

Body = Mapping[str, Any]


def decode_hello(body: Body) -> ServerInfo:
    fields = Fields(body)
    info = ServerInfo(
        server=fields.text("server"),
        node_id=fields.number("node_id"),
        cluster=fields.text("cluster"),
        groups=fields.number("groups"),
        leaders=fields.texts("leaders"),
        features=fields.texts("features"),
        batch_events_max=fields.number("batch_events_max"),
        frame_bytes_max=fields.number("frame_bytes_max"),
        session_window=fields.number("session_window"),
        partitions=fields.number("partitions", wire.PARTITIONS),
        nodes=_nodes(fields) if "nodes" in body else (),
        epoch=fields.number("epoch", 0),
    )
    if info.batch_events_max < 1 or info.frame_bytes_max < 8192 or info.session_window < 1:
        raise ProtocolError(f"a server with impossible limits: {info}")
    _check_topology(info.topology)
    return info


def decode_topology(body: Body) -> Topology:
    fields = Fields(body)
    topology = Topology(
        epoch=fields.number("epoch"),
        groups=fields.number("groups"),
        partitions=fields.number("partitions"),
        leaders=fields.texts("leaders"),
        nodes=_nodes(fields),
    )
    _check_topology(topology)
    return topology


def _nodes(fields: Fields) -> tuple[NodeAddress, ...]:
    return tuple(NodeAddress(node.number("id"), node.text("address")) for node in fields.maps("nodes"))


def _check_topology(topology: Topology) -> None:
    if topology.partitions != wire.PARTITIONS or not 1 <= topology.groups <= wire.PARTITIONS:
        raise ProtocolError(f"an impossible cluster: {topology.groups} groups of {topology.partitions} partitions")
    if len(topology.leaders) != topology.groups:
        raise ProtocolError(f"{len(topology.leaders)} leaders of {topology.groups} groups")


def encode_schema(schema: MetricSchema) -> dict[str, Any]:
    body: dict[str, Any] = {
        "code": schema.code,
        "aggregation": AggType(schema.agg_type).value,
        "recurring": schema.recurring,
        "dimensions": list(schema.dimensions),
        "thresholds": [{"name": t.name, "value": t.value, "recurring": t.recurring} for t in schema.thresholds],
    }
    if schema.period is not None:
        body["period"] = PeriodType(schema.period).value
    if schema.billing_day is not None:
        body["billing_day"] = schema.billing_day
    return body


def decode_metric(fields: Fields) -> Metric:
    try:
        schema = MetricSchema(
            code=fields.text("code"),
            agg_type=AggType(fields.text("aggregation")),
            dimensions=fields.texts("dimensions"),
            thresholds=tuple(
                Threshold(t.text("name"), t.number("value"), t.flag("recurring", False))
                for t in fields.maps("thresholds")
            ),
            period=PeriodType(fields.text("period")),
            billing_day=fields.number("billing_day"),
            recurring=fields.flag("recurring", False),
        )
    except ValueError as error:
        raise ProtocolError(f"a metric of an unknown kind: {error}") from None
    return Metric(fields.number("id"), schema)


def decode_value(fields: Fields) -> Value:
    count = fields.number("count")
    return Value(
        count=count,
        sum=fields.wide_number("sum"),
        min=fields.number_or_none("min"),
        max=fields.number_or_none("max"),
        last_value=fields.number_or_none("last"),
        last_timestamp=fields.number_or_none("last_timestamp"),
        unique=fields.number_or_none("unique"),
    )


def decode_usage(body: Body, account: Account, metric: str) -> Usage:
    fields = Fields(body)
    rows = list(fields.maps("rows"))
    if len(rows) != 1:
        raise ProtocolError(f"an answer of {len(rows)} rows, where one was asked for")
    return Usage(
        account=account,
        metric=metric,
        start=fields.number("start"),
        end=fields.number("end"),
        value=decode_value(rows[0]),
        alerts=rows[0].texts("alerts"),
        group=fields.number("group"),
        index=fields.number("index"),
        linearizable=fields.flag("linearizable", True),
    )


def decode_rows(body: Body) -> list[UsageRow]:
    return [UsageRow(row.text_map("dimensions"), decode_value(row)) for row in Fields(body).maps("rows")]


def decode_events(body: Body) -> tuple[list[StoredEvent], int | None]:
    fields = Fields(body)
    return [_stored_event(event) for event in fields.maps("events")], fields.number_or_none("next")


def _stored_event(fields: Fields) -> StoredEvent:
    operation = fields.body.get("operation")
    if isinstance(operation, int):
        operation = OPERATION_NAMES.get(operation)
    if operation not in ("add", "remove"):
        operation = None
    id = fields.body.get("id")
    if isinstance(id, bytes):
        with suppress(UnicodeDecodeError):
            id = id.decode()
    return StoredEvent(
        seq=fields.number("seq"),
        timestamp=fields.number("timestamp"),
        metric=fields.text("metric"),
        value=fields.number("value"),
        operation=operation,
        id=id if isinstance(id, (str, bytes)) and id else None,
        properties=fields.text_map("properties"),
    )


def decode_alert(fields: Fields) -> Alert:
    return Alert(
        number=fields.number("number"),
        account=fields.account("account"),
        metric=fields.text("metric"),
        threshold=fields.text("threshold"),
        value=fields.number("value"),
        triggered_at=fields.number("triggered_at"),
        period_start=fields.number("period_start"),
        group=fields.number("group", 0),
    )


def decode_alerts(body: Body) -> list[Alert]:
    return [decode_alert(alert) for alert in Fields(body).maps("alerts")]
