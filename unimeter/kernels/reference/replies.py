"""Answers to ingest requests, as bytes.

What an answer says comes from three places: the request (what intake refused whole), its events of unknown
metrics, and, once applied, the summary and the verdicts of its batch. Without a summary (async, or nothing
to store) it says what was ordered. Of a stamped request last_offset is the stamp of its entry. A retry of a session's batch gets the first answer's counts; what they do
not explain of the events sent was refused back then for an unknown metric.

A part of a span (spans.py) adds to the span; the last part has the span's answer.

Refusals are sentences: v1 sends "message; fix" as text, v2 a msgpack map {code, message, fix}.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from unimeter.kernels import layout as lay
from unimeter.kernels.api import Summary
from unimeter.kernels.frame import Reply
from unimeter.kernels.reference.apply import ReferenceApplied
from unimeter.kernels.reference.checksum import crc32c
from unimeter.kernels.reference.frames import MAGIC_V2
from unimeter.kernels.reference.intake_request import V2_INGEST_TYPE, Request
from unimeter.kernels.reference.spans import Span

V1_OK, V1_ERROR, V1_UNKNOWN_METRIC = 0, 2, 3
V2_OK, V2_ERROR = 0, 1
_V1_HEADER = struct.Struct("<B3xII")
_V1_RESULT = struct.Struct("<IIQ")
_V2_HEADER = struct.Struct("<IBBBBIIIII")
_V2_RESULT = struct.Struct("<IIIIQII")
_EXCEPTION = struct.Struct("<II")


def _v1(request: Request, status: int, payload: bytes) -> bytes:
    return _V1_HEADER.pack(status, request.request_id, len(payload)) + payload


def _v2(request: Request, status: int, payload: bytes) -> bytes:
    head = _V2_HEADER.pack(
        MAGIC_V2, 2, V2_INGEST_TYPE, status, 0, len(payload), request.request_id, 0, 0, crc32c(payload)
    )
    return head + struct.pack("<I", crc32c(head)) + payload


# ---- refusals ----

_TOO_MANY = "events are more than this node takes in one request; nothing of them was stored"
_REFUSALS = {
    lay.UM_REQ_VALUE_RANGE: (
        "bad_request",
        "the value is above 9223372036854775807; nothing of this request was stored",
        "send whole numbers up to 2^63 - 1",
    ),
    lay.UM_REQ_TOO_MANY_EVENTS: ("too_large", _TOO_MANY, "send them in smaller batches"),
    lay.UM_REQ_MALFORMED: (
        "bad_request",
        "the request is malformed and the connection is closed; nothing of it was stored",
        "check its lengths, counts and texts against docs/protocol.md",
    ),
}
_BAD_ROW_V2 = (
    "bad_request",
    "this is no well-formed event; nothing of this request was stored",
    "check timestamp, operation, lengths, property order and padding against docs/protocol.md",
)
_BAD_ROW_V1 = (
    "bad_request",
    "the timestamp is below 0; nothing of this request was stored",
    "send nanoseconds since 1970 UTC, or 0 to have the event stamped on arrival",
)
_VERDICTS = {
    lay.UM_V_CARDINALITY: (
        "too many different dimension values for one account and metric",
        "send fewer distinct values, or drop the dimension",
    ),
    lay.UM_V_FULL: ("a table of this node is full", "give the node more memory (--memory-max)"),
}
_OTHER_VERDICT = ("it was not accepted", "use protocol v2 to learn the reason")


def _packed(text: str) -> bytes:
    """msgpack str 16"""
    data = text.encode()
    return b"\xda" + len(data).to_bytes(2, "big") + data


def _v2_error(request: Request, code: str, message: str, fix: str) -> bytes:
    payload = b"\x83"  # msgpack: a map of 3
    for key, value in (("code", code), ("message", message), ("fix", fix)):
        payload += bytes([0xA0 | len(key)]) + key.encode() + _packed(value)
    return _v2(request, V2_ERROR, payload)


def _v1_error(request: Request, message: str, fix: str) -> bytes:
    return _v1(request, V1_ERROR, f"{message}; {fix}".encode())


def _refused(request: Request) -> bytes:
    if request.status == lay.UM_REQ_BAD_ROW:
        code, message, fix = _BAD_ROW_V2 if request.v2 else _BAD_ROW_V1
    else:
        code, message, fix = _REFUSALS[request.status]
    if request.status == lay.UM_REQ_TOO_MANY_EVENTS:
        message = f"{request.events} {message}"
    elif request.at_event != lay.UM_NONE:
        message = f"event {request.at_event}: {message}"
    return _v2_error(request, code, message, fix) if request.v2 else _v1_error(request, message, fix)


# ---- answers ----


def _counts(request: Request, summary: Summary | None) -> Summary:
    """What the answer counts: of the batch, and the events that were left out."""
    if summary is None:
        last = request.first_seq + request.row_base + request.row_count - 1 if request.first_seq else 0
        last = request.first_seq if request.stamped else last
        return Summary(request.row_count, 0, 0, len(request.unknown), lay.UM_NONE, 0, 0, 0, last)
    if request.stamped:
        summary = summary._replace(last_offset=request.first_seq)
    if summary.session_verdict == lay.UM_V_DUPLICATE:
        explained = summary.stored + summary.duplicates + summary.conflicts
        if explained <= request.events:
            return summary._replace(refused=request.events - explained)
        return summary
    return summary._replace(refused=summary.refused + len(request.unknown))


def _events_of_rows(request: Request) -> list[int]:
    """Index as sent of each row of the batch."""
    unknown = dict.fromkeys(request.unknown)
    return [event for event in range(request.events) if event not in unknown][: request.row_count]


def _answer_v1(request: Request, summary: Summary | None, _: ReferenceApplied | None) -> bytes:
    counts = _counts(request, summary)
    if summary is not None and summary.refused and summary.first_verdict != lay.UM_V_UNKNOWN_METRIC:
        why, fix = _VERDICTS.get(summary.first_verdict, _OTHER_VERDICT)
        message = f"{counts.refused} of {request.events} events were refused, the others are stored"
        if summary.first_bad != lay.UM_NONE:  # of a span it is an event already
            whole = request.span is not None
            event = summary.first_bad if whole else _events_of_rows(request)[summary.first_bad]
            message += f"; event {event}"
        return _v1_error(request, f"{message}: {why}", fix)
    status = V1_UNKNOWN_METRIC if counts.refused else V1_OK
    return _v1(request, status, _V1_RESULT.pack(counts.stored, counts.duplicates, counts.last_offset))


def _exceptions(request: Request, applied: ReferenceApplied | None) -> list[tuple[int, int]]:
    """(event, verdict) of every event that was not stored, as far as it is known yet."""
    found = [(event, lay.UM_V_UNKNOWN_METRIC) for event in request.unknown]
    if applied is not None and request.batch != lay.UM_NONE:
        verdicts = applied.verdicts[request.row_base : request.row_base + request.row_count]
        events = _events_of_rows(request)
        found += [(event, verdict) for event, verdict in zip(events, verdicts, strict=True) if verdict]
    return sorted(found)


def _answer_v2(request: Request, summary: Summary | None, applied: ReferenceApplied | None) -> bytes:
    counts = _counts(request, summary)
    exceptions: list[tuple[int, int]] = []
    if request.wants_verdicts and not counts.session_verdict:
        exceptions = sorted(request.span.bad.items()) if request.span else _exceptions(request, applied)
    result = _V2_RESULT.pack(
        counts.stored,
        counts.duplicates,
        counts.conflicts,
        counts.refused,
        counts.last_offset,
        counts.session_verdict,
        len(exceptions),
    )
    return _v2(request, V2_OK, result + b"".join(_EXCEPTION.pack(*exception) for exception in exceptions))


def _answer_part(part: Request, span: Span, summary: Summary | None, applied: ReferenceApplied | None) -> bytes:
    """The answer of the whole request if this was the last part, else nothing."""
    span.add(part, summary, applied)
    data = b""
    if span.parts == 1 and not span.over:
        span.whole.first_seq = span.total.last_offset
        data = (_answer_v2 if span.whole.v2 else _answer_v1)(span.whole, span.total, None)
    span.let_go()
    return data


def answer(request: Request, applied: ReferenceApplied | None) -> bytes:
    """b"" for a part of a span whose time has not come, or is over."""
    if request.status != lay.UM_REQ_OK:
        return _refused(request)
    summary = applied.summary(request.batch) if applied is not None and request.batch != lay.UM_NONE else None
    if request.span is not None:
        return _answer_part(request, request.span, summary, applied)
    return _answer_v2(request, summary, applied) if request.v2 else _answer_v1(request, summary, applied)


def _failed(request: Request, v1: tuple[int, bytes], v2: tuple[int, bytes]) -> bytes:
    """b"" for a part of a span that is over."""
    span = request.span
    if span is not None:
        over, span.over = span.over, True
        span.let_go()
        if over:
            return b""
    return _v2(request, *v2) if request.v2 else _v1(request, *v1)


def _joined(answers: Iterable[tuple[int, bytes]]) -> list[Reply]:
    """Neighbours on one link are joined."""
    found: list[Reply] = []
    for link, data in answers:
        if not data:
            continue
        if found and found[-1].link == link:
            data = found.pop().data + data
        found.append(Reply(link, data))
    return found


def replies(requests: Iterable[Request], applied: ReferenceApplied | None) -> list[Reply]:
    """Answers in the order of the requests."""
    return _joined((request.link, answer(request, applied)) for request in requests)


def failures(requests: Iterable[Request], v1: tuple[int, bytes], v2: tuple[int, bytes]) -> list[Reply]:
    """The same (status, payload) for all of them."""
    return _joined((request.link, _failed(request, v1, v2)) for request in requests)
