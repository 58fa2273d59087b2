"""Control requests of protocol v2 with bodies of any shape: each gets one answer, and none of them is the node's end."""

from __future__ import annotations

import struct
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.harness import JAN_1, Bench, v1_event, v1_ingest, v1_metric
from unimeter.client.protocol import Type, encode_request
from unimeter.kernels import protocol as wire

WHOLE = [-(2**63), -1, 0, 1, 5, JAN_1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1]
ODD: list[Any] = [
    *WHOLE,
    None,
    True,
    1.5,
    float("nan"),
    "",
    "x" * 300,
    "\0",
    "calls",
    "region",
    "current",
    b"",
    b"\xff",
]
ODD += [[], [[]], ["region"] * 17, [None], {}, {"region": []}, {"region": ["eu", "us"]}, {"": [""]}, {"region": 7}]
ODD += [[{"name": "t", "value": 2**63}], [{"name": "t", "value": 1, "recurring": 3}], msgpack.ExtType(5, b"x")]
RANGE = {"account": 7, "start": 0, "end": 2**62}
GOOD: list[tuple[int, dict[str, Any]]] = [
    (wire.V2_TYPE_HELLO, {"client": "x"}),
    (wire.V2_TYPE_QUERY, {**RANGE, "metric": "calls", "filters": {"region": ["eu"]}, "group_by": ["region"]}),
    (wire.V2_TYPE_QUERY, {"account": "ü", "metric": "calls", "period": "current"}),
    (wire.V2_TYPE_METRIC_CREATE, {"code": "new", "aggregation": "sum", "dimensions": ["a"], "thresholds": []}),
    (wire.V2_TYPE_METRIC_CREATE, {"code": "new", "aggregation": "count", "period": "day", "billing_day": 2}),
    (wire.V2_TYPE_METRIC_DELETE, {"code": "nothing"}),
    (wire.V2_TYPE_METRIC_LIST, {}),
    (wire.V2_TYPE_EVENTS_LIST, {"account": 7, "since": 0, "until": 2**62, "metric": "calls", "after": 0, "limit": 3}),
    (wire.V2_TYPE_ALERTS_LIST, {"account": 7, "since": 0, "limit": 3}),
    (wire.V2_TYPE_ALERTS_SUBSCRIBE, {"since": 0}),
    (wire.V2_TYPE_STATUS, {}),
]


@pytest.fixture(scope="module")
def bench() -> Bench:
    made = Bench()
    made.disk()
    made.link()
    made.ask(1, v1_metric("calls", 1, ("region",), (("big", 1),)))
    made.ask(1, v1_ingest(v1_event("calls", 7, 5, JAN_1, properties={"region": "eu"})))
    return made


def answers(bench: Bench, type_: int, payload: bytes) -> list[tuple[int, int]]:
    """(status, request id) of every frame that comes back, pushes left out."""
    bench.feed(1, encode_request(bench.kernels, Type(type_), 9, payload))
    bench.disk()
    sent, found = bench.take(1), []
    while sent:
        head = wire.V2_HEADER.unpack_from(sent)
        _, _, _, status, _, length, request_id, *_ = head
        if request_id:
            found.append((status, request_id))
        sent = sent[wire.V2_HEADER.size + length :]
    return found


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.sampled_from(GOOD), changes=st.dictionaries(st.integers(0, 9), st.sampled_from(ODD), max_size=3))
def test_a_body_with_any_values_gets_one_answer(
    bench: Bench, which: tuple[int, dict[str, Any]], changes: dict[int, Any]
) -> None:
    type_, body = which
    keys = [*body, "account", "limit"]
    body = {**body, **{keys[place % len(keys)]: value for place, value in changes.items()}}
    assert [number for _, number in answers(bench, type_, msgpack.packb(body))] == [9]
    assert bench.halted is None
    assert bench.closed == []


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.sampled_from(GOOD), place=st.integers(0, 200), noise=st.binary(max_size=12))
def test_a_body_that_was_damaged_gets_one_answer(
    bench: Bench, which: tuple[int, dict[str, Any]], place: int, noise: bytes
) -> None:
    packed = bytearray(msgpack.packb(which[1]))
    packed[place % len(packed) :] = noise
    assert [number for _, number in answers(bench, which[0], bytes(packed))] == [9]


@pytest.mark.parametrize("name", ["since", "until", "after", "limit"])
@pytest.mark.parametrize("value", WHOLE)
def test_no_bound_of_an_event_list_is_too_large_or_too_small(bench: Bench, name: str, value: int) -> None:
    body = {"account": 7, name: value}
    assert answers(bench, wire.V2_TYPE_EVENTS_LIST, msgpack.packb(body)) == [(wire.V2_STATUS_OK, 9)]


def test_the_status_of_the_answers_is_seen_by_these_tests(bench: Bench) -> None:
    assert answers(bench, wire.V2_TYPE_QUERY, struct.pack("<I", 0)) == [(wire.V2_STATUS_ERROR, 9)]
