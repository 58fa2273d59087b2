"""The protocol is written down once: what is generated from it is current, and the vectors mean what they say."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import msgpack
import pytest

from tools import gen_protocol, gen_vectors
from unimeter.kernels import layout as lay
from unimeter.kernels import load
from unimeter.kernels import protocol as p

ROOT = Path(__file__).resolve().parent.parent
K = load("native")
CODES = ("api_calls", "tokens", "seats")
CATALOG = K.catalog([lay.pack_metric(n, code.encode(), 1) for n, code in enumerate(CODES)])
Vector = dict[str, Any]


def test_generated_constants_are_current() -> None:
    for path, text in gen_protocol.generated().items():
        assert path.read_text() == text, f"{path.name} is stale: run python tools/gen_protocol.py"


def test_vectors_are_current() -> None:
    for path, text in gen_vectors.generated().items():
        assert path.read_text() == text, f"{path.name} is stale: run python -m tools.gen_vectors"


def test_limits_of_protocol_and_layout_agree() -> None:
    both = [name for name in vars(lay) if name.startswith("UM_") and name[3:] in vars(p)]
    assert len(both) >= 10
    for name in both:
        assert getattr(lay, name) == getattr(p, name[3:]), name


def test_documentation_names_every_type_status_error_and_field() -> None:
    text = (ROOT / "docs" / "protocol.md").read_text().lower()
    spec = tomllib.loads(gen_protocol.SOURCE.read_text())
    words = set(spec["errors"]) | set(spec["enums"]["verdict"])
    for version in ("v1", "v2"):
        words |= set(spec[version]["types"]) | set(spec[version]["statuses"])
        for body in [*spec[version]["layouts"].values(), *spec[version].get("bodies", {}).values()]:
            for field in [*body.get("fields", []), *body.get("request", []), *body.get("response", [])]:
                words.add(field.split()[0])
    missing = sorted(word for word in words if not re.search(rf"\b{re.escape(word)}\b", text))
    assert missing == []


# ---- vectors ----


def vectors(name: str) -> list[Vector]:
    found: list[Vector] = json.loads((ROOT / "clients" / "vectors" / f"{name}.json").read_text())["vectors"]
    assert len({vector["name"] for vector in found}) == len(found)
    return found


def each(*names: str) -> pytest.MarkDecorator:
    cases = [pytest.param(vector, id=f"{name}-{vector['name']}") for name in names for vector in vectors(name)]
    return pytest.mark.parametrize("vector", cases)


def number(value: int | str) -> int:
    return int(value)


def fields_of(layout: str, data: bytes) -> dict[str, Any]:
    values = getattr(p, layout).unpack_from(data)
    texts = (value.rstrip(b"\0").decode() if isinstance(value, bytes) else value for value in values)
    return dict(zip(p.FIELDS[layout], texts, strict=True))


def same(shown: dict[str, Any], read: dict[str, Any]) -> bool:
    return {key: str(value) for key, value in shown.items()} == {key: str(read[key]) for key in shown}


LAYOUT_OF_REQUEST = {
    p.V1_TYPE_METRIC_PUT: "V1_METRIC_HEAD",
    p.V1_TYPE_METRIC_DELETE: "V1_METRIC_DELETE",
    p.V1_TYPE_USAGE_QUERY: "V1_USAGE_QUERY",
    p.V1_TYPE_USAGE_REALTIME: "V1_USAGE_REALTIME",
    p.V1_TYPE_USAGE_BREAKDOWN: "V1_USAGE_QUERY",
    p.V1_TYPE_EVENTS_LIST: "V1_EVENTS_LIST",
    p.V1_TYPE_ALERTS_LIST: "V1_ALERTS_LIST",
}


@each("v1_requests", "v2_requests")
def test_request_vector_reads_as_it_says(vector: Vector) -> None:
    data = bytes.fromhex(vector["hex"])
    table = K.frame_scan(data, 1 << 20)
    assert (len(table), table.consumed) == (1, len(data))
    frame = table[0]
    assert (frame.type, frame.request_id) == (vector["type"], vector["request_id"])
    payload = data[frame.payload_off :]
    if frame.protocol == 2:
        assert frame.flags == vector["flags"]
        assert frame.deadline_ms == vector.get("deadline_ms", 0)
    if "body" in vector:
        assert gen_vectors.plain(msgpack.unpackb(payload)) == vector["body"]
    if "fields" in vector:
        assert same(vector["fields"], fields_of(LAYOUT_OF_REQUEST[frame.type], payload))
    if "events" in vector:
        assert rows_of(data) == rows_said(vector)


def rows_of(data: bytes) -> bytes:
    intake = K.intake(0, 1 << 20, 1000)
    stop, _ = intake.take(CATALOG, data, K.frame_scan(data, 1 << 20), 0, 1)
    assert stop == lay.UM_STOP_END
    return bytes(intake.seal(0, 1, 1, 1, 1))[lay.ENTRY.size :]


def rows_said(vector: Vector) -> bytes:
    """The entry body that the vector's events and session describe."""
    rows = []
    for event in vector["events"]:
        code = vector["dictionary"][event["metric"]] if "dictionary" in vector else event["code"]
        text = isinstance(event["account"], str) and not event["account"].isdecimal()
        rows.append(
            lay.encode_row(
                event["account"].encode() if text else number(event["account"]),
                number(event["timestamp_ns"]),
                number(event["value"]),
                CODES.index(code),
                event["operation"],
                event.get("id", "").encode(),
                [(key.encode(), value.encode()) for key, value in event["properties"].items()],
            )
        )
    high, low = (number(half) for half in vector.get("session", (0, 0)))
    flags = lay.UM_BATCH_OPEN_SESSION * vector["batch_flags"] if "session" in vector else lay.UM_BATCH_V1
    if not rows and (high, low) == (0, 0):
        return b""
    body = b"".join(rows)
    head = lay.BatchHead(
        high, low, vector.get("number", 0), vector.get("settled_below", 0), len(rows), len(body), flags
    )
    return lay.BATCH.pack(*head) + body


@each("v1_responses", "v2_responses")
def test_response_vector_reads_as_it_says(vector: Vector) -> None:
    data = bytes.fromhex(vector["hex"])
    protocol = 2 if data.startswith(p.V2_MAGIC.to_bytes(4, "little")) else 1
    table = K.response_scan(data, protocol, 1 << 20)
    assert (len(table), table.consumed) == (1, len(data))
    frame = table[0]
    payload = data[frame.payload_off :]
    assert (frame.status, frame.request_id) == (vector["status"], vector["request_id"])
    if "text" in vector:
        assert payload.rstrip(b"\0").decode() == vector["text"]
    if "layout" in vector:
        assert same(vector["fields"], fields_of(vector["layout"], payload))
    if vector["name"] == "alert_push" and protocol == 1:
        assert same(vector["fields"], fields_of("V1_ALERT_RECORD", payload) | {"node_id": payload[136]})
    if "body" in vector:
        assert gen_vectors.plain(msgpack.unpackb(payload)) == vector["body"]
    if "result" in vector:
        assert same(vector["result"], fields_of("V2_INGEST_RESULT", payload))
        pairs = [list(pair) for pair in p.V2_EXCEPTION.iter_unpack(payload[p.V2_INGEST_RESULT.size :])]
        assert pairs == vector["exceptions"]


@each("malformed")
def test_malformed_vector_is_refused_and_ends_the_link(vector: Vector) -> None:
    data = bytes.fromhex(vector["hex"])
    table = K.frame_scan(data, 1 << 20)
    assert table.error == vector.get("scan_error", 0)
    if table.error == 0:
        intake = K.intake(0, 1 << 20, 1000)
        assert intake.take(CATALOG, data, table, 0, 1) == (lay.UM_STOP_MALFORMED, 1)
        assert intake.row_count == 0


@each("checksums")
def test_checksum_vector_holds(vector: Vector) -> None:
    data = bytes.fromhex(vector["hex"])
    assert (f"{K.crc32c(data):08x}", f"{K.hash64(data):016x}") == (vector["crc32c"], vector["hash64"])
