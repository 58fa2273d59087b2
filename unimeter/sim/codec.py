"""Requests into bytes and answers into facts, for both protocols: the only place where the two differ."""

from __future__ import annotations

from typing import Any, Final

import msgpack

from unimeter.kernels.api import Kernels
from unimeter.sim import wire1, wire2
from unimeter.sim.events import UNIQUE
from unimeter.sim.requests import Control, EventList, Ingest, Query, Request, v1_type

UNSURE_V1: Final = b"could not be asked in time whether"  # protocol v1 has no code for it, only the sentence


def encode(kernels: Kernels, request: Request, request_id: int) -> bytes:
    if request.protocol == 1:
        return wire1.frame(v1_type(request), request_id, _payload_v1(request))
    match request:
        case Ingest():
            payload = wire2.ingest_payload(
                request.events,
                request.session,
                request.batch,
                request.settled_below,
                wire2.OPEN_SESSION if request.opens else 0,
            )
            flags = (0 if request.sync else wire2.ASYNC) | (wire2.VERDICTS if request.verdicts else 0)
            return wire2.frame(kernels, wire2.INGEST, request_id, payload, flags)
        case Query():
            body: dict[str, Any] = {"account": request.account, "metric": request.metric.code}
            if request.start is None:
                body["period"] = "current"
            else:
                body |= {"start": request.start, "end": request.end}
            if request.filters:
                body["filters"] = request.filters
            if request.group_by:
                body["group_by"] = request.group_by
            return wire2.control(kernels, wire2.QUERY, request_id, body)
        case EventList():
            body = {
                "account": request.account,
                "since": request.since,
                "until": request.until,
                "after": request.after,
                "limit": request.limit,
            }
            if request.metric_code is not None:
                body["metric"] = request.metric_code
            return wire2.control(kernels, wire2.EVENTS_LIST, request_id, body)
        case Control():
            return wire2.control(kernels, request.type, request_id, request.body)
    raise AssertionError(request)


def _payload_v1(request: Request) -> bytes:
    match request:
        case Ingest():
            return wire1.ingest_payload(request.events)
        case Query():
            assert isinstance(request.account, int)
            code = request.metric.code
            if request.start is None:
                return wire1.realtime_payload(request.account, code)
            assert request.end is not None
            if request.group_by:
                return wire1.breakdown_payload(request.account, code, request.start, request.end, request.group_by)
            return wire1.usage_payload(request.account, code, request.start, request.end, request.filters)
        case Control():
            return request.payload
    raise AssertionError(request)


def refusal(response: wire1.Response | wire2.Response) -> str:
    """The error code of an answer, "" when it is not a refusal."""
    if isinstance(response, wire2.Response):
        if response.status == wire2.OK:
            return ""
        if response.status == wire2.REDIRECT:
            return "redirect"
        return str(msgpack.unpackb(response.payload)["code"])
    if response.status == wire1.ERROR and UNSURE_V1 in response.payload:
        return "outcome_unknown"
    names = {
        wire1.ERROR: "bad_request",
        wire1.UNKNOWN_METRIC: "unknown_metric",
        wire1.REDIRECT: "redirect",
        wire1.NOT_LEADER: "leader_changed",
        wire1.BACKPRESSURE: "overloaded",
    }
    return names.get(response.status, "")


def redirect(response: wire1.Response | wire2.Response) -> str:
    """The address that a redirect names."""
    if isinstance(response, wire2.Response):
        return str(msgpack.unpackb(response.payload)["address"])
    return response.payload.rstrip(b"\0").decode()


def ingested(request: Ingest, response: wire1.Response | wire2.Response) -> wire2.Result:
    """The counts of an answered ingest. v1 does not say how many were refused: the rest."""
    if isinstance(response, wire2.Response):
        return wire2.result(response.payload)
    stored, duplicates, last_offset = wire1.ingested(response.payload)
    return wire2.Result(stored, duplicates, 0, len(request.events) - stored - duplicates, last_offset, 0, ())


def usage(request: Query, response: wire1.Response | wire2.Response) -> None:
    """Fill in the answer's rows in the shape of protocol v2; what v1 does not carry is missing from them."""
    if isinstance(response, wire2.Response):
        body = msgpack.unpackb(response.payload)
        request.rows, request.index = body["rows"], body["index"]
        for row in request.rows:
            row["sum"] = int(row["sum"])
        if request.start is None:
            request.start, request.end = body["start"], body["end"]
        return
    if request.group_by:
        found = wire1.breakdown(response.payload)
        request.rows = [
            _row_v1(request, dict(zip(request.group_by, values, strict=True)), total) for values, total in found.items()
        ]
    else:
        request.rows = [_row_v1(request, {}, wire1.aggregate(response.payload))]


def _row_v1(request: Query, dimensions: dict[str, str], total: wire1.Aggregate) -> dict[str, Any]:
    unique = request.metric.aggregation == UNIQUE
    row: dict[str, Any] = {
        "dimensions": dimensions,
        "sum": total.sum,
        "max": _signed(total.max),
        "last": _signed(total.last),
        "last_timestamp": total.last_timestamp,
        "alert_bits": total.alerts,
    }
    row["unique" if unique else "count"] = total.count
    return row


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
