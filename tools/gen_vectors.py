"""Generates the byte vectors of clients/vectors: frames in hex beside what they mean.

    python -m tools.gen_vectors [--check]

Every implementation of the protocol passes them: it encodes `fields`, `body` or `events` of a request into exactly
`hex` (msgpack bodies excepted: their maps may be written in another order or width), decodes the `hex` of a
response into what stands beside it, and refuses what is in malformed.json. Whole numbers beyond 2^53 are written
as decimal strings, because not every JSON reader keeps them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgpack

from tools.wire_frames import (
    V1Event,
    V2Event,
    v1_ingest,
    v1_request,
    v1_response,
    v2_frame,
    v2_ingest_payload,
)
from unimeter.kernels import load
from unimeter.kernels import protocol as p

DIRECTORY = Path(__file__).resolve().parent.parent / "clients" / "vectors"
K = load("reference")
NOON = 1_700_000_000_000_000_000
DAY = 86_400_000_000_000
EXACT = 2**53
Vector = dict[str, Any]


def plain(value: Any) -> Any:
    """JSON that keeps its meaning: bytes as text, large numbers as decimal strings."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -EXACT <= value <= EXACT else str(value)
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def vector(name: str, note: str, data: bytes, **meaning: Any) -> Vector:
    return {"name": name, "note": note, **plain(meaning), "hex": data.hex()}


def packed(layout: str, **fields: Any) -> bytes:
    """One fixed layout from its fields."""
    assert tuple(fields) == p.FIELDS[layout], f"{layout} has the fields {p.FIELDS[layout]}"
    struct = getattr(p, layout)
    data: bytes = struct.pack(*(value.encode() if isinstance(value, str) else value for value in fields.values()))
    return data


# ---- v1 ----


def v1_requests() -> list[Vector]:
    events = [
        V1Event(b"api_calls", 42, NOON, 1),
        V1Event(b"tokens", 2**64 - 1, 0, 2**63 - 1, 0, ((b"model", b"large"), (b"region", "zürich".encode()))),
        V1Event(b"seats", 42, NOON + 1, 7, 2),
    ]
    described = [dict(event._asdict(), properties=dict(event.properties)) for event in events]
    for event in described:
        del event["prop_count"]
    query: dict[str, Any] = {"account": 42, "start": NOON, "end": NOON + DAY, "code": "tokens"}
    put: dict[str, Any] = {"code": "tokens", "aggregation": 1, "recurring": 0, "filter_count": 1, "field": ""}
    condition = {"key": "model", "value_count": 2, "values": b"large".ljust(32, b"\0") + b"mini".ljust(32, b"\0")}
    shown = {"key": "model", "values": ["large", "mini"]}
    threshold = {"code": "soft", "value": 1000, "recurring": 1}
    period = {"period_type": 1, "billing_day": 15}
    requests: list[tuple[str, str, int, bytes, dict[str, Any]]] = [
        ("partition_map", "who leads which partition", p.V1_TYPE_PARTITION_MAP, b"", {}),
        (
            "metric_put",
            "with a dimension, a threshold and a period: all sections present",
            p.V1_TYPE_METRIC_PUT,
            packed("V1_METRIC_HEAD", **put)
            + packed("V1_FILTER", **condition)
            + packed("V1_THRESHOLD_HEAD", threshold_count=1)
            + packed("V1_THRESHOLD", **threshold)
            + packed("V1_PERIOD", **period),
            {"fields": put, "filters": [shown], "thresholds": [threshold], "period": period},
        ),
        (
            "metric_put_short",
            "thresholds and period may be left out",
            p.V1_TYPE_METRIC_PUT,
            packed("V1_METRIC_HEAD", **(put | {"filter_count": 0})),
            {"fields": put | {"filter_count": 0}, "filters": []},
        ),
        (
            "metric_delete",
            "",
            p.V1_TYPE_METRIC_DELETE,
            packed("V1_METRIC_DELETE", code="tokens"),
            {"fields": {"code": "tokens"}},
        ),
        ("metric_list", "", p.V1_TYPE_METRIC_LIST, b"", {}),
        (
            "usage_query",
            "one filter: any of two values",
            p.V1_TYPE_USAGE_QUERY,
            packed("V1_USAGE_QUERY", **query, count=1) + packed("V1_FILTER", **condition),
            {"fields": query | {"count": 1}, "filters": [shown]},
        ),
        (
            "usage_realtime",
            "the metric's current period",
            p.V1_TYPE_USAGE_REALTIME,
            packed("V1_USAGE_REALTIME", account=42, code="tokens"),
            {"fields": {"account": 42, "code": "tokens"}},
        ),
        (
            "usage_breakdown",
            "grouped by two dimensions",
            p.V1_TYPE_USAGE_BREAKDOWN,
            packed("V1_USAGE_QUERY", **query, count=2) + b"model".ljust(32, b"\0") + b"region".ljust(32, b"\0"),
            {"fields": query | {"count": 2}, "group_by": ["model", "region"]},
        ),
        (
            "events_list",
            "both ends inclusive",
            p.V1_TYPE_EVENTS_LIST,
            packed("V1_EVENTS_LIST", account=42, since=NOON, until=NOON + DAY),
            {"fields": {"account": 42, "since": NOON, "until": NOON + DAY}},
        ),
        (
            "alerts_list",
            "account 0: all accounts",
            p.V1_TYPE_ALERTS_LIST,
            packed("V1_ALERTS_LIST", account=0, since_offset=17),
            {"fields": {"account": 0, "since_offset": 17}},
        ),
        ("alert_enable", "", p.V1_TYPE_ALERT_ENABLE, b"", {}),
        ("cluster_status", "", p.V1_TYPE_CLUSTER_STATUS, b"", {}),
    ]
    found = [
        vector(
            "ingest_sync",
            "properties stand behind all events, in event order",
            v1_ingest(events, 7),
            type=1,
            request_id=7,
            events=described,
        ),
        vector("ingest_async_empty", "no events", v1_ingest([], 8, sync=False), type=0, request_id=8, events=[]),
    ]
    for number, (name, note, type, payload, meaning) in enumerate(requests, 10):
        found.append(vector(name, note, v1_request(type, payload, number), type=type, request_id=number, **meaning))
    return found


def v1_responses() -> list[Vector]:
    def answer(name: str, note: str, layout: str, **fields: Any) -> Vector:
        data = v1_response(p.V1_STATUS_OK, packed(layout, **fields), 9)
        return vector(name, note, data, status=0, request_id=9, layout=layout, fields=fields)

    alert = {"offset": 3, "account": 42, "code": "tokens", "threshold": "soft", "value": 1001, "triggered_at_ns": NOON}
    return [
        answer("ingest_result", "", "V1_INGEST_RESULT", stored=2, duplicates=1, last_offset=2**60),
        vector(
            "ingest_unknown_metric",
            "some events were of a metric that does not exist; the rest is stored",
            v1_response(
                p.V1_STATUS_UNKNOWN_METRIC, packed("V1_INGEST_RESULT", stored=1, duplicates=0, last_offset=9), 9
            ),
            status=3,
            request_id=9,
            layout="V1_INGEST_RESULT",
            fields={"stored": 1, "duplicates": 0, "last_offset": 9},
        ),
        vector(
            "error",
            "a sentence, UTF-8, neither NUL-terminated nor padded",
            v1_response(p.V1_STATUS_ERROR, b"event 0: the timestamp is below 0", 9),
            status=2,
            request_id=9,
            text="event 0: the timestamp is below 0",
        ),
        vector(
            "redirect",
            "24 bytes of ip:port, NUL-padded",
            v1_response(p.V1_STATUS_REDIRECT, b"10.0.0.7:7001".ljust(24, b"\0"), 9),
            status=4,
            request_id=9,
            text="10.0.0.7:7001",
        ),
        answer(
            "aggregate",
            "the sum is 128-bit two's complement: here -5",
            "V1_AGGREGATE",
            sum_lo=2**64 - 5,
            sum_hi=2**64 - 1,
            count=3,
            max=10,
            last_value=4,
            last_timestamp_ns=NOON,
            alert_bits=5,
        ),
        vector(
            "alert_push",
            "pushes have request id 0 and their type in the status byte",
            v1_response(
                p.V1_TYPE_ALERT_PUSH, packed("V1_ALERT_PUSH", record=packed("V1_ALERT_RECORD", **alert), node_id=1), 0
            ),
            status=p.V1_TYPE_ALERT_PUSH,
            request_id=0,
            fields=alert | {"node_id": 1},
        ),
    ]


# ---- v2 ----


def v2_requests() -> list[Vector]:
    codes = [b"api_calls", b"tokens"]
    events = [
        V2Event(0, 42, NOON, 1),
        V2Event(1, b"acme", 0, -5, 0, b"order-1", ((b"model", b"large"), (b"region", b"eu"))),
        V2Event(1, 2**64 - 1, NOON, 2**63 - 1, 1, b"", ((b"k", b""),)),
    ]
    described = [dict(event._asdict(), properties=dict(event.properties)) for event in events]
    session = (0x0123456789ABCDEF, 0xFEDCBA9876543210)

    def batch(
        name: str, note: str, flags: int, items: list[V2Event], shown: list[Any], group_hint: int = 0, **head: Any
    ) -> Vector:
        payload = v2_ingest_payload(codes if items else [], items, **head)
        frame = v2_frame(K, p.V2_TYPE_INGEST, payload, 5, flags, group_hint=group_hint)
        meaning = {"session": [0, 0], "number": 0, "settled_below": 0, "batch_flags": 0} | head
        if group_hint:
            meaning["group_hint"] = group_hint
        dictionary = codes if items else []
        return vector(
            name, note, frame, type=2, flags=flags, request_id=5, **meaning, dictionary=dictionary, events=shown
        )

    found = [
        batch("ingest", "no session; `metric` is an index into the dictionary", 0, events, described),
        batch(
            "ingest_session_async_verdicts",
            "the 12th batch of a session; all below 10 are settled",
            3,
            events,
            described,
            session=session,
            number=12,
            settled_below=10,
        ),
        batch(
            "open_session",
            "a batch without number and events opens the session",
            0,
            [],
            [],
            session=session,
            batch_flags=p.V2_BATCH_FLAG_OPEN_SESSION,
        ),
        batch(
            "open_session_in_group",
            "the group hint is 3: the session is opened in group 2 only",
            0,
            [],
            [],
            3,
            session=session,
            batch_flags=p.V2_BATCH_FLAG_OPEN_SESSION,
        ),
    ]
    bodies: list[tuple[str, int, dict[str, Any]]] = [
        ("hello", p.V2_TYPE_HELLO, {"client": "vectors/1"}),
        (
            "metric_create",
            p.V2_TYPE_METRIC_CREATE,
            {
                "code": "tokens",
                "aggregation": "sum",
                "dimensions": ["model", "region"],
                "thresholds": [{"name": "soft", "value": 1000, "recurring": True}],
                "period": "month",
                "billing_day": 15,
            },
        ),
        ("metric_delete", p.V2_TYPE_METRIC_DELETE, {"code": "tokens"}),
        ("metric_list", p.V2_TYPE_METRIC_LIST, {}),
        (
            "query",
            p.V2_TYPE_QUERY,
            {"account": "acme", "metric": "tokens", "start": NOON, "end": NOON + DAY, "filters": {"model": ["large"]},
             "group_by": ["region"]},
        ),
        ("query_current_period", p.V2_TYPE_QUERY, {"account": 42, "metric": "tokens", "period": "current"}),
        ("events_list", p.V2_TYPE_EVENTS_LIST, {"account": 42, "since": 0, "until": NOON, "after": 7, "limit": 100}),
        ("alerts_list", p.V2_TYPE_ALERTS_LIST, {"since": 0, "limit": 10}),
        ("alerts_subscribe", p.V2_TYPE_ALERTS_SUBSCRIBE, {"since": 3}),
        ("alerts_list_of_a_group", p.V2_TYPE_ALERTS_LIST, {"group": 2, "since": 7, "limit": 10}),
        ("alerts_subscribe_groups", p.V2_TYPE_ALERTS_SUBSCRIBE, {"cursors": [3, 0, 12], "groups": [0, 2]}),
        ("topology", p.V2_TYPE_TOPOLOGY, {"subscribe": True}),
        ("cluster", p.V2_TYPE_CLUSTER, {"op": "transfer", "group": 2, "to": 3}),
        ("status", p.V2_TYPE_STATUS, {}),
    ]  # fmt: skip
    for name, type, body in bodies:
        frame = v2_frame(K, type, msgpack.packb(body), 6, deadline_ms=250)
        found.append(vector(name, "", frame, type=type, flags=0, request_id=6, deadline_ms=250, body=body))
    return found


def v2_responses() -> list[Vector]:
    result = {"stored": 2, "duplicates": 1, "conflicts": 1, "refused": 1, "last_offset": 2**60, "session_verdict": 0}
    exceptions = [(1, p.VERDICT_DUPLICATE), (3, p.VERDICT_UNKNOWN_METRIC), (4, p.VERDICT_CONFLICT)]
    payload = packed("V2_INGEST_RESULT", **result, exception_count=3)
    payload += b"".join(packed("V2_EXCEPTION", index=index, verdict=verdict) for index, verdict in exceptions)
    error = {"code": "unknown_metric", "message": "there is no metric 'x'", "fix": "create it first"}
    row = {"dimensions": {"region": "eu"}, "count": 2, "sum": str(2**70), "min": -5, "max": 9, "last": 9,
           "last_timestamp": NOON, "unique": None, "alerts": ["soft"]}  # fmt: skip
    usage = {"start": NOON, "end": NOON + DAY, "group": 0, "index": 12, "linearizable": True, "rows": [row]}
    topology = {"epoch": 9, "groups": 3, "partitions": 256, "leaders": ["10.0.0.7:7001", "", "10.0.0.8:7001"],
                "nodes": [{"id": 1, "address": "10.0.0.7:7001"}, {"id": 2, "address": "10.0.0.8:7001"}]}  # fmt: skip
    hello = {"server": "unimeter/0.2.0", "node_id": 1, "cluster": "0123456789abcdef", **topology, "features": ["sessions"],
             "batch_events_max": 65536, "frame_bytes_max": 8388608, "session_window": 64}  # fmt: skip
    alert = {"number": 1, "group": 2, "account": "acme", "metric": "tokens", "threshold": "soft", "value": 1001,
             "triggered_at": NOON, "period_start": NOON - DAY}  # fmt: skip

    def answer(name: str, note: str, type: int, status: int, request_id: int, body: dict[str, Any]) -> Vector:
        frame = v2_frame(K, type, msgpack.packb(body), request_id, status=status)
        return vector(name, note, frame, type=type, status=status, request_id=request_id, body=body)

    return [
        vector(
            "ingest_result",
            "exceptions only when asked for",
            v2_frame(K, p.V2_TYPE_INGEST, payload, 5),
            type=2,
            status=0,
            request_id=5,
            result=result,
            exceptions=exceptions,
        ),
        answer("error", "", p.V2_TYPE_QUERY, p.V2_STATUS_ERROR, 6, error),
        answer(
            "redirect",
            "that node leads the group",
            p.V2_TYPE_INGEST,
            p.V2_STATUS_REDIRECT,
            6,
            {"address": "10.0.0.7:7001", "group": 2},
        ),
        answer(
            "no_leader",
            "send the same again shortly, and ask who leads meanwhile",
            p.V2_TYPE_QUERY,
            p.V2_STATUS_BACKPRESSURE,
            6,
            {"code": "no_leader", "message": "group 1 has no leader now", "fix": "send the same again shortly"},
        ),
        answer("hello", "group 1 has no leader now", p.V2_TYPE_HELLO, p.V2_STATUS_OK, 6, hello),
        answer("topology", "", p.V2_TYPE_TOPOLOGY, p.V2_STATUS_OK, 6, topology),
        answer("topology_push", "request id 0", p.V2_TYPE_TOPOLOGY_PUSH, p.V2_STATUS_OK, 0, topology),
        answer(
            "backpressure",
            "send the same again later",
            p.V2_TYPE_INGEST,
            p.V2_STATUS_BACKPRESSURE,
            6,
            {"code": "overloaded", "message": "too much is waiting", "fix": "send again later"},
        ),
        answer("query", "a sum beyond 64 bits is a decimal text", p.V2_TYPE_QUERY, p.V2_STATUS_OK, 6, usage),
        answer("alert_push", "request id 0", p.V2_TYPE_ALERT_PUSH, p.V2_STATUS_OK, 0, alert),
    ]


def malformed() -> list[Vector]:
    good = v2_frame(K, p.V2_TYPE_STATUS, b"\x80", 77)

    def frame(name: str, note: str, data: bytes, **meaning: Any) -> Vector:
        return vector(name, note, data, **meaning)

    return [
        frame("bad_magic", "an HTTP request", b"GET / HTTP/1.1\r\n\r\n", scan_error=1),
        frame("v1_bad_version", "", p.V1_REQUEST_HEADER.pack(p.V1_MAGIC, 2, 0, 0, 0, 77), scan_error=2),
        frame("v1_too_large", "4 GiB", p.V1_REQUEST_HEADER.pack(p.V1_MAGIC, 1, 0, 0, 2**32 - 1, 77), scan_error=3),
        frame("v2_header_bit_flipped", "byte 12", good[:12] + bytes([good[12] ^ 1]) + good[13:], scan_error=4),
        frame("v2_payload_bit_flipped", "", good[:-1] + bytes([good[-1] ^ 1]), scan_error=4),
        frame("v1_ingest_count", "3 events said, none sent", v1_request(1, p.V1_INGEST_HEAD.pack(3, 0), 77)),
        frame("v1_ingest_trailing", "one byte too many", v1_request(1, p.V1_INGEST_HEAD.pack(0, 0) + b"\0", 77)),
        frame("v1_ingest_operation", "operation 3", v1_ingest([V1Event(b"tokens", 1, 0, 1, 3)], 77)),
        frame(
            "v1_ingest_key_twice",
            "one event with the same property key twice",
            v1_ingest([V1Event(b"tokens", 1, 0, 1, 0, ((b"k", b"1"), (b"k", b"2")))], 77),
        ),
        frame(
            "v2_ingest_number_without_session",
            "",
            v2_frame(K, p.V2_TYPE_INGEST, v2_ingest_payload([], [], number=1), 77),
        ),
        frame("v2_ingest_cut", "47 bytes", v2_frame(K, p.V2_TYPE_INGEST, bytes(47), 77)),
    ]


def checksums() -> list[Vector]:
    texts = [b"", b"a", b"123456789", bytes(32), bytes(range(256))]
    return [
        {
            "name": f"{len(text)} bytes",
            "hex": text.hex(),
            "crc32c": f"{K.crc32c(text):08x}",
            "hash64": f"{K.hash64(text):016x}",
        }
        for text in texts
    ]


def generated() -> dict[Path, str]:
    files = {
        "v1_requests": ("requests a v1 client sends", v1_requests()),
        "v1_responses": ("answers and pushes a v1 client gets", v1_responses()),
        "v2_requests": ("requests a v2 client sends", v2_requests()),
        "v2_responses": ("answers and pushes a v2 client gets", v2_responses()),
        "malformed": (
            "frames that a node refuses and hangs up on; scan_error: refused before they are frames",
            malformed(),
        ),
        "checksums": ("crc32c and hash64 (seed 0) as hexadecimal digits", checksums()),
    }
    return {
        DIRECTORY / f"{name}.json": json.dumps({"about": about, "vectors": vectors}, indent=1, ensure_ascii=False)
        + "\n"
        for name, (about, vectors) in files.items()
    }


def main() -> int:
    files = generated()
    stale = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    for path in stale:
        print(f"{path.name} {'is stale: run python -m tools.gen_vectors' if '--check' in sys.argv else 'written'}")
        if "--check" not in sys.argv:
            path.write_text(files[path])
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
